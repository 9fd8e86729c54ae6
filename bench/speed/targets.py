"""The speed targets, and whether the figures meet them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from servers import OURS  # isort: skip  a neighbour, not a package
from speed.contenders import ERLANG
from speed.figures import Figures
from speed.scenes import adds, cold_start, lines, lists, logins, memory
from speed.stage import Counts


@dataclass(frozen=True)
class Target:
    """One target: a measure of a row, or ours ÷ the `peer`'s, at most (or at least) `limit`."""

    row: str
    measure: str
    limit: float
    unit: str = ""
    peer: str = ""
    at_least: bool = False

    @property
    def wanted(self) -> str:
        """The target in words."""
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}{self._unit}"

    @property
    def _unit(self) -> str:
        return f" x {self.peer}" if self.peer else f" {self.unit}"

    def verdict(self, figures: Figures) -> Verdict:
        """Return the measured value and whether it meets the target."""
        found = (
            figures.ratio(self.row, self.measure, OURS, self.peer)
            if self.peer
            else figures.median(self.row, OURS, self.measure)
        )
        if found is None:
            return Verdict(self, "not measured", None)
        met = found >= self.limit if self.at_least else found <= self.limit
        return Verdict(self, f"{found:.2f}{self._unit}", met)


@dataclass(frozen=True)
class Verdict:
    """A target with its measured value; `met` is None if it could not be measured."""

    target: Target
    measured: str
    met: bool | None

    @property
    def word(self) -> str:
        """The verdict in a word."""
        return {True: "met", False: "MISSED", None: "not measured"}[self.met]


def targets(counts: Counts) -> tuple[Target, ...]:
    """Return all targets; those of memory count for both numbers of shells."""
    return (
        Target(logins.ROW, "cpu_ms", 0.8, peer=ERLANG),
        Target(lines.EXEC, "cpu_ms", 1.2, peer=ERLANG),
        Target(lines.PLAIN, "cpu_ms", 1.2, peer=ERLANG),
        *(Target(memory.row("plain", count), "kb", 0.25, peer=ERLANG) for count in counts.shells),
        *(Target(memory.row("with a person's line begun", count), "kb", 1.4, peer=ERLANG) for count in counts.shells),
        Target(cold_start.BANNER, "p50_ms", 1.3, peer=ERLANG),
        Target(adds.BEYOND, "ms", 3, "ms"),
        Target(adds.GAIN, "times", 5, "times", at_least=True),
        Target(adds.GAIN + adds.SLOW, "times", 5, "times", at_least=True),
        Target(lines.KEY, "cpu_ms", 1, "ms of CPU"),
        Target(lists.FIRST_BYTE, "ms", 50, "ms"),
        Target(lists.OTHERS_WAIT, "ms", 20, "ms"),
    )


def judged(figures: Figures, counts: Counts) -> Iterable[Verdict]:
    """Return the verdict of every target."""
    return [target.verdict(figures) for target in targets(counts)]
