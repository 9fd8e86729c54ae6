"""The schema of the database: its numbered migrations, and how a store is brought up to the newest. Blocking.

A store is upgraded in three steps, of which only the last touches it: a copy is kept beside it, the migrations are
rehearsed on that copy and taken back, then all of them run in one transaction on the store. Whatever happens before
its commit, the store is the old one.
"""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from importlib.resources import files
from pathlib import Path

from server.durable import sync_folder
from server.errors import StartError
from server.storage.chain import BEGINNING, NODES, Beginning, Head
from server.storage.schema_numbers import CHAIN_SCHEMA, NODE_LIST_SCHEMA
from server.storage.sqlite.snapshot import counts, damage, scratch_folder, snapshot
from server.storage.vault import Vault

_TABLE = re.compile(r"^CREATE TABLE (\w+)", re.MULTILINE)
#: The table that says what the store is; migrations write into it.
_STORE = "store"

_log = logging.getLogger("ecss-console.storage")


@cache
def migrations() -> dict[int, str]:
    """Return the migrations by number, in order, from `migrations/0001_first.sql` and its followers."""
    folder = files("server.storage.sqlite") / "migrations"
    scripts = sorted((file.name, file) for file in folder.iterdir() if file.name.endswith(".sql"))
    return {int(name.partition("_")[0]): file.read_text(encoding="utf-8") for name, file in scripts}


def newest() -> int:
    """Return the number of the schema that this program writes."""
    return max(migrations())


def tables_of(schema: int) -> set[str]:
    """Return the tables that a database of a schema has; one this program does not know has those of the newest."""
    return {table for number, script in migrations().items() if number <= schema for table in _TABLE.findall(script)}


def make(database: Path, vault: Vault) -> None:
    """Give an empty file the newest schema."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        _migrate(connection, 0, vault)
        connection.execute("INSERT INTO store (name, value) VALUES ('storage key', ?)", (vault.fingerprint,))
        connection.execute("COMMIT")


def kept_copy(database: Path, schema: int) -> Path:
    """Return where a store of an older schema is kept when it is upgraded: `console.db.schema-2`."""
    return database.with_name(f"{database.name}.schema-{schema}")


def upgrade(database: Path, vault: Vault) -> None:
    """Bring a store up to the newest schema. Raises StartError, sqlite3.Error or OSError and leaves it as it was."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        schema = _schema(connection)
        kept = kept_copy(database, schema)
        with scratch_folder(database) as folder:
            copy = folder / kept.name
            snapshot(database, copy)
            _rehearse(copy, vault)
            copy.rename(kept)
        sync_folder(kept.parent)
        connection.execute("BEGIN IMMEDIATE")
        _migrate_checked(connection, vault)
        connection.execute("COMMIT")
    _log.info("brought the store from schema %d to %d; the old one is kept as %s", schema, newest(), kept)


def _rehearse(copy: Path, vault: Vault) -> None:
    """Run the migrations on a copy and take them back; raises StartError when they would lose or break something."""
    with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        _migrate_checked(connection, vault)
        found = damage(connection)
        connection.execute("ROLLBACK")
    if found is not None:
        raise _refused(found)


def _migrate_checked(connection: sqlite3.Connection, vault: Vault) -> None:
    """Run what is missing inside the caller's transaction; raises StartError when rows are lost or doubled."""
    before = counts(connection)
    _migrate(connection, _schema(connection), vault)
    after = counts(connection)
    for table in sorted(before.keys() & after.keys() - {_STORE}):
        if before[table] != after[table]:
            what = f"the table {table} would have {after[table]} rows in place of {before[table]}"
            raise _refused(what)


def _refused(what: str) -> StartError:
    return StartError(f"the store cannot be upgraded to schema {newest()}: {what}; nothing was changed")


def _schema(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT value FROM store WHERE name = 'schema'").fetchone()[0])


def _migrate(connection: sqlite3.Connection, done: int, vault: Vault) -> None:
    """Run the migrations behind number `done` inside the caller's transaction."""
    for number, script in migrations().items():
        if number <= done:
            continue
        for statement in _statements(script):
            connection.execute(statement)
        if number == CHAIN_SCHEMA:
            _mark_beginning(connection, vault)
        if number == NODE_LIST_SCHEMA:
            _list_nodes(connection, vault)
    connection.execute(
        "INSERT INTO store (name, value) VALUES ('schema', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (str(newest()),),
    )


def _mark_beginning(connection: sqlite3.Connection, vault: Vault) -> None:
    """Sign which records are from before the chain, so that no later one can be passed off as such."""
    beginning = Beginning(*connection.execute("SELECT coalesce(max(id), 0), count(*) FROM audit").fetchone())
    connection.execute(
        "INSERT OR REPLACE INTO store (name, value) VALUES (?, ?)", (BEGINNING, vault.audit.mark(beginning))
    )


def _list_nodes(connection: sqlite3.Connection, vault: Vault) -> None:
    """List the nodes that have a head, and sign the heads for that list; one that was changed stays so."""
    audit = vault.audit
    rows = connection.execute("SELECT node, seq, mac, signature FROM audit_heads").fetchall()
    nodes = sorted(str(node) for node, *_ in rows)
    for node, seq, mac, signature in rows:
        head = Head(seq if isinstance(seq, int) else 0, str(mac))
        if audit.signed(str(node), head, (), str(signature)):
            signed = audit.signature(node, head, nodes)
            connection.execute("UPDATE audit_heads SET signature = ? WHERE node = ?", (signed, node))
    connection.execute("INSERT OR REPLACE INTO store (name, value) VALUES (?, ?)", (NODES, audit.listed(nodes)))


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
