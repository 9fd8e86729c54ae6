"""Integrations in the store: each API key is encrypted, with a keyed hash that keeps it unique.

Every function takes a domain's name in any case; rows are keyed by the folded name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from server.cooperative import MANY_ROWS, Share
from server.model.domains import folded
from server.model.integrations import Integration, IntegrationType
from server.storage import domains
from server.storage.engine import Read
from server.storage.store import Store, first_and_last
from server.storage.vault import Vault
from server.storage.writer import Query

#: Rows per statement. A larger statement would block the store's thread, and its other callers, for longer.
_ROWS_PER_STATEMENT = 100
#: A limit that no table reaches; PostgreSQL does not accept SQLite's -1.
_ALL_ROWS = 2**62
#: Indexes in a sealed row.
_CLIENT_ID, _KEY_HASH = 1, 5
_TYPES = {each.value: each for each in IntegrationType}

_log = logging.getLogger("ecss-console.storage")


class Added(Enum):
    """The result of an `insert`."""

    DONE = "done"
    KNOWN = "the client id is there already"
    NO_DOMAIN = "there is no such domain"


class Keyed(NamedTuple):
    """An integration with its key in clear; `key` is None when the stored key cannot be decrypted.

    A tuple is fast to make, and a domain may have ten thousand.
    """

    integration: Integration
    key: str | None


#: A stored integration: client id, type (see `stored_type`), numbers (see `stored_numbers`), key (see `opened`).
Sealed = tuple[str, str, str, str]


async def insert(query: Query, vault: Vault, domain: str, integration: Integration, key: str, now: str) -> Added:
    """Add an integration with its key to a domain, in one hop to the store's thread if nothing conflicts."""
    rows = await query(
        """INSERT INTO integrations (domain, client_id, type, numbers, sealed_key, key_hash, added_at, changed_at)
           SELECT name, ?, ?, ?, ?, ?, ?, ? FROM domains WHERE name = ?
           ON CONFLICT (domain, client_id) DO NOTHING RETURNING client_id""",
        integration.client_id,
        integration.type.value,
        ",".join(integration.numbers),
        vault.seal(domain, integration.client_id, key),
        vault.lookup_hash(key),
        now,
        now,
        folded(domain),
    )
    if rows:
        return Added.DONE
    return Added.KNOWN if await domains.exists(query, domain) else Added.NO_DOMAIN


@dataclass(frozen=True, slots=True)
class Conflict:
    """Why an integration cannot be added: its client id exists, or `owner` (domain, client) has its key."""

    client_id: str
    owner: tuple[str, str] | None


def sealed_row(vault: Vault, domain: str, keyed: Keyed, now: str) -> tuple[str, ...]:
    """Return the row for `insert_rows`, with the key sealed. Call it before the transaction begins.

    The integration must have its key.
    """
    integration, key = keyed.integration, keyed.key or ""
    numbers = ",".join(integration.numbers)
    sealed, found_by = vault.seal(domain, integration.client_id, key), vault.lookup_hash(key)
    return (folded(domain), integration.client_id, integration.type.value, numbers, sealed, found_by, now, now)


async def conflicts(read: Read, domain: str, rows: Sequence[tuple[str, ...]], most: int) -> tuple[list[Conflict], bool]:
    """Return the conflicts of sealed rows with stored ones, by client id, and whether there are more.

    The search stops at about `most` conflicts and reads no more rows.
    """
    found: list[Conflict] = []
    for some in _batches(rows):
        marks = ", ".join("?" * len(some))
        known = await read(
            f"SELECT client_id FROM integrations WHERE domain = ? AND client_id IN ({marks})",
            folded(domain),
            *(row[_CLIENT_ID] for row in some),
        )
        owners = await read(
            "SELECT i.key_hash, d.declared_as, i.client_id FROM integrations i JOIN domains d ON d.name = i.domain "
            f"WHERE i.key_hash IN ({marks})",
            *(row[_KEY_HASH] for row in some),
        )
        clients = {row[_KEY_HASH]: row[_CLIENT_ID] for row in some}
        found += [Conflict(client_id, None) for (client_id,) in known]
        found += [Conflict(clients[found_by], (owner, client_id)) for found_by, owner, client_id in owners]
        if len(found) > most:
            break
    many = len(found) > most
    del found[most:]
    return sorted(found, key=lambda conflict: (conflict.client_id, conflict.owner is not None)), many


async def insert_rows(query: Query, rows: Sequence[tuple[str, ...]], show: Callable[[int], None]) -> None:
    """Add sealed rows that have no conflict; call `show` with the number of added rows."""
    done = 0
    for some in _batches(rows):
        marks = ", ".join([f"({', '.join('?' * len(some[0]))})"] * len(some))
        await query(
            "INSERT INTO integrations (domain, client_id, type, numbers, sealed_key, key_hash, added_at, changed_at) "
            f"VALUES {marks}",
            *(value for row in some for value in row),
        )
        done += len(some)
        show(done)


