"""Another session, in its own process, that measures its wait for answers during a test."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from dataclasses import dataclass, field
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from types import TracebackType
from typing import Self

import asyncssh

_PAUSE_SECONDS = 0.02
_PATIENCE_SECONDS = 60.0


@dataclass
class Witness:
    """Asks `whoami` again and again while it is entered; `delays_seconds` stand after it has left.

    `failure` says why it got no further, if it did not.
    """

    port: int
    key: Path
    delays_seconds: list[float] = field(default_factory=list)
    failure: str = ""
    pause_seconds: float = _PAUSE_SECONDS

    def __enter__(self) -> Self:
        """Log in and begin."""
        context = multiprocessing.get_context("spawn")
        self._stop, self._found = context.Event(), context.Queue()
        words = (self.port, str(self.key), self.pause_seconds, self._stop, self._found)
        self._process = context.Process(target=_watch, args=words, daemon=True)
        self._process.start()
        self._found.get(timeout=_PATIENCE_SECONDS)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End and collect the results."""
        self._stop.set()
        self.delays_seconds, self.failure = self._found.get(timeout=_PATIENCE_SECONDS * 2)
        self._process.join()


def quantile(values: list[float], part: float) -> float:
    """Return the value that `part` of the values do not exceed; 0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else 0.0


def _watch(port: int, key: str, pause_seconds: float, stop: Event, found: Queue[object]) -> None:
    delays: list[float] = []
    failure = ""
    try:
        asyncio.run(_ask(port, key, pause_seconds, stop, found, delays))
    except (OSError, asyncssh.Error, TimeoutError) as error:
        failure = f"{type(error).__name__}: {error}"
    found.put((delays, failure))


async def _ask(
    port: int, key: str, pause_seconds: float, stop: Event, found: Queue[object], delays: list[float]
) -> None:
    options = {"known_hosts": None, "agent_path": None, "config": None}
    async with await asyncssh.connect("127.0.0.1", port, username="admin", client_keys=[key], **options) as connection:
        found.put("begun")
        while not stop.is_set():
            began = time.perf_counter()
            await asyncio.wait_for(connection.run("whoami", check=True), _PATIENCE_SECONDS)
            delays.append(time.perf_counter() - began)
            await asyncio.sleep(pause_seconds)
