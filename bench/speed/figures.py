"""Figures by row, by server and by measure, one value of each round."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field

#: row -> server -> measure -> a value of each round. Measures name their unit: `cpu_ms`, `p50_ms`, `kb`, `per_second`.
Rows = dict[str, dict[str, dict[str, list[float]]]]


@dataclass(frozen=True)
class Spread:
    """The median of the rounds, with the smallest and the largest, to show noise."""

    median: float
    least: float
    most: float


@dataclass
class Figures:
    """The figures so far, with rows in the order of their first figure."""

    rows: Rows = field(default_factory=dict)

    def note(self, row: str, server: str, **measures: float) -> None:
        """Add the figures of one round."""
        kept = self.rows.setdefault(row, {}).setdefault(server, {})
        for measure, value in measures.items():
            kept.setdefault(measure, []).append(value)

    def spread(self, row: str, server: str, measure: str) -> Spread | None:
        """Return the median and the ends; None where nothing was measured."""
        values = self.rows.get(row, {}).get(server, {}).get(measure)
        return Spread(statistics.median(values), min(values), max(values)) if values else None

    def median(self, row: str, server: str, measure: str) -> float | None:
        """Return the median; None where nothing was measured."""
        found = self.spread(row, server, measure)
        return found.median if found else None

    def ratio(self, row: str, measure: str, ours: str, peer: str) -> float | None:
        """Return our median ÷ the peer's; None where one was not measured."""
        mine, theirs = self.median(row, ours, measure), self.median(row, peer, measure)
        return mine / theirs if mine is not None and theirs else None

    def servers(self) -> list[str]:
        """Return the names of the servers, in the order of their first figure."""
        return list(dict.fromkeys(server for by_server in self.rows.values() for server in by_server))

    def with_measure(self, measure: str) -> Iterator[str]:
        """Return the rows where at least one server has this measure."""
        for row, by_server in self.rows.items():
            if any(measure in measures for measures in by_server.values()):
                yield row
