"""Counters and histograms, cheap enough to update for every command. Pure.

`metrics.py` declares the names of the published metrics.
"""

from __future__ import annotations

from asyncio import CancelledError
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Self

from server.errors import InternalError, InterruptedByOperatorError, OperatorError

#: Upper bounds of the histograms, from a cached read to a delay that users complain about.
BOUNDS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

#: Replaces the path when a line names no command.
NO_COMMAND = "none"


class Durations:
    """A histogram of durations: one count per bound, one count above the last bound, and the sum."""

    __slots__ = ("counts", "sum_seconds")

    def __init__(self) -> None:
        """Start at zero."""
        self.counts = [0] * (len(BOUNDS_SECONDS) + 1)
        self.sum_seconds = 0.0

    def note(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        self.sum_seconds += seconds

    def timed(self) -> Timed:
        """Return a context manager that measures its block, even if the block raises."""
        return Timed(self)

    @property
    def count(self) -> int:
        """The number of durations."""
        return sum(self.counts)

    def below_seconds(self, share: float) -> float:
        """Return the bound that a `share` (0 to 1) of the durations does not exceed.

        Returns infinity above the last bound, and 0 without durations.
        """
        wanted = share * self.count
        seen = 0
        for bound, count in zip((*BOUNDS_SECONDS, float("inf")), self.counts, strict=True):
            seen += count
            if count and seen >= wanted:
                return bound
        return 0.0


class Timed:
    """Measures one block. It is a class because a generator-based context manager is three times as slow."""

    __slots__ = ("_began", "_durations")

    def __init__(self, durations: Durations) -> None:
        """Take the histogram that counts the duration."""
        self._durations = durations

    def __enter__(self) -> None:
        """Begin to measure."""
        self._began = monotonic()

    def __exit__(self, *_error: object) -> None:
        """Count the duration."""
        self._durations.note(monotonic() - self._began)


class Stopwatch:
    """Measures the time of one line, without the time the operator takes to answer questions."""

    __slots__ = ("_began", "_paused_at", "_waited_seconds")

    def __init__(self) -> None:
        """Begin now."""
        self._began = monotonic()
        self._waited_seconds = 0.0
        self._paused_at: float | None = None

    @property
    def seconds(self) -> float:
        """The time so far."""
        now = monotonic() if self._paused_at is None else self._paused_at
        return now - self._began - self._waited_seconds

    @property
    def milliseconds(self) -> int:
        """The time in whole milliseconds, as footers, documents and audit records show it."""
        return round(self.seconds * 1000)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pause inside the block, while the operator answers."""
        self._paused_at = began = monotonic()
        try:
            yield
        finally:
            self._waited_seconds += monotonic() - began
            self._paused_at = None


class Run:
    """A context manager that counts one line. Set `path` as soon as the command is known.

    Set `error` to the error of a command that has a reply, too.
    """

    __slots__ = ("_measures", "_watch", "error", "path")

    def __init__(self, measures: CommandMeasures, watch: Stopwatch) -> None:
        """Start with the path `none`, because the line may name no command."""
        self._measures = measures
        self._watch = watch
        self.path = NO_COMMAND
        self.error: OperatorError | None = None

    @property
    def recorded_path(self) -> str:
        """The path of the command as the audit has it: empty when the line names none."""
        return "" if self.path == NO_COMMAND else self.path

    def __enter__(self) -> Self:
        """Count the line as running."""
        self._measures.running += 1
        return self

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        """Count the outcome and the duration."""
        self._measures.running -= 1
        failed = error or self.error
        self._measures.note(self.path, "done" if failed is None else _outcome(failed), self._watch.seconds)


class CommandMeasures:
    """Outcomes and durations of lines by declared command path, and the number of running lines."""

    def __init__(self) -> None:
        """Start at zero."""
        self.running = 0
        self.outcomes: dict[tuple[str, str], int] = {}
        self.durations: dict[str, Durations] = {}

    def note(self, path: str, outcome: str, seconds: float) -> None:
        """Count a finished line."""
        key = (path, outcome)
        try:
            self.outcomes[key] += 1
        except KeyError:
            self.outcomes[key] = 1
        durations = self.durations.get(path)
        if durations is None:
            durations = self.durations[path] = Durations()
        durations.note(seconds)


def _outcome(error: BaseException) -> str:
    """Return the kind of an error, as `| json` shows it."""
    if isinstance(error, OperatorError):
        return error.kind
    return InterruptedByOperatorError.kind if isinstance(error, CancelledError) else InternalError.kind
