"""Integrations in the store: keys lie there sealed, with a keyed hash that keeps them unique in the whole store."""

from __future__ import annotations

import asyncio
from enum import Enum

from server.model.integrations import Integration, IntegrationType
from server.storage.database import Query, Row, Store
from server.storage.vault import Vault

_COLUMNS = "client_id, type, numbers, sealed_key"
_ROWS_PER_TURN = 256


class Added(Enum):
    """What became of an `insert`."""

    DONE = "done"
    KNOWN = "the client id is there already"
    NO_DOMAIN = "there is no such domain"


async def insert(query: Query, vault: Vault, domain: str, integration: Integration, now: str) -> Added:
    """Add an integration to a domain."""
    if not await query("SELECT 1 FROM domains WHERE name = ?", domain):
        return Added.NO_DOMAIN
    rows = await query(
        """INSERT INTO integrations (domain, client_id, type, numbers, sealed_key, key_hash, added_at, changed_at)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (domain, client_id) DO NOTHING RETURNING client_id""",
        domain,
        integration.client_id,
        integration.type.value,
        ",".join(integration.numbers),
        vault.seal(domain, integration.client_id, integration.key),
        vault.lookup_hash(integration.key),
        now,
        now,
    )
    return Added.DONE if rows else Added.KNOWN


async def find(query: Query, vault: Vault, domain: str, client_id: str) -> Integration | None:
    """Return one integration inside the caller's transaction, None when there is no such client."""
    rows = await query(
        f"SELECT {_COLUMNS} FROM integrations WHERE domain = ? AND client_id = ?",
        domain,
        client_id,
    )
    return _integration(vault, domain, rows[0]) if rows else None


async def update(query: Query, vault: Vault, domain: str, integration: Integration, now: str) -> None:
    """Store an integration that `find` returned, as it was changed; its former key is dead with the commit."""
    await query(
        """UPDATE integrations SET type = ?, numbers = ?, sealed_key = ?, key_hash = ?, changed_at = ?
           WHERE domain = ? AND client_id = ?""",
        integration.type.value,
        ",".join(integration.numbers),
        vault.seal(domain, integration.client_id, integration.key),
        vault.lookup_hash(integration.key),
        now,
        domain,
        integration.client_id,
    )


async def delete(query: Query, domain: str, client_id: str) -> bool:
    """Remove an integration; False when there is no such client."""
    rows = await query(
        "DELETE FROM integrations WHERE domain = ? AND client_id = ? RETURNING client_id", domain, client_id
    )
    return bool(rows)


async def of_domain(store: Store, domain: str) -> list[Integration] | None:
    """Return the integrations of a domain, sorted by client id in code points; None when there is no such domain."""
    rows = await store.read(
        """SELECT i.client_id, i.type, i.numbers, i.sealed_key
           FROM domains d LEFT JOIN integrations i ON i.domain = d.name WHERE d.name = ? ORDER BY i.client_id""",
        domain,
    )
    if not rows:
        return None
    found: list[Integration] = []
    for count, row in enumerate(rows, 1):
        if row[0] is not None:
            found.append(_integration(store.vault, domain, row))
        if count % _ROWS_PER_TURN == 0:
            await asyncio.sleep(0)  # ten thousand keys to open must not hold the other sessions up
    return found


async def client_ids(store: Store, domain: str, beginning: str, most: int) -> list[str]:
    """Return at most `most` client ids of a domain that begin so, sorted."""
    rows = await store.read(
        """SELECT client_id FROM integrations WHERE domain = ? AND client_id >= ? AND client_id < ?
           ORDER BY client_id LIMIT ?""",
        domain,
        beginning,
        beginning + "\U0010ffff",
        most,
    )
    return [client_id for (client_id,) in rows]


def _integration(vault: Vault, domain: str, row: Row) -> Integration:
    client_id, kind, numbers, sealed = row
    return Integration(
        client_id,
        IntegrationType(kind),
        vault.open(domain, client_id, sealed),
        tuple(numbers.split(",")) if numbers else (),
    )
