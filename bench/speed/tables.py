"""Figures as tables: on the terminal, and as Markdown between the marks of a document."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from servers import OURS  # isort: skip  a neighbour, not a package
from speed.figures import Figures
from speed.targets import Verdict

_UNITS = {"kb": "KB", "ms": "ms", "per_second": "a second", "times": "times"}


@dataclass(frozen=True)
class Grid:
    """A table before drawing."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def show(self) -> None:
        """Print it."""
        table = Table(*self.header, title=self.title, title_justify="left")
        for row in self.rows:
            table.add_row(*row)
        Console(width=180).print(table, markup=False) if self.rows else None

    def markdown(self) -> str:
        """Return it as Markdown."""
        lines = [self.header, ("---",) * len(self.header), *self.rows]
        return f"{self.title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def of_cpu(figures: Figures) -> Grid:
    """Return the rows with CPU: its spread and our ratio to each peer, then the latencies."""
    servers = figures.servers()
    peers = [name for name in servers if name != OURS]
    header = ("", *(f"{name} CPU ms" for name in servers), *(f"÷ {peer}" for peer in peers))
    rows = []
    for row in figures.with_measure("cpu_ms"):
        cpu = [_spread(figures, row, name, "cpu_ms") for name in servers]
        ratios = [_ratio(figures, row, "cpu_ms", peer) for peer in peers]
        rows.append((row, *cpu, *ratios, *(_latency(figures, row, name) for name in servers)))
    return Grid(
        "Server CPU per operation: median of the rounds (least – most). Latency: p50 / p99, client included.",
        (*header, *(f"{name} ms" for name in servers)),
        tuple(rows),
    )


def of_others(figures: Figures) -> Grid:
    """Return the rows of other measures."""
    servers = figures.servers()
    peers = [name for name in servers if name != OURS]
    rows = tuple(
        (
            row,
            unit,
            *(_spread(figures, row, name, measure) for name in servers),
            *(_ratio(figures, row, measure, peer) for peer in peers),
        )
        for measure, unit in _UNITS.items()
        for row in figures.with_measure(measure)
    )
    return Grid("Memory, waits, rates.", ("", "", *servers, *(f"÷ {peer}" for peer in peers)), rows)


def of_targets(verdicts: Iterable[Verdict]) -> Grid:
    """Return the targets with their measured values."""
    rows = tuple((each.target.row, each.target.wanted, each.measured, each.word) for each in verdicts)
    return Grid("Targets.", ("", "wanted", "measured", ""), rows)


def of_circumstances(machine: Mapping[str, str]) -> str:
    """Return machine and versions in a sentence."""
    return "; ".join(f"{name}: {value}" for name, value in machine.items() if value) + "."


def number(value: float) -> str:
    """Return a figure with three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def put_between_marks(document: Path, name: str, text: str) -> bool:
    """Write the text between `<!-- name -->` and `<!-- /name -->` of a document; False when it has no such marks."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    whole = document.read_text(encoding="utf-8") if document.is_file() else ""
    before, found, rest = whole.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        return False
    document.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
    return True


def _spread(figures: Figures, row: str, server: str, measure: str) -> str:
    found = figures.spread(row, server, measure)
    if found is None:
        return "–"
    several = found.least != found.most
    return number(found.median) + (f" ({number(found.least)} – {number(found.most)})" if several else "")


def _ratio(figures: Figures, row: str, measure: str, peer: str) -> str:
    found = figures.ratio(row, measure, OURS, peer)
    return f"{found:.2f}" if found is not None else "–"


def _latency(figures: Figures, row: str, server: str) -> str:
    found = [figures.median(row, server, measure) for measure in ("p50_ms", "p99_ms")]
    return " / ".join(number(value) for value in found if value is not None) or "–"
