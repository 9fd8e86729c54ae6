"""Print the changes between two saved results.

python bench/compare.py BEFORE.json AFTER.json

A figure has changed only if its range over the rounds, least to most, does not overlap the other result's range.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from speed.figures import Figures, Spread
from speed.results import Result
from speed.tables import Grid, number, of_circumstances


def compared(before: Figures, after: Figures) -> Grid:
    """Return each figure that both results have, with the ratio of the later one to the earlier."""
    lines = []
    for row, by_server in after.rows.items():
        for server, measures in by_server.items():
            for measure in measures:
                was, now = before.spread(row, server, measure), after.spread(row, server, measure)
                if was is not None and now is not None and measure != "client_cpu_ms":
                    ratio = f"{now.median / was.median:.2f}" if was.median else "–"
                    lines.append((row, server, measure, _words(was), _words(now), ratio, _verdict(was, now)))
    header = ("", "", "", "before", "after", "after ÷ before", "")
    return Grid("Medians (least – most).", header, tuple(lines))


def _words(found: Spread) -> str:
    return f"{number(found.median)} ({number(found.least)} – {number(found.most)})"


def _verdict(was: Spread, now: Spread) -> str:
    if was.least == was.most or now.least == now.most:
        return "one round"
    if now.least > was.most:
        return "more"
    return "less" if now.most < was.least else ""


def main() -> None:
    """Read two results and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    given = parser.parse_args()
    before, after = Result.read(given.before), Result.read(given.after)
    print("before:", of_circumstances(before.machine))
    print("after: ", of_circumstances(after.machine))
    compared(before.figures, after.figures).show()


if __name__ == "__main__":
    main()
