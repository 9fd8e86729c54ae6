"""Temporary failures of the store: the operator sees `temporary locked`, the log shows the cause.

They pass by themselves, or an administrator can mend them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

from server.errors import TemporaryError
from server.storage.engine import Reason

BUSY = "the store is busy"

_TELL_AGAIN_SECONDS = 60.0

_log = logging.getLogger("ecss-console.storage")


def temporary(reason: str) -> TemporaryError:
    """Return the error that tells the operator to try again because nothing was changed."""
    return TemporaryError(f"{reason}, nothing was changed; try again")


@dataclass(slots=True)
class _Told:
    at_seconds: float
    since_then: int = 0


class Failures:
    """Turns temporary failures of an engine into TemporaryError, and logs each kind once a minute.

    The limit is needed because a full disk fails many times a second.
    """

    def __init__(self, reason: Callable[[BaseException], Reason | None]) -> None:
        """Take an engine's `reason`."""
        self.reason = reason
        self._told: dict[str, _Told] = {}

    @contextmanager
    def passing_as_temporary(self) -> Iterator[None]:
        """Raise TemporaryError for temporary errors; others are defects and pass through."""
        try:
            yield
        except Exception as error:
            reason = self.reason(error)
            if reason is None:
                raise
            if not reason.busy:
                self._tell(reason, error)
            raise temporary(reason.text) from error

    def _tell(self, reason: Reason, error: Exception) -> None:
        told, now = self._told.get(reason.code), monotonic()
        if told is not None and now - told.at_seconds < _TELL_AGAIN_SECONDS:
            told.since_then += 1
            return
        more = f", and {told.since_then} times since it was told last" if told and told.since_then else ""
        _log.error("%s: %s (%s)%s", reason.text, error, reason.code, more)
        self._told[reason.code] = _Told(now)
