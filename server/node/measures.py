"""What the parts count with: plain numbers, cheap enough for every command. Pure.

The names that they are shown under stand in `metrics.py`.
"""

from __future__ import annotations

from asyncio import CancelledError
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Self

from server.errors import InternalError, InterruptedByOperatorError, OperatorError

#: Upper bounds in seconds, from a read that is at hand to what somebody complains about.
BOUNDS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

#: The path of a line that names no command.
NO_COMMAND = "none"


class Durations:
    """How many took how long: counts by `BOUNDS_SECONDS`, the last for all that took longer, and their sum."""

    __slots__ = ("counts", "sum_seconds")

    def __init__(self) -> None:
        """Begin with none."""
        self.counts = [0] * (len(BOUNDS_SECONDS) + 1)
        self.sum_seconds = 0.0

    def note(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        self.sum_seconds += seconds

    def timed(self) -> Timed:
        """Return a context manager that counts what its block takes, however that ends."""
        return Timed(self)

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def below_seconds(self, share: float) -> float:
        """Return the bound that `share` of them, 0 to 1, stayed within; infinite beyond the last, 0 when none was."""
        wanted = share * self.count
        seen = 0
        for bound, count in zip((*BOUNDS_SECONDS, float("inf")), self.counts, strict=True):
            seen += count
            if count and seen >= wanted:
                return bound
        return 0.0


class Timed:
    """One block that is timed; a class of its own, as a generator would take three times as long."""

    __slots__ = ("_began", "_durations")

    def __init__(self, durations: Durations) -> None:
        """Take where to count."""
        self._durations = durations

    def __enter__(self) -> None:
        """The block begins."""
        self._began = monotonic()

    def __exit__(self, *_error: object) -> None:
        """The block has ended."""
        self._durations.note(monotonic() - self._began)


class Stopwatch:
    """Measures the work of one line: the time since it began, without the waits for its operator's answers."""

    __slots__ = ("_began", "_paused_at", "_waited_seconds")

    def __init__(self) -> None:
        """Begin now."""
        self._began = monotonic()
        self._waited_seconds = 0.0
        self._paused_at: float | None = None

    @property
    def seconds(self) -> float:
        """How long the work has taken so far."""
        now = monotonic() if self._paused_at is None else self._paused_at
        return now - self._began - self._waited_seconds

    @property
    def milliseconds(self) -> int:
        """The same in whole milliseconds, as footers, documents and audit records have it."""
        return round(self.seconds * 1000)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop while the operator is asked."""
        self._paused_at = began = monotonic()
        try:
            yield
        finally:
            self._waited_seconds += monotonic() - began
            self._paused_at = None


class Run:
    """One line that runs: give it its `path` as soon as it is known. A context manager that counts it at its end."""

    __slots__ = ("_measures", "_watch", "path")

    def __init__(self, measures: CommandMeasures, watch: Stopwatch) -> None:
        """Take what measures the line, and begin without a path: the line may name no command."""
        self._measures = measures
        self._watch = watch
        self.path = NO_COMMAND

    def __enter__(self) -> Self:
        """The line begins."""
        self._measures.running += 1
        return self

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        """The line has ended, or was ended."""
        self._measures.running -= 1
        self._measures.note(self.path, "done" if error is None else _outcome(error), self._watch.seconds)


class CommandMeasures:
    """What came of lines, by the path of the declaration, never by what was typed; and how many run now."""

    def __init__(self) -> None:
        """Begin with none."""
        self.running = 0
        self.outcomes: dict[tuple[str, str], int] = {}
        self.durations: dict[str, Durations] = {}

    def note(self, path: str, outcome: str, seconds: float) -> None:
        """Count a line."""
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
    """Return the word for an error, as `| json` has it."""
    if isinstance(error, OperatorError):
        return error.kind
    return InterruptedByOperatorError.kind if isinstance(error, CancelledError) else InternalError.kind
