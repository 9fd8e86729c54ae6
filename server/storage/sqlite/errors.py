"""Which errors of SQLite pass or can be mended from outside, in plain words."""

from __future__ import annotations

import errno
import sqlite3

from server.storage.engine import Reason
from server.storage.temporary import BUSY

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


def passing_reason(error: sqlite3.Error) -> str | None:
    """Return what is wrong in plain words when it passes or can be mended from outside, else None."""
    return _PASSING.get(_primary_code(error))


def open_reason(error: BaseException) -> Reason | None:
    """Return why an error of a database that is open passes, or None for any other error."""
    if not isinstance(error, sqlite3.Error):
        return None
    text = passing_reason(error) or _DAMAGED.get(_primary_code(error))
    return Reason(text, error.sqlite_errorname, busy=text == BUSY) if text else None


def is_busy(error: sqlite3.Error) -> bool:
    """Tell whether another program holds the database."""
    return _primary_code(error) == sqlite3.SQLITE_BUSY


def is_failed_sync(error: sqlite3.Error) -> bool:
    """Tell whether all was written and only the sync to the disk has failed."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_FSYNC


def is_full(error: OSError | sqlite3.Error) -> bool:
    """Tell whether it says that the disk, or a quota on it, is used up."""
    if isinstance(error, sqlite3.Error):
        return _primary_code(error) == sqlite3.SQLITE_FULL
    return error.errno in {errno.ENOSPC, errno.EDQUOT}


def _primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code; errors of Python's module itself have none."""
    return getattr(error, "sqlite_errorcode", -1) & 0xFF
