"""What of SQLite's errors passes or can be mended from outside, in plain words."""

from __future__ import annotations

import errno
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

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

_TELL_AGAIN_SECONDS = 60.0

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


def is_full(error: OSError | sqlite3.Error) -> bool:
    """Tell whether it says that the disk, or a quota on it, is used up."""
    if isinstance(error, sqlite3.Error):
        return _code(error) == sqlite3.SQLITE_FULL
    return error.errno in {errno.ENOSPC, errno.EDQUOT}


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code; errors of Python's module itself have none."""
    return getattr(error, "sqlite_errorcode", -1) & 0xFF


@dataclass(slots=True)
class _Told:
    at_seconds: float
    since_then: int = 0


class Trouble:
    """What a store has had of its disk. A full disk fails many times a second: the log is told of it once a minute."""

    def __init__(self) -> None:
        """Begin without any."""
        self._told: dict[str, _Told] = {}

    @contextmanager
    def passing_as_temporary(self) -> Iterator[None]:
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
                self._tell(reason, error)
            raise temporary(reason) from error

    def _tell(self, reason: str, error: sqlite3.Error) -> None:
        told, now = self._told.get(error.sqlite_errorname), monotonic()
        if told is not None and now - told.at_seconds < _TELL_AGAIN_SECONDS:
            told.since_then += 1
            return
        more = f", and {told.since_then} times since it was told last" if told and told.since_then else ""
        _log.error("%s: %s (%s)%s", reason, error, error.sqlite_errorname, more)
        self._told[error.sqlite_errorname] = _Told(now)
