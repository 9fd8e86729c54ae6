"""Replace the store on PostgreSQL by a copy, completely or not at all.

The copy is loaded into a PostgreSQL schema of its own and compared. One transaction then renames both schemas: that is
the point of no return. Before it nothing has changed, and the next restore starts over. After it, the next program that
opens the store puts the keys in place. The old schema is renamed and never deleted.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import asyncpg

from server.durable import locked_folder, sync_folder
from server.errors import StartError
from server.interrupts import ignore_interrupts
from server.model.lines import one_line
from server.storage.postgresql import schema
from server.storage.postgresql.errors import is_lost
from server.storage.postgresql.schema import SCHEMA, SCHEMA_LOCK
from server.storage.postgresql.serving import refuse_while_served, stop_changes
from server.storage.postgresql.table_copy import bounded, load
from server.storage.restored_keys import Ready, free_aside, place_keys, read_ready, write_ready
from server.storage.tables import TableSource

#: The PostgreSQL schema of a copy that is being loaded.
LOADING = "ecss_console_restoring"
_KEPT = "ecss_console_before_{:%Y%m%d_%H%M%S}"
_MARK = "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = $1"


@dataclass(frozen=True, slots=True)
class Replacement:
    """A copy that is going to be the store, and its keys by name.

    `now` gives the former store and keys their names. `allowed` means that there may be a store already.
    """

    source: TableSource
    keys: Mapping[str, bytes] = field(repr=False)
    now: datetime
    allowed: bool


@dataclass(frozen=True, slots=True)
class Replaced:
    """The former schema's new name, empty without one, and the new paths of the former keys."""

    kept_schema: str
    kept_keys: tuple[Path, ...]


def restoring_folder(keys_dir: Path) -> Path:
    """Return the folder of the keys of a store that is being put in place."""
    return keys_dir / "restoring"


def is_left(keys_dir: Path) -> bool:
    """Tell whether a restore was killed, or is under way."""
    return os.path.lexists(restoring_folder(keys_dir))


@asynccontextmanager
async def alone(connection: asyncpg.Connection, keys_dir: Path, shown: str) -> AsyncIterator[None]:
    """Keep other programs from making, upgrading or replacing the store. Raises StartError when one does."""
    if not await connection.fetchval(f"SELECT pg_try_advisory_lock({SCHEMA_LOCK})"):
        message = f"another program makes, upgrades or restores the store {shown}: try again when it has finished"
        raise StartError(message)
    with locked_folder(keys_dir):
        yield
    await connection.execute(f"SELECT pg_advisory_unlock({SCHEMA_LOCK})")


async def finish(connection: asyncpg.Connection, keys_dir: Path) -> list[Path]:
    """Finish a restore that was killed behind its point of no return, or drop its keys. Lock the keys folder first.

    Returns the new names of the former keys. Raises StartError for a folder that no restore has left.
    """
    folder = restoring_folder(keys_dir)
    if not is_left(keys_dir):
        return []
    ready = read_ready(folder)
    moved = []
    if ready is not None and await connection.fetchval(_MARK, SCHEMA) == ready.restore:
        moved = place_keys(ready, keys_dir)
    shutil.rmtree(folder)
    sync_folder(keys_dir)
    return moved


async def is_there(connection: asyncpg.Connection) -> bool:
    """Tell whether the database has a store, whole or not."""
    return bool(await _has(connection, "store"))


async def refuse_served(connection: asyncpg.Connection, shown: str) -> None:
    """Raise StartError while a node serves the store. Until the end of the transaction, none can begin to."""
    if await _has(connection, "nodes"):
        await connection.execute(f"SET LOCAL search_path = {SCHEMA}")
        await refuse_while_served(connection, f"the store {shown} is served by")


