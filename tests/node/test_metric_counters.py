"""The counters behind the metrics."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from server.node.measures import CommandMeasures, Durations, Run, Stopwatch


def test_counting_is_cheap_and_bounds_are_inclusive() -> None:
    durations = Durations()
    for seconds in (0.0, 0.001, 0.0011, 10.0, 11.0):
        durations.note(seconds)
    assert (durations.counts[0], durations.counts[1], durations.counts[-2:]) == (2, 1, [1, 1])
    assert durations.below_seconds(0.5) == 0.0025
    assert durations.below_seconds(1.0) == float("inf")
    assert Durations().below_seconds(0.99) == 0.0
    measures = CommandMeasures()
    with suppress(ZeroDivisionError), Run(measures, Stopwatch()) as run:
        run.path = "/x"
        raise ZeroDivisionError
    with suppress(asyncio.CancelledError), Run(measures, Stopwatch()):
        raise asyncio.CancelledError
    assert measures.outcomes == {("/x", "internal"): 1, ("none", "interrupted"): 1}
    assert measures.running == 0
