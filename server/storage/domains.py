"""Domains in the store."""

from __future__ import annotations

from server.model.domains import Domain
from server.storage.database import Read, Store, first_and_last
from server.storage.writer import Query


async def insert(query: Query, name: str, now: str) -> bool:
    """Add a domain; False when it was there already."""
    rows = await query(
        "INSERT INTO domains (name, declared_at) VALUES (?, ?) ON CONFLICT DO NOTHING RETURNING name", name, now
    )
    return bool(rows)


async def delete(query: Query, name: str) -> list[str] | None:
    """Remove a domain with its integrations; return their client ids, sorted, None when there is no such domain."""
    clients = await query("SELECT client_id FROM integrations WHERE domain = ? ORDER BY client_id", name)
    rows = await query("DELETE FROM domains WHERE name = ? RETURNING name", name)
    return [client_id for (client_id,) in clients] if rows else None


async def find(store: Store, name: str) -> Domain | None:
    """Return the domain as `domain/list` shows it, None when there is no such domain."""
    rows = await store.read(
        """SELECT d.name, (SELECT count(*) FROM integrations i WHERE i.domain = d.name)
           FROM domains d WHERE d.name = ?""",
        name,
    )
    return Domain(*rows[0]) if rows else None


async def every(store: Store) -> list[Domain]:
    """Return all domains, sorted by name in code points."""
    rows = await store.read(
        """SELECT d.name, count(i.client_id) FROM domains d LEFT JOIN integrations i ON i.domain = d.name
           GROUP BY d.name ORDER BY d.name"""
    )
    return [Domain(*row) for row in rows]


async def names(store: Store, beginning: str, most: int) -> list[str]:
    """Return the first names that begin so, sorted, and the last: see `first_and_last`."""
    return await first_and_last(store, "name", "domains WHERE 1 = ?", (1,), beginning, most)


async def exists(read: Read, name: str) -> bool:
    """Tell whether a domain is declared."""
    return bool(await read("SELECT 1 FROM domains WHERE name = ?", name))