async def _has(connection: asyncpg.Connection, table: str) -> bool:
    return bool(await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{SCHEMA}.{table}"))


async def replace(connection: asyncpg.Connection, keys_dir: Path, shown: str, replacement: Replacement) -> Replaced:
    """Load the copy, put it in the place of the store, and its keys in their folder. Hold `alone` meanwhile.

    Raises StartError, and then nothing is changed unless the message says otherwise.
    """
    mark = f"restored {replacement.now:%Y-%m-%dT%H:%M:%SZ} {secrets.token_hex(8)}"
    await _load(connection, shown, replacement.source, mark)
    try:
        return await _put_in_place(connection, keys_dir, shown, replacement, mark)
    except BaseException:
        if not connection.is_closed():
            await connection.execute(f"DROP SCHEMA IF EXISTS {LOADING} CASCADE")
        raise


async def _load(connection: asyncpg.Connection, shown: str, source: TableSource, mark: str) -> None:
    try:
        async with connection.transaction():
            await connection.execute(f"DROP SCHEMA IF EXISTS {LOADING} CASCADE")
            await connection.execute(f"CREATE SCHEMA {LOADING}")
            await connection.execute(f"SET LOCAL search_path = {LOADING}")
            await schema.make_tables(connection, schema.newest())
            await load(connection, source)
            await connection.execute(f"COMMENT ON SCHEMA {LOADING} IS '{mark}'")
        await bounded(connection, connection.execute(f"ANALYZE {', '.join(f'{LOADING}.{name}' for name in _copied())}"))
    except asyncpg.InsufficientPrivilegeError as error:
        raise _denied(shown, error) from error


async def _put_in_place(
    connection: asyncpg.Connection, keys_dir: Path, shown: str, replacement: Replacement, mark: str
) -> Replaced:
    now = replacement.now
    ready = Ready(free_aside(f"{now:%Y%m%dT%H%M%SZ}", keys_dir), replacement.keys, mark)
    _write_keys(keys_dir, ready)
    swap = connection.transaction()
    await swap.start()
    try:
        await _refuse_unless_replaceable(connection, shown, allowed=replacement.allowed)
        kept = await _rename(connection, shown, now)
    except BaseException:
        if not connection.is_closed():
            await swap.rollback()
            shutil.rmtree(restoring_folder(keys_dir))
        raise
    ignore_interrupts()
    try:
        await bounded(connection, swap.commit())
    except Exception as error:
        if not is_lost(error):
            raise
        message = (
            f"the database {shown} does not answer, so it is not known whether the store was replaced: the next "
            "program that opens the store finds out and goes on; look with ecss-console user list"
        )
        raise StartError(message) from error
    return Replaced(kept, tuple(await finish(connection, keys_dir)))


async def _refuse_unless_replaceable(connection: asyncpg.Connection, shown: str, *, allowed: bool) -> None:
    if not allowed and await is_there(connection):
        message = f"there is a store meanwhile, {shown}; nothing was changed"
        raise StartError(message)
    await stop_changes(connection)
    await refuse_served(connection, shown)


def _write_keys(keys_dir: Path, ready: Ready) -> None:
    """Write the keys to a folder that has its name only when it is complete."""
    folder = restoring_folder(keys_dir)
    unfinished = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    write_ready(unfinished, ready)
    unfinished.rename(folder)
    sync_folder(keys_dir)


async def _rename(connection: asyncpg.Connection, shown: str, now: datetime) -> str:
    """Rename the present schema and the new one; return the new name of the former."""
    names = {name for (name,) in await connection.fetch("SELECT nspname FROM pg_namespace")}
    kept = ""
    try:
        if SCHEMA in names:
            kept = _KEPT.format(now)
            while kept in names:
                kept += "_again"
            await connection.execute(f"ALTER SCHEMA {SCHEMA} RENAME TO {kept}")
        await connection.execute(f"ALTER SCHEMA {LOADING} RENAME TO {SCHEMA}")
    except asyncpg.InsufficientPrivilegeError as error:
        raise _denied(shown, error) from error
    return kept


def _copied() -> list[str]:
    return [name for name in schema.tables_of(schema.newest()) if name not in schema.RUNTIME_TABLES]


def _denied(shown: str, error: asyncpg.PostgresError) -> StartError:
    return StartError(
        f"a store cannot be put into {shown}: {one_line(error)}; the user of storage.url must own the schema {SCHEMA}, "
        "if it is there, and needs GRANT CREATE ON DATABASE to make one beside it; nothing was changed"
    )
