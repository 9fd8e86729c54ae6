"""Find out whether nodes serve the store: their leases, by the clock of the database."""

from __future__ import annotations

import asyncpg

from server.errors import StartError
from server.storage.postgresql.schema import WRITE_LOCK

_LIVE = """
SELECT name FROM nodes WHERE NOT stopped AND lease_until > clock_timestamp() AND boot <> $1 ORDER BY name
"""


async def live_nodes(connection: asyncpg.Connection, boot: str = "") -> tuple[str, ...]:
    """Return the names of the nodes with a lease, without that of `boot`, the caller's own run."""
    return tuple(name for (name,) in await connection.fetch(_LIVE, boot))


async def stop_changes(connection: asyncpg.Connection) -> None:
    """Let no program change the store until the end of the transaction; a change that is under way ends before."""
    await connection.execute(f"SELECT pg_advisory_xact_lock({WRITE_LOCK})")


async def refuse_while_served(connection: asyncpg.Connection, why: str, boot: str = "") -> None:
    """Raise StartError while a node has a lease. Until the end of the transaction, no node can take one.

    `why` begins the message.
    """
    await connection.execute("LOCK TABLE nodes IN SHARE ROW EXCLUSIVE MODE")
    live = await live_nodes(connection, boot)
    if live:
        message = (
            f"{why} {', '.join(live)}: stop {'that node' if len(live) == 1 else 'those nodes'} first; a node that was "
            "killed counts for ten seconds; nothing was changed"
        )
        raise StartError(message)
