"""Stores whose rows are awkward to copy, and their rows on both engines."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import asyncpg
from postgresql import Database

from server.storage.postgresql import schema
from server.storage.sqlite import schema as sqlite_schema

#: Texts that other engines, encodings and quoting rules change.
AWKWARD = (
    "",
    " ",
    "'\"\\",
    "$1 ? %s {}",
    "a\u0301\u0323 \u00e1",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0010ffff",
    "\uffff\ufffe\ufeff\u2028",
    "\r\n\t\x01\x7f",
    "NULL",
    "\\N",
    "домен.local",
    "x" * 70_000,
)
SQLITE_URL = "sqlite:///var/console.db"
#: The rows that the copy itself adds to.
_OWN = ("audit", "audit_heads", "store")

Rows = dict[str, list[tuple[object, ...]]]


def fill(path: Path) -> None:
    """Add rows to every table of an SQLite store."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executemany(
            "INSERT INTO history (id, user_name, line) VALUES (?, 'admin', ?)", enumerate(AWKWARD, 700)
        )
        connection.executemany(
            "INSERT INTO domains VALUES (?, ?, ?)",
            ((f"d{number}.local", text, text) for number, text in enumerate(AWKWARD)),
        )
        connection.executemany(
            "INSERT INTO integrations VALUES ('biysk.local', ?, 'service', ?, ?, ?, 'x', 'x')",
            (
                (f"c{number}", ",".join(map(str, range(number))), f"sealed{number}", f"hash{number}")
                for number in range(1200)
            ),
        )
        connection.execute("INSERT INTO grants VALUES ('admin', 'biysk.local', 'x')")
        connection.execute("UPDATE users SET locked = 0, expires_at = NULL, password_hash = NULL")
        connection.commit()


def in_sqlite(path: Path) -> Rows:
    """Return the rows of a store by table."""
    with closing(sqlite3.connect(path)) as connection:
        tables = sqlite_schema.tables_of(schema.newest())
        return {name: sorted(connection.execute(f"SELECT * FROM {name}"), key=repr) for name in tables}


def in_postgresql(database: Database, name: str = schema.SCHEMA) -> Rows:
    """Return the rows of a store by table; `name` is its PostgreSQL schema."""

    async def read() -> Rows:
        connection = await asyncpg.connect(database.url, password=database.password_file.read_text().strip())
        try:
            tables = sqlite_schema.tables_of(schema.newest())
            rows = {table: await connection.fetch(f"SELECT * FROM {name}.{table}") for table in tables}
        finally:
            await connection.close()
        return {table: sorted(map(tuple, found), key=repr) for table, found in rows.items()}

    return asyncio.run(read())


def schemas(database: Database) -> list[str]:
    """Return the names of our PostgreSQL schemas."""
    return database.psql("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'ecss%' ORDER BY 1").split()


def without(rows: Rows, *tables: str) -> Rows:
    """Leave tables out: by default those that copies themselves add to."""
    return {name: found for name, found in rows.items() if name not in (tables or _OWN)}


def configured() -> dict[str, str]:
    """Return the settings of the store that the test's process has, for programs of their own."""
    return {name: value for name, value in os.environ.items() if name.startswith("ECSS_CONSOLE_STORAGE__")}
