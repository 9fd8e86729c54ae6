"""Copy all tables of a store from and to PostgreSQL, and compare every row afterwards.

A statement that takes longer than its limit ends with its connection: see `connection`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import Any, TypeVar

import asyncpg

from server.errors import StartError
from server.storage.engine import Row
from server.storage.postgresql.errors import AWAY
from server.storage.postgresql.serving import refuse_while_served
from server.storage.tables import (
    ROWS_AT_ONCE,
    Count,
    Table,
    TableSource,
    TableTarget,
    Total,
    refuse_difference,
)

T = TypeVar("T")

_STEP_SECONDS = 60.0
_END_SECONDS = 1.0


async def begin_snapshot(connection: asyncpg.Connection, shown: str, *, served: bool) -> int:
    """See the store as it is now until the connection ends, and return the number of its schema.

    Without `served`, nobody else can change it meanwhile. Raises StartError then while a node serves it.
    """
    if served:
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    else:  # every change has an audit record; the locks come before the first read, which decides the moment
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await connection.execute("LOCK TABLE audit IN SHARE ROW EXCLUSIVE MODE")
        await refuse_while_served(connection, f"the store {shown} is served by")
    return int(await connection.fetchval("SELECT value FROM store WHERE name = 'schema'") or 0)


async def storage_key_mark(connection: asyncpg.Connection) -> str:
    """Return the fingerprint of the storage key in the store; empty without a store."""
    return await connection.fetchval("SELECT value FROM store WHERE name = 'storage key'") or ""


async def dump(connection: asyncpg.Connection, target: TableTarget) -> Mapping[str, Total]:
    """Copy all rows of the caller's snapshot to the tables of the target, which has the same schema.

    Raises StartError when a row did not arrive as it was read.
    """
    totals = {}
    for table in target.tables():
        count = Count()
        async for rows in _rows(connection, table):
            count.add(rows)
            target.add(table, rows)
        totals[table.name] = count.total
        refuse_difference(table, count.total, target.total(table))
    return totals


async def load(connection: asyncpg.Connection, source: TableSource) -> Mapping[str, Total]:
    """Copy all rows to the empty tables that `search_path` names, inside the caller's transaction.

    Raises StartError for a value that PostgreSQL cannot hold, and when a row did not arrive as it was read.
    """
    totals = {}
    for table in source.tables():
        count = Count()
        for rows in source.rows(table):
            count.add(rows)
            await _add(connection, table, rows)
        totals[table.name] = count.total
        refuse_difference(table, count.total, await _total(connection, table))
        await _continue_ids(connection, table)
    return totals


async def bounded(connection: asyncpg.Connection, work: Awaitable[T]) -> T:
    """Wait for the server up to a limit. Then the connection is closed, and TimeoutError raised."""
    running = asyncio.ensure_future(work)
    done, _ = await asyncio.wait({running}, timeout=_STEP_SECONDS)
    if not done:
        connection.terminate()
        await asyncio.wait({running}, timeout=_END_SECONDS)
        raise TimeoutError(AWAY)
    return running.result()


async def _rows(connection: asyncpg.Connection, table: Table) -> AsyncIterator[list[Row]]:
    cursor: Any = await bounded(connection, connection.cursor(table.select))
    while records := await bounded(connection, cursor.fetch(ROWS_AT_ONCE)):
        yield [tuple(record) for record in records]


async def _total(connection: asyncpg.Connection, table: Table) -> Total:
    count = Count()
    async for rows in _rows(connection, table):
        count.add(rows)
    return count.total


async def _add(connection: asyncpg.Connection, table: Table, rows: Sequence[Row]) -> None:
    misfit = table.misfit(rows)
    if misfit is not None:
        message = f"PostgreSQL cannot hold a value of the table {table.name}: {misfit}"
        raise StartError(message)
    copying = connection.copy_records_to_table(table.name, records=rows, columns=table.columns)
    try:
        await bounded(connection, copying)
    except asyncpg.IntegrityConstraintViolationError as error:
        message = f"PostgreSQL cannot hold the table {table.name}: {error}"
        raise StartError(message) from error


async def _continue_ids(connection: asyncpg.Connection, table: Table) -> None:
    """Let new rows get ids behind the highest one."""
    if table.key != ("id",):
        return
    await bounded(
        connection,
        connection.execute(
            f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), greatest(max(id), 1), max(id) IS NOT NULL) "
            f"FROM {table.name}"
        ),
    )
