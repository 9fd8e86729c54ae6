"""What of SQLite's errors passes or can be mended from outside, in plain words."""

from __future__ import annotations

import logging
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
#: While a store is open, SQLite says so too of a sector that cannot be read; at the start it is told as damage.
_DAMAGED = {
    sqlite3.SQLITE_CORRUPT: "the disk cannot be read or the store is damaged",
    sqlite3.SQLITE_NOTADB: "the disk cannot be read or the store is damaged",
}

_log = logging.getLogger("ecss-console.storage")


def temporary(reason: str) -> TemporaryError:
    """Return the error that tells the operator that nothing was changed, and to try again."""
    return TemporaryError(f"{reason}, nothing was changed; try again")


def unsure(error: BaseException) -> TemporaryError:
    """Return what the operator is told when a change is not in force, and nobody can say that it stays so."""
    _log.error("a commit has failed and cannot be taken off the disk: %s", error)
    what = "the disk does not answer, the change is not in force but may be after a restart"
    return TemporaryError(f"{what}; look before you try again")


def passing_reason(error: sqlite3.Error) -> str | None:
    """Return what is wrong in plain words when it passes or can be mended from outside, else None."""
    return _PASSING.get(_code(error))


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code; errors of Python's module itself have none."""
    return getattr(error, "sqlite_errorcode", -1) & 0xFF


@contextmanager
def passing_as_temporary() -> Iterator[None]:
    """Turn errors of SQLite that pass into TemporaryError; the others are defects and go on.

    The log is told SQLite's own name of what a disk does.
    """
    try:
        yield
    except sqlite3.Error as error:
        reason = passing_reason(error) or _DAMAGED.get(_code(error))
        if reason is None:
            raise
        if reason != BUSY:
            _log.error("%s: %s (%s)", reason, error, error.sqlite_errorname)
        raise temporary(reason) from error
