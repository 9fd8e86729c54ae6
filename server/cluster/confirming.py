"""The confirmation of a change by a subcommand, which is no node itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from server.errors import TemporaryError
from server.storage.postgresql.engine import PostgresqlEngine
from server.storage.postgresql.nodes import APPLIED, NodeTables
from server.storage.store import Store
from server.storage.temporary import Failures

_WAIT_SECONDS = 1.0


async def unconfirmed(store: Store, change_number: int) -> Sequence[str] | None:
    """Wait up to a second until all live nodes have applied a change; return the names of the rest.

    Returns None when the database does not tell.
    """
    engine = store.engine
    if not change_number or not isinstance(engine, PostgresqlEngine):
        return ()
    tables = NodeTables(engine.control, Failures(engine.reason))
    applied = tables.subscribe(APPLIED)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _WAIT_SECONDS
    try:
        while (behind := await tables.behind("", change_number)) and (left_seconds := deadline - loop.time()) > 0:
            await applied.next(left_seconds)
    except TemporaryError:
        return None
    return behind
