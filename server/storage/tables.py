"""Tables as rows that pass from one engine to another, and the proof that all of them arrived. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from server.errors import StartError
from server.storage.engine import Row

#: Rows that are read and written at once. A row of many numbers has hundreds of kilobytes.
ROWS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Table:
    """A table. `kinds` are the types of the columns, `str` or `int`; `key` are the columns of the primary key."""

    name: str
    columns: tuple[str, ...]
    kinds: tuple[type, ...]
    key: tuple[str, ...]

    @property
    def select(self) -> str:
        """A SELECT of all rows in the order of the primary key, which is the same in every engine."""
        return f"SELECT {', '.join(self.columns)} FROM {self.name} ORDER BY {', '.join(self.key)}"

    def misfit(self, rows: Sequence[Row]) -> str | None:
        """Describe the first value that a strict engine cannot hold: of another type, or with the character NUL."""
        for row in rows:
            for column, kind, value in zip(self.columns, self.kinds, row, strict=True):
                if (value is not None and type(value) is not kind) or (isinstance(value, str) and "\0" in value):
                    key = [row[self.columns.index(each)] for each in self.key]
                    return f"{column} is {value!r} in the row {', '.join(map(str, key))}"
        return None


@dataclass(frozen=True, slots=True)
class Total:
    """The number of rows of a table and their SHA-256, in the order of the primary key."""

    rows: int
    digest: str


class Count:
    """Counts and hashes the rows of a table."""

    def __init__(self) -> None:
        """Begin with no row."""
        self._rows = 0
        self._digest = hashlib.sha256()

    def add(self, rows: Sequence[Row]) -> None:
        """Add rows, tuples of text, integers and None. Their representation in Python is unambiguous."""
        self._rows += len(rows)
        self._digest.update("".join(map(repr, rows)).encode())

    @property
    def total(self) -> Total:
        """The total so far."""
        return Total(self._rows, self._digest.hexdigest())


class TableSource(Protocol):
    """Tables that are read. Every read is of the same moment."""

    def tables(self) -> tuple[Table, ...]:
        """Return the tables in an order in which references point back."""

    def rows(self, table: Table) -> Iterator[list[Row]]:
        """Yield the rows in the order of the key, many at a time."""


class TableTarget(Protocol):
    """Empty tables that are filled."""

    def tables(self) -> tuple[Table, ...]:
        """Return the tables in an order in which references point back."""

    def add(self, table: Table, rows: Sequence[Row]) -> None:
        """Add rows."""

    def total(self, table: Table) -> Total:
        """Count and hash the rows that have arrived."""


def refuse_difference(table: Table, sent: Total, arrived: Total) -> None:
    """Raise StartError unless the same rows have arrived."""
    if sent != arrived:
        message = (
            f"the copy of the table {table.name} is not as it was read ({sent.rows:,} rows, {arrived.rows:,} arrived)"
        )
        raise StartError(message)
