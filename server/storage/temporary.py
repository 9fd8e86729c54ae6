"""What of SQLite's errors passes or can be mended from outside, in plain words."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from server.errors import TemporaryError

BUSY = "the store is busy"
#: By SQLite's primary result codes.
_PASSING = {
    sqlite3.SQLITE_BUSY: BUSY,
    sqlite3.SQLITE_LOCKED: BUSY,
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk does not answer",
    sqlite3.SQLITE_READONLY: "the store can only be read",
    sqlite3.SQLITE_CANTOPEN: "the store cannot be opened",
    sqlite3.SQLITE_NOMEM: "the machine is out of memory",
}


def temporary(reason: str) -> TemporaryError:
    """Return the error that tells the operator that nothing was changed, and to try again."""
    return TemporaryError(f"{reason}, nothing was changed; try again")


def passing_reason(error: sqlite3.Error) -> str | None:
    """Return what is wrong in plain words when it passes or can be mended from outside, else None."""
    return _PASSING.get(getattr(error, "sqlite_errorcode", -1) & 0xFF)


@contextmanager
def passing_as_temporary() -> Iterator[None]:
    """Turn errors of SQLite that pass into TemporaryError; the others are defects and go on."""
    try:
        yield
    except sqlite3.Error as error:
        reason = passing_reason(error)
        if reason is None:
            raise
        raise temporary(reason) from error
