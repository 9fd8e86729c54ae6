"""The interface of a storage engine: what the store needs of SQLite, and later of PostgreSQL.

The nouns beside this module share one SQL text. It has `?` placeholders, the types TEXT and INTEGER, and only what
SQLite and PostgreSQL both understand. Where the two differ, the text has a function that each engine translates:

    AS_BYTES(column)      the bytes of a text, also of a value that somebody has put there behind the console's back
    IS_TEXT(column)       whether the value has the type of the column, which SQLite does not enforce
    IS_INTEGER(column)    likewise
    BYTE_LENGTH(text)     the length in UTF-8
    CONTAINS(text, part)  whether a text has a part
    FOLD_ASCII(text)      the text with A to Z in lower case, and no other letter
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from server.storage.feed import Topic

Value = str | int | None
Row = tuple[Any, ...]
#: Runs one statement with `?` placeholders and returns its rows: over what is committed, or inside a transaction.
Read = Callable[..., Awaitable[list[Row]]]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an operation failed that may succeed later.

    `text` is for operators, `code` is the engine's own name of the error, for the log. With `busy` another program
    holds the store: that is no fault of a disk, and is not logged.
    """

    text: str
    code: str
    busy: bool = False


class Engine(Protocol):
    """One database: a connection that writes, one transaction at a time, and another one for reads.

    Every method raises the errors of its driver, and `reason` tells which of them pass. A method that is cancelled ends
    what the database is doing before it raises CancelledError.
    """

    @property
    def in_transaction(self) -> bool:
        """Whether the transaction still stands; a database may roll it back without being asked."""

    async def begin(self, deadline: float) -> None:
        """Begin a write transaction, waiting for other programs until `deadline` on the loop's clock."""

    async def savepoint(self) -> None:
        """Set the one savepoint, in the place of the last one."""

    async def rollback_to(self) -> None:
        """Take back what was written since the savepoint."""

    async def commit(self) -> None:
        """Commit down to the disk. Raises TemporaryError where nobody can say whether the commit is stored."""

    async def rollback(self) -> None:
        """Take the transaction back if there is one. Raises no error of the driver."""

    async def run(self, sql: str, *values: Value) -> list[Row]:
        """Run a statement of the shared text inside the transaction and return its rows."""

    async def run_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> None:
        """Run a statement of the shared text once for every row of values, in order."""

    async def read(self, sql: str, *values: Value) -> list[Row]:
        """Run a SELECT of the shared text over what is committed."""

    def reason(self, error: BaseException) -> Reason | None:
        """Return why an error passes, or None for a defect and for errors that are none of the driver's."""

    async def changed_elsewhere(self) -> frozenset[Topic]:
        """Wait until another program has committed, and return what may have changed. The first call does not wait."""

    def sizes_bytes(self) -> tuple[int, int]:
        """Return the size of the database, and of the log that has what was committed last; 0 where it is not known."""

    async def close(self) -> None:
        """Close the connections; safe to call twice."""
