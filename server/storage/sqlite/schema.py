"""The schema of the database: numbered migrations, and the upgrade of a store to the newest. Blocking.

An upgrade has three steps. It copies the store beside it. It rehearses the migrations on the copy and rolls them back.
Then it runs all of them in one transaction on the store. Only the last step touches the store: until its commit, every
failure leaves the store as it was.
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
#: The table that describes the store itself. Migrations write to it.
_STORE = "store"

_log = logging.getLogger("ecss-console.storage")


@cache
def migrations() -> dict[int, str]:
    """Return the migrations by number, in order: `migrations/0001_first.sql` and the following ones."""
    folder = files("server.storage.sqlite") / "migrations"
    scripts = sorted((file.name, file) for file in folder.iterdir() if file.name.endswith(".sql"))
    return {int(name.partition("_")[0]): file.read_text(encoding="utf-8") for name, file in scripts}


def newest() -> int:
    """Return the number of the newest schema that this program writes."""
    return max(migrations())


def tables_of(schema: int) -> set[str]:
    """Return the tables of a schema; for an unknown number, those of the newest schema."""
    return {table for number, script in migrations().items() if number <= schema for table in _TABLE.findall(script)}


def make(database: Path, vault: Vault) -> None:
    """Create the newest schema in an empty file."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        _migrate(connection, 0, vault)
        connection.execute("INSERT INTO store (name, value) VALUES ('storage key', ?)", (vault.fingerprint,))
        connection.execute("COMMIT")


def make_tables(connection: sqlite3.Connection, schema: int) -> None:
    """Create the tables of a schema without any row, inside the caller's transaction."""
    for number, script in migrations().items():
        if number <= schema:
            for statement in _statements(script):
                connection.execute(statement)


def kept_copy(database: Path, schema: int) -> Path:
    """Return the path of the copy that an upgrade keeps of the old store: `console.db.schema-2`."""
    return database.with_name(f"{database.name}.schema-{schema}")


def upgrade(database: Path, vault: Vault) -> None:
    """Upgrade a store to the newest schema.

    Raises StartError, sqlite3.Error or OSError, and then leaves the store as it was.
    """
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        schema = _schema_number(connection)
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
    """Run the migrations on a copy and roll them back; StartError if they would lose or break data."""
    with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        _migrate_checked(connection, vault)
        found = damage(connection)
        connection.execute("ROLLBACK")
    if found is not None:
        raise _upgrade_refused(found)


def _migrate_checked(connection: sqlite3.Connection, vault: Vault) -> None:
    """Run the missing migrations inside the caller's transaction; StartError if row counts change."""
    before = counts(connection)
    _migrate(connection, _schema_number(connection), vault)
    after = counts(connection)
    for table in sorted(before.keys() & after.keys() - {_STORE}):
        if before[table] != after[table]:
            what = f"the table {table} would have {after[table]} rows in place of {before[table]}"
            raise _upgrade_refused(what)


def _upgrade_refused(what: str) -> StartError:
    return StartError(f"the store cannot be upgraded to schema {newest()}: {what}; nothing was changed")


def _schema_number(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT value FROM store WHERE name = 'schema'").fetchone()[0])


def _migrate(connection: sqlite3.Connection, done: int, vault: Vault) -> None:
    """Run the migrations after number `done` inside the caller's transaction."""
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
    """Sign which records are older than the chain, so that no later record can pass for one."""
    beginning = Beginning(*connection.execute("SELECT coalesce(max(id), 0), count(*) FROM audit").fetchone())
    connection.execute(
        "INSERT OR REPLACE INTO store (name, value) VALUES (?, ?)", (BEGINNING, vault.audit.mark(beginning))
    )


def _list_nodes(connection: sqlite3.Connection, vault: Vault) -> None:
    """List the nodes that have a head, and sign the heads for that list. A changed head stays as it is."""
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