def _batches(rows: Sequence[tuple[str, ...]]) -> Iterator[Sequence[tuple[str, ...]]]:
    for start in range(0, len(rows), _ROWS_PER_STATEMENT):
        yield rows[start : start + _ROWS_PER_STATEMENT]


async def find(query: Query, domain: str, client_id: str) -> Integration | None:
    """Return one integration inside the caller's transaction; None when the client does not exist."""
    rows = await query(
        "SELECT client_id, type, numbers FROM integrations WHERE domain = ? AND client_id = ?",
        folded(domain),
        client_id,
    )
    return _integration(*rows[0]) if rows else None


async def set_properties(query: Query, domain: str, integration: Integration, now: str) -> None:
    """Store the type and numbers of an integration that `find` returned."""
    await query(
        "UPDATE integrations SET type = ?, numbers = ?, changed_at = ? WHERE domain = ? AND client_id = ?",
        integration.type.value,
        ",".join(integration.numbers),
        now,
        folded(domain),
        integration.client_id,
    )


async def replace_key(query: Query, vault: Vault, domain: str, client_id: str, key: str, now: str) -> bool:
    """Replace the key of an integration. The former key stops working with the commit.

    It need not be readable. Returns False when the client does not exist.
    """
    rows = await query(
        """UPDATE integrations SET sealed_key = ?, key_hash = ?, changed_at = ?
           WHERE domain = ? AND client_id = ? RETURNING client_id""",
        vault.seal(domain, client_id, key),
        vault.lookup_hash(key),
        now,
        folded(domain),
        client_id,
    )
    return bool(rows)


async def delete(query: Query, domain: str, client_id: str) -> bool:
    """Remove an integration; False when the client does not exist."""
    rows = await query(
        "DELETE FROM integrations WHERE domain = ? AND client_id = ? RETURNING client_id", folded(domain), client_id
    )
    return bool(rows)


async def sealed_of_domain(store: Store, domain: str, share: Share) -> list[Sealed] | None:
    """Return the integrations of a domain, sorted by client id in code points; None without the domain."""
    sql = "SELECT client_id, type, numbers, sealed_key FROM integrations WHERE domain = ? ORDER BY client_id LIMIT ?"
    name = folded(domain)
    async with share.read():
        rows = await store.read(sql, name, MANY_ROWS)
    if len(rows) == MANY_ROWS:
        del rows
        await share.keep_many(MANY_ROWS)
        async with share.read():
            rows = await store.read(sql, name, _ALL_ROWS)
    return rows if rows or await domains.exists(store.read, domain) else None


async def of_domain(store: Store, domain: str, share: Share, show: Callable[[int, int], None]) -> list[Keyed] | None:
    """Return the integrations with their keys in clear; call `show` with the finished and total numbers."""
    found = await sealed_of_domain(store, domain, share)
    if found is None:
        return None
    return [
        Keyed(_integration(client_id, kind, numbers), opened(store.vault, domain, client_id, sealed))
        async for client_id, kind, numbers, sealed in share.in_turns(found, lambda done: show(done, len(found)))
    ]


async def one(store: Store, domain: str, client_id: str) -> Keyed | None:
    """Return one integration with its key; None when it does not exist."""
    rows = await store.read(
        "SELECT type, numbers, sealed_key FROM integrations WHERE domain = ? AND client_id = ?",
        folded(domain),
        client_id,
    )
    for kind, numbers, sealed in rows:
        return Keyed(_integration(client_id, kind, numbers), opened(store.vault, domain, client_id, sealed))
    return None


async def client_ids(store: Store, domain: str, beginning: str, most: int) -> list[str]:
    """Return the first client ids with this beginning, and the last: see `first_and_last`."""
    ids = "client_id FROM integrations WHERE domain = ?"
    return await first_and_last(store, ids, (folded(domain),), "client_id", beginning, most)


def _integration(client_id: str, kind: str, numbers: str) -> Integration:
    return Integration(client_id, stored_type(kind), stored_numbers(numbers))


def stored_type(text: str) -> IntegrationType:
    """Return the type of a stored value; raises KeyError for an unknown one."""
    return _TYPES[text]


def stored_numbers(text: str) -> tuple[str, ...]:
    """Return the numbers of a service from their stored text."""
    return tuple(text.split(",")) if text else ()


def opened(vault: Vault, domain: str, client_id: str, sealed: str) -> str | None:
    """Return a sealed key in clear; log and return None if damaged, so that it does not hide other rows."""
    try:
        return vault.open(domain, client_id, sealed)
    except ValueError as error:
        _log.error("%s", error)
        return None
