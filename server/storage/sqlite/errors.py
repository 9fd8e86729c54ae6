"""Errors of SQLite that are temporary or can be mended by an administrator, in plain words."""

from __future__ import annotations

import errno
import sqlite3

from server.storage.engine import Reason
from server.storage.temporary import BUSY

#: Texts by SQLite's primary result code.
_TEMPORARY = {
    sqlite3.SQLITE_BUSY: BUSY,
    sqlite3.SQLITE_LOCKED: BUSY,
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk does not answer",
    sqlite3.SQLITE_READONLY: "the store can only be read",
    sqlite3.SQLITE_CANTOPEN: "the store cannot be opened",
    sqlite3.SQLITE_NOMEM: "the machine is out of memory",
}
#: In an open store, SQLite also reports an unreadable sector with these codes. At the start they mean damage.
_DAMAGE = {
    sqlite3.SQLITE_CORRUPT: "the disk cannot be read or the store is damaged",
    sqlite3.SQLITE_NOTADB: "the disk cannot be read or the store is damaged",
}


def temporary_reason(error: sqlite3.Error) -> str | None:
    """Return the plain text of an error that is temporary or can be mended; None for others."""
    return _TEMPORARY.get(_primary_code(error))


def open_reason(error: BaseException) -> Reason | None:
    """Return why an error of an open database is temporary; None for any other error."""
    if not isinstance(error, sqlite3.Error):
        return None
    text = temporary_reason(error) or _DAMAGE.get(_primary_code(error))
    return Reason(text, error.sqlite_errorname, busy=text == BUSY) if text else None


def is_busy(error: sqlite3.Error) -> bool:
    """Tell whether another program holds the database."""
    return _primary_code(error) == sqlite3.SQLITE_BUSY


def is_failed_sync(error: sqlite3.Error) -> bool:
    """Tell whether everything was written and only the sync to the disk has failed."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_FSYNC


def is_full(error: OSError | sqlite3.Error) -> bool:
    """Tell whether the disk, or a quota on it, is used up."""
    if isinstance(error, sqlite3.Error):
        return _primary_code(error) == sqlite3.SQLITE_FULL
    return error.errno in {errno.ENOSPC, errno.EDQUOT}


def _primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code; errors that the Python module raises itself have none."""
    return getattr(error, "sqlite_errorcode", -1) & 0xFF
