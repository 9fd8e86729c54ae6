"""The schema on PostgreSQL: numbered migrations, and the statements that make and upgrade it.

The numbers are shared with SQLite, so that a copy of a store is an SQLite file of the same schema. Every function works
inside the caller's transaction.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import asyncpg

from server.errors import StartError
from server.storage.chain import BEGINNING, NODES, Beginning
from server.storage.vault import Vault

#: The PostgreSQL schema that has all tables of a store.
SCHEMA = "ecss_console"
#: The key of the advisory lock that one program holds while it makes, upgrades or replaces the schema.
SCHEMA_LOCK = 0x65637374
#: The advisory lock of all write transactions: "ecss" as a number.
WRITE_LOCK = 0x65637373
#: The tables about running nodes. They are in no copy of a store.
RUNTIME_TABLES = frozenset({"nodes", "requests", "answers", "change_counter", "commit_tokens"})

_TABLE = re.compile(r"^CREATE TABLE (\w+)", re.MULTILINE)
#: The table that describes the store itself. Migrations write to it.
_STORE = "store"


@cache
def migrations() -> Mapping[int, str]:
    """Return the migrations by number, in order: `migrations/0005_first.sql` and the following ones."""
    folder = files("server.storage.postgresql") / "migrations"
    scripts = sorted((file.name, file) for file in folder.iterdir() if file.name.endswith(".sql"))
    return {int(name.partition("_")[0]): file.read_text(encoding="utf-8") for name, file in scripts}


def newest() -> int:
    """Return the number of the newest schema that this program writes."""
    return max(migrations())


def tables_of(schema: int) -> tuple[str, ...]:
    """Return the tables of a schema in the order of their creation, so that references point back."""
    scripts = [script for number, script in migrations().items() if number <= schema]
    return tuple(table for script in scripts for table in _TABLE.findall(script))


async def make(connection: asyncpg.Connection, vault: Vault) -> None:
    """Make the tables of the newest schema, and the rows of a new store, in the schema that `search_path` names."""
    await make_tables(connection, newest())
    rows = (
        ("schema", str(newest())),
        ("storage key", vault.fingerprint),
        (BEGINNING, vault.audit.mark(Beginning(0, 0))),
        (NODES, vault.audit.listed([])),
    )
    await connection.executemany("INSERT INTO store (name, value) VALUES ($1, $2)", rows)


async def make_tables(connection: asyncpg.Connection, schema: int) -> None:
    """Make the empty tables of a schema, in the PostgreSQL schema that `search_path` names."""
    for number, script in migrations().items():
        if number <= schema:
            await connection.execute(script)


async def upgrade(connection: asyncpg.Connection, schema: int) -> None:
    """Bring the tables from a schema to the newest.

    The migrations run once as a rehearsal, which is rolled back. Raises StartError when a table would gain or lose
    rows.
    """
    rehearsal = connection.transaction()
    await rehearsal.start()
    await _migrate_checked(connection, schema)
    await rehearsal.rollback()
    await _migrate_checked(connection, schema)


async def counts(connection: asyncpg.Connection, schema: int) -> dict[str, int]:
    """Return the number of rows of each table of the store."""
    tables = [table for table in tables_of(schema) if table not in RUNTIME_TABLES]
    return {table: await connection.fetchval(f"SELECT count(*) FROM {table}") for table in tables}


async def _migrate_checked(connection: asyncpg.Connection, schema: int) -> None:
    before = await counts(connection, schema)
    for number, script in migrations().items():
        if number > schema:
            await connection.execute(script)
    await connection.execute("UPDATE store SET value = $1 WHERE name = 'schema'", str(newest()))
    after = await counts(connection, newest())
    for table in sorted(before.keys() & after.keys() - {_STORE}):
        if before[table] != after[table]:
            message = (
                f"the store cannot be upgraded to schema {newest()}: the table {table} would have {after[table]} rows "
                f"in place of {before[table]}; nothing was changed"
            )
            raise StartError(message)
