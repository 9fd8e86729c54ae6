"""The state of this node: its addresses, its host keys and the sources of its metrics."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from time import monotonic, time

from server.node import metrics, process
from server.node.measures import CommandMeasures, Durations
from server.node.metrics import Reading, single

#: Returns the metrics of one part.
Source = Callable[[], Iterable[Reading]]
_LOOK_SECONDS = 0.5
_TOLD_SECONDS = 1.0

_log = logging.getLogger("ecss-console.loop")


class Node:
    """The state of this process.

    Each part of the server sets its fields at the start and adds its metrics. `places` are the listening addresses,
    each as `HOST port N`. `fingerprints` are those of the host keys. The first belongs to the key in use.
    """

    def __init__(self) -> None:
        """Start the clocks and counters."""
        self.since = datetime.now().astimezone()
        self.places: Sequence[str] = ()
        self.fingerprints: Sequence[str] = ()
        self.schema = ""
        self.commands = CommandMeasures()
        self.logins: Counter[tuple[str, ...]] = Counter()
        self._lag = Durations()
        self._began = monotonic()
        self._began_at_seconds = time()
        self._sources: list[Source] = [self._own, process.readings]

    def add(self, source: Source) -> None:
        """Add the metrics of one part."""
        self._sources.append(source)

    def readings(self) -> list[Reading]:
        """Return the present values of all metrics."""
        return [reading for source in self._sources for reading in source()]

    def up_seconds(self) -> float:
        """Return the uptime."""
        return monotonic() - self._began

    async def watch_loop(self) -> None:
        """Measure the delay of the event loop for ever, and log every long delay."""
        while True:
            due = monotonic() + _LOOK_SECONDS
            await asyncio.sleep(_LOOK_SECONDS)
            late_seconds = max(0.0, monotonic() - due)
            self._lag.note(late_seconds)
            if late_seconds >= _TOLD_SECONDS:
                _log.warning("the event loop was blocked for %.1f seconds: no session was served", late_seconds)

    def _own(self) -> Iterable[Reading]:
        yield Reading(metrics.LOGINS, [*self.logins.items()])
        yield Reading(metrics.COMMANDS, [*self.commands.outcomes.items()])
        yield Reading(metrics.COMMAND_SECONDS, [((path,), each) for path, each in self.commands.durations.items()])
        yield single(metrics.COMMANDS_RUNNING, self.commands.running)
        yield single(metrics.LOOP_LAG, self._lag)
        yield single(metrics.TASKS, len(asyncio.all_tasks()))
        yield single(metrics.START_TIME, self._began_at_seconds)
