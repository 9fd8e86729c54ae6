"""Measure list, add, Tab and login on stores of 10 to 100,000 integrations and 1 to 10,000 domains.

python bench/scaling.py [--tiny] [--results FOLDER]

Every store has its own server; each round measures all of them in turn. Only `list` may cost more on a larger store.
Prints tables, saves the figures in bench/results, and writes the tables into docs/performance.md. Linux only; about
three minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

from servers import Server, make_key  # isort: skip  a neighbour, not a package
from run import DOCUMENT
from speed import tables
from speed.contenders import ours
from speed.figures import Figures
from speed.machine import circumstances
from speed.results import FOLDER, Result
from speed.scenes import growth
from speed.scenes.growth import Repeats, Size
from speed.seed import seed
from speed.stage import folder_on_disk
from speed.tables import Grid, number

_SMALLEST = Size(1, 10)
_SIZES = {
    "1 domain, 10 integrations": _SMALLEST,
    "1,000 integrations": Size(1, 1_000),
    "10,000 integrations": Size(1, 10_000),
    "100,000 integrations": Size(1, 100_000),
    "100 domains": Size(100, 10),
    "10,000 domains": Size(10_000, 10),
}
_TINY = {"1 domain, 10 integrations": _SMALLEST, "3 domains": Size(3, 10)}
#: The limit of growth over four powers of ten: more than so many times the smallest store's figure, by the least of
#: the rounds, which other work on the machine disturbs least.
_GROWS_ABOVE = 1.5
_ROUNDS = 5


async def measured(folder: Path, sizes: Mapping[str, Size], repeats: Repeats, rounds: int) -> Figures:
    """Create and serve every store, and measure one after another in each round."""
    figures, servers, key = Figures(), dict[str, Server](), folder / "id"
    make_key(key)
    try:
        for label, size in sizes.items():
            contender = ours(folder / label.replace(" ", "_"), key)
            await seed(contender.folder, size.sizes())
            servers[label] = await contender.start()
            print(f"made: {label}", flush=True)
        for turn in range(rounds):
            for label, server in servers.items():
                await growth.play(server, sizes[label], label, repeats, figures)
            print(f"round {turn + 1}", flush=True)
    finally:
        for server in servers.values():
            server.kill()
    return figures


def table(figures: Figures, measure: str, title: str) -> Grid:
    """Return the medians by size, and the largest as a multiple of the smallest store's median."""
    labels = figures.servers()
    lines = [
        (row, *(number(figures.median(row, label, measure) or 0) for label in labels), grown(figures, row, measure))
        for row in figures.rows
    ]
    return Grid(title, ("", *labels, "grows"), tuple(lines))


def grown(figures: Figures, row: str, measure: str) -> str:
    """Return `no`, or the largest figure as a multiple of the smallest store's figure."""
    smallest, *others = [figures.spread(row, label, measure) for label in figures.servers()]
    if smallest is None:
        return "–"
    times = max(each.least for each in others if each is not None) / smallest.least
    return f"x {times:.1f}" if times > _GROWS_ABOVE else "no"


def main() -> int:
    """Measure, print and save; return 1 when a figure grows that must not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="to see that it works; the figures mean nothing")
    parser.add_argument("--results", type=Path, default=FOLDER, metavar="FOLDER")
    given = parser.parse_args()
    machine = circumstances()
    with folder_on_disk() as name:
        repeats = Repeats(4, 2, 2, 20) if given.tiny else Repeats()
        running = measured(Path(name), _TINY if given.tiny else _SIZES, repeats, 1 if given.tiny else _ROUNDS)
        figures = asyncio.run(running)
    grids = [
        table(figures, "cpu_ms", "Server CPU ms per operation, medians of the rounds."),
        table(figures, "p50_ms", "Latency, p50 in ms, client included."),
    ]
    for grid in grids:
        grid.show()
    print(tables.of_circumstances(machine))
    print(f"kept in {Result('scaling', machine, figures).write(given.results)}")
    if given.tiny:
        return 0
    text = "\n\n".join([tables.of_circumstances(machine), *(grid.markdown() for grid in grids)])
    tables.put_between_marks(DOCUMENT, "scaling", text)
    return int(any(grown(figures, row, "cpu_ms") != "no" for row in figures.rows if row not in growth.MAY_GROW))


if __name__ == "__main__":
    sys.exit(main())
