"""Background work that goes on after every failure."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic

from server.errors import StartError, TemporaryError

_RETRY_SECONDS = 0.5
_LOG_AGAIN_SECONDS = 60.0

_log = logging.getLogger("ecss-console.cluster")


async def repeat(work: Callable[[], Awaitable[None]]) -> None:
    """Run `work` again and again, for ever. A failure of the database is a pause, a defect is logged."""
    logged = Seldom()
    while True:
        try:
            await work()
        except TemporaryError:  # logged where it was raised
            await asyncio.sleep(_RETRY_SECONDS)
        except StartError as error:  # for example the file with the password is gone
            if logged.due():
                _log.error("%s", error)
            await asyncio.sleep(_RETRY_SECONDS)
        except Exception:  # noqa: BLE001  whatever it is, the node must stay a part of the cluster
            if logged.due():
                _log.exception("a part of the cluster's work has failed")
            await asyncio.sleep(_RETRY_SECONDS)


class Seldom:
    """Allows a log line once a minute."""

    def __init__(self) -> None:
        """Allow the first line."""
        self._from_seconds = 0.0

    def due(self) -> bool:
        """Whether to log now; True at most once a minute."""
        now = monotonic()
        if now < self._from_seconds:
            return False
        self._from_seconds = now + _LOG_AGAIN_SECONDS
        return True
