"""Domains in the store. Every function takes a name in any case; rows are keyed by the folded name."""

from __future__ import annotations

from server.model.domains import Domain, folded
from server.storage.engine import Read
from server.storage.store import Store, first_and_last
from server.storage.writer import Query


async def insert(query: Query, name: str, now: str) -> bool:
    """Add a domain that is shown as `name`; False when it exists, in any case."""
    rows = await query(
        """INSERT INTO domains (name, declared_as, declared_at) VALUES (?, ?, ?)
           ON CONFLICT DO NOTHING RETURNING name""",
        folded(name),
        name,
        now,
    )
    return bool(rows)


async def delete(query: Query, name: str) -> list[str] | None:
    """Remove a domain and its integrations; return their client ids, sorted, or None without the domain."""
    key = folded(name)
    clients = await query("SELECT client_id FROM integrations WHERE domain = ? ORDER BY client_id", key)
    rows = await query("DELETE FROM domains WHERE name = ? RETURNING name", key)
    return [client_id for (client_id,) in clients] if rows else None


async def find(store: Store, name: str) -> Domain | None:
    """Return the domain as `domain/list` shows it; None when it does not exist."""
    rows = await store.read(
        """SELECT d.declared_as, (SELECT count(*) FROM integrations i WHERE i.domain = d.name)
           FROM domains d WHERE d.name = ?""",
        folded(name),
    )
    return Domain(*rows[0]) if rows else None


async def every(store: Store) -> list[Domain]:
    """Return all domains, sorted by folded name in code points."""
    rows = await store.read(
        """SELECT d.declared_as, count(i.client_id) FROM domains d LEFT JOIN integrations i ON i.domain = d.name
           GROUP BY d.name ORDER BY d.name"""
    )
    return [Domain(*row) for row in rows]


async def names(store: Store, beginning: str, most: int) -> list[str]:
    """Return the first names with this beginning, in any case, and the last: see `first_and_last`."""
    return await first_and_last(store, "declared_as FROM domains WHERE 1 = 1", (), "name", folded(beginning), most)


async def declared_as(read: Read, name: str) -> str | None:
    """Return a domain's name as it was declared; None when it does not exist."""
    rows = await read("SELECT declared_as FROM domains WHERE name = ?", folded(name))
    return str(rows[0][0]) if rows else None


async def exists(read: Read, name: str) -> bool:
    """Tell whether a domain is declared."""
    return await declared_as(read, name) is not None
