"""The tables of an SQLite file as the source or the target of a copy. Blocking."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from server.errors import StartError
from server.storage.engine import Row
from server.storage.sqlite.schema import make_tables
from server.storage.tables import ROWS_AT_ONCE, Count, Table, Total


class TableFile:
    """An open file. Make one with `new_file` or `read_file`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Take a connection inside a transaction."""
        self._connection = connection

    def tables(self) -> tuple[Table, ...]:
        """Return the tables in the order of their creation, so that references point back."""
        names = self._connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY rowid"
        ).fetchall()
        return tuple(self._table(name) for (name,) in names)

    def rows(self, table: Table) -> Iterator[list[Row]]:
        """Yield the rows in the order of the key, many at a time. Raises StartError for a text that is no UTF-8."""
        try:
            found = self._connection.execute(table.select)
            while rows := found.fetchmany(ROWS_AT_ONCE):
                yield rows
        except sqlite3.OperationalError as error:
            if "decode" not in str(error):
                raise
            message = f"the table {table.name} has a text that is not UTF-8"
            raise StartError(message) from error

    def add(self, table: Table, rows: Sequence[Row]) -> None:
        """Add rows."""
        places = ", ".join("?" * len(table.columns))
        self._connection.executemany(f"INSERT INTO {table.name} ({', '.join(table.columns)}) VALUES ({places})", rows)

    def total(self, table: Table) -> Total:
        """Count and hash the rows that are in the file."""
        count = Count()
        for rows in self.rows(table):
            count.add(rows)
        return count.total

    def _table(self, name: str) -> Table:
        found = self._connection.execute(f'PRAGMA table_info("{name}")').fetchall()
        keyed = sorted((place, column) for _, column, _, _, _, place in found if place)
        kinds = tuple(int if kind == "INTEGER" else str for _, _, kind, *_ in found)
        return Table(name, tuple(column for _, column, *_ in found), kinds, tuple(column for _, column in keyed))


@contextmanager
def new_file(path: Path, schema: int) -> Iterator[TableFile]:
    """Make a file with the empty tables of a schema, which only its owner can read.

    At the end of the block everything is on the disk. After an error the file is removed.
    """
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600))
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            make_tables(connection, schema)
            yield TableFile(connection)
            connection.execute("COMMIT")
    except BaseException:
        path.unlink()
        raise


@contextmanager
def read_file(path: Path, *, locked: bool = False) -> Iterator[TableFile]:
    """Read a file as it is at one moment. With `locked`, no program can write to it inside the block."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE" if locked else "BEGIN")
        yield TableFile(connection)
        connection.execute("ROLLBACK")
