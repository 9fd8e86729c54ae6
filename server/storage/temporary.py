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

_LOG_AGAIN_SECONDS = 60.0

_log = logging.getLogger("ecss-console.storage")


def temporary(reason: str) -> TemporaryError:
    """Return the error that tells the operator to try again because nothing was changed."""
    return TemporaryError(f"{reason}, nothing was changed; try again")


@dataclass(slots=True)
class _Logged:
    at_seconds: float
    since_then: int = 0


class Failures:
    """Turns temporary failures of an engine into TemporaryError, and logs each kind once a minute.

    The limit is needed because a full disk fails many times a second.
    """

    def __init__(self, reason: Callable[[BaseException], Reason | None]) -> None:
        """Take an engine's `reason`."""
        self.reason = reason
        self._logged: dict[str, _Logged] = {}

    @contextmanager
    def raised_as_temporary(self) -> Iterator[None]:
        """Raise TemporaryError for temporary errors; others are defects and pass through."""
        try:
            yield
        except Exception as error:
            reason = self.reason(error)
            if reason is None:
                raise
            if not reason.busy:
                self._log_once(reason, error)
            raise temporary(reason.text) from error

    def _log_once(self, reason: Reason, error: Exception) -> None:
        logged, now = self._logged.get(reason.code), monotonic()
        if logged is not None and now - logged.at_seconds < _LOG_AGAIN_SECONDS:
            logged.since_then += 1
            return
        more = f", and {logged.since_then} times since it was last logged" if logged and logged.since_then else ""
        _log.error("%s: %s (%s)%s", reason.text, error, reason.code, more)
        self._logged[reason.code] = _Logged(now)
