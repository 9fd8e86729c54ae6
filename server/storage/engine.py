"""The interface of a storage engine: SQLite, and PostgreSQL for several nodes.

All engines run the same SQL text, which the modules of this package contain. It has `?` placeholders, the types TEXT
and INTEGER, and only syntax that both SQLite and PostgreSQL understand. Where the two differ, the text calls a function
that each engine translates:

    AS_BYTES(column)      the bytes of a text, also of a value that was written without the console
    IS_TEXT(column)       whether the value has the type of the column, which SQLite does not enforce
    IS_INTEGER(column)    likewise
    BYTE_LENGTH(text)     the length in UTF-8
    CONTAINS(text, part)  whether a text contains a part
    FOLD_ASCII(text)      the text with A to Z in lower case, and no other letter
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from server.storage.feed import Changed, Topic

Value = str | int | None
Row = tuple[Any, ...]
#: Runs one statement with `?` placeholders and returns its rows: over committed data, or inside a transaction.
Read = Callable[..., Awaitable[list[Row]]]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an operation failed that may succeed later.

    `text` is for operators. `code` is the engine's own name of the error, for the log. `busy` means that another
    program holds the store. That is no fault of a disk, so it is not logged.
    """

    text: str
    code: str
    busy: bool = False


class Engine(Protocol):
    """One database: a connection that writes, one transaction at a time, and another one for reads.

    Every method raises the errors of its driver; `reason` tells which of them are temporary. A cancelled write stops
    the database's work before it raises CancelledError.
    """

    @property
    def most_changes(self) -> int:
        """The most changes of one transaction."""

    @property
    def in_transaction(self) -> bool:
        """Whether the transaction is still open; a database may roll it back on its own."""

    async def begin(self, deadline: float) -> None:
        """Begin a write transaction; wait for other programs until `deadline` on the loop's clock."""

    async def savepoint(self) -> None:
        """Set the savepoint; it replaces the previous one."""

    async def rollback_to(self) -> None:
        """Undo all writes since the savepoint."""

    async def commit(self, shared: frozenset[Topic]) -> int:
        """Commit to the disk, and tell other nodes of the `shared` topics, which their caches may hold.

        Returns the number of the change, which other nodes confirm; 0 when there is nothing to tell. Raises
        TemporaryError when it is unknown whether the commit is stored.
        """

    async def rollback(self) -> None:
        """Roll back the transaction if there is one. Raises no error of the driver."""

    async def run(self, sql: str, *values: Value) -> list[Row]:
        """Run a statement inside the transaction and return its rows."""

    async def run_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> None:
        """Run a statement once for every row of values, in order."""

    async def read(self, sql: str, *values: Value) -> list[Row]:
        """Run a SELECT over committed data."""

    def reason(self, error: BaseException) -> Reason | None:
        """Return why an error is temporary; None for a defect or an error that is not the driver's."""

    async def changed_elsewhere(self) -> Changed:
        """Wait for a commit of another program; return what may have changed. The first call returns at once."""

    def sizes_bytes(self) -> tuple[int, int]:
        """Return the size of the database, and of the log with the newest commits; 0 when unknown."""

    async def close(self) -> None:
        """Close the connections; safe to call twice."""
