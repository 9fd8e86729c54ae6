"""The security scorecard: each row is measured on a real server started for it.

python bench/scorecard.py [--only NAME …] [--fuzz-lines N] [--fuzz-packets N]

Prints the table, and writes the measured rows between the marks of docs/security.md; the other rows stay. Ends with
status 1 when a row fails. A row that cannot be measured here says so and does not fail. Loopback only. A whole run
takes an hour, mostly for ten million lines. With fewer lines or packets than promised, that row is not written.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import experiments
from experiments import Finding
from rich.console import Console
from rich.markup import escape
from rich.table import Table

DOCUMENT = Path(__file__).parent.parent / "docs" / "security.md"
_BEGIN, _END = "<!-- scorecard -->", "<!-- /scorecard -->"
#: The number of tries that docs/security.md states.
FUZZED_LINES, FUZZED_PACKETS = 10_000_000, 100_000
_VERDICTS = {True: "pass", False: "FAIL", None: "not measured"}


@dataclass(frozen=True)
class Experiment:
    """One row: name, subject, method and wanted result."""

    name: str
    what: str
    how: str
    wanted: str
    measure: Callable[[], Finding]


def experiments_of(fuzz_lines: int, fuzz_packets: int) -> tuple[Experiment, ...]:
    """Return all rows in their order."""
    return (
        Experiment("ssh-audit", "algorithms", "ssh-audit", "0 fail", experiments.ssh_audit),
        Experiment(
            "tries",
            "password tries before the door closes",
            "wrong passwords on one connection; for a minute from one address, four connections at a time",
            "at most 6 on a connection, 120 in a minute",
            experiments.tries,
        ),
        Experiment(
            "sockets",
            "unauthenticated sockets held",
            "200 silent connections from one address, login_grace_time 5",
            "at most 64, none for 7 s",
            experiments.sockets,
        ),
        Experiment(
            "flood",
            "login of somebody else during a flood",
            "10,000 connections from one address: silent, garbage, half key exchanges, wrong passwords",
            "100 or more, all succeed, p99 at most 1 s",
            experiments.flood,
        ),
        Experiment(
            "timing",
            "unknown, locked, expired users, those without a password, and wrong passwords take the same time",
            "wrong passwords, 1,000 refusals each in mixed order, Mann-Whitney of each kind against unknown users",
            "p at least 0.0025 each: 0.01 for all four",
            experiments.user_or_password,
        ),
        Experiment(
            "offers",
            "a key that is nobody's is refused in the same time whoever is named",
            "as above, 1,000 offers of a key each",
            "p at least 0.0025 each: 0.01 for all four",
            experiments.user_or_key,
        ),
        Experiment(
            "lag",
            "event-loop lag during 50 logins at once",
            "5 times 50 password logins, `whoami` of another session",
            "all succeed, at most 500 ms more",
            experiments.lag,
        ),
        Experiment(
            "attack-stranger",
            "longest wait of another session while a stranger attacks",
            "bench/attackers.py: 60 connections, from 60 addresses; `whoami` of another session, every 20 ms",
            "at most 100 ms each",
            lambda: experiments.attacked_by("stranger"),
        ),
        Experiment(
            "attack-viewer",
            "longest wait of another session while a viewer attacks",
            "bench/attackers.py: 48 channels, each attack for 4 s; `whoami` of another session, every 20 ms",
            "at most 100 ms each",
            lambda: experiments.attacked_by("viewer"),
        ),
        Experiment(
            "attack-operator",
            "longest wait of another session while an operator attacks",
            "bench/attackers.py: 8 to 48 channels; `whoami` of another session, every 20 ms",
            "at most 100 ms each",
            lambda: experiments.attacked_by("operator"),
        ),
        Experiment(
            "tampering",
            "audit tampering found",
            "test_audit_chain.py, test_audit_nodes.py: each byte of 200 records flipped, records dropped, moved",
            "all found",
            experiments.tampering,
        ),
        Experiment(
            "fuzz-lines",
            "lines through tokens, match and completion",
            "bench/fuzz_lines.py",
            "no fault, at most 500 ms each",
            lambda: experiments.lines(fuzz_lines),
        ),
        Experiment(
            "fuzz-packets",
            "mutated SSH packets before, in and after login",
            "bench/fuzz_packets.py",
            "no crash, stall or growth",
            lambda: experiments.packets(fuzz_packets),
        ),
        Experiment(
            "systemd",
            "exposure of the service",
            "systemd-analyze security --offline",
            "at most 1.5",
            experiments.exposure,
        ),
    )


def as_markdown(rows: list[tuple[Experiment, Finding]], known: dict[str, str]) -> str:
    """Return the Markdown table: measured rows, and `known` rows for the others."""
    measured = {
        each.what: f"| {each.what} | {each.how} | {found.result} | {each.wanted} | {_VERDICTS[found.passed]} |"
        for each, found in rows
    }
    lines = [measured.get(each.what) or known.get(each.what) for each in experiments_of(0, 0)]
    return "\n".join(["| what | how | result | wanted | |", "|---|---|---|---|---|", *filter(None, lines)])


def write(rows: list[tuple[Experiment, Finding]]) -> None:
    """Put the rows between the marks of the document, if it has them."""
    text = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.is_file() else ""
    before, begin, rest = text.partition(_BEGIN)
    table, end, after = rest.partition(_END)
    known = {line.split(" | ")[0].removeprefix("| "): line for line in table.splitlines() if line.startswith("| ")}
    if begin and end:
        DOCUMENT.write_text(f"{before}{begin}\n{as_markdown(rows, known)}\n{end}{after}", encoding="utf-8")


def main() -> int:
    """Measure, print, write; return the exit status."""
    known = experiments_of(0, 0)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=[each.name for each in known], metavar="NAME")
    parser.add_argument("--fuzz-lines", type=int, default=FUZZED_LINES)
    parser.add_argument("--fuzz-packets", type=int, default=FUZZED_PACKETS)
    given = parser.parse_args()
    rows: list[tuple[Experiment, Finding]] = []
    console = Console(width=160)
    for each in experiments_of(given.fuzz_lines, given.fuzz_packets):
        if given.only and each.name not in given.only:
            continue
        began = time.monotonic()
        try:
            found = each.measure()
        except Exception as error:  # noqa: BLE001  a row that broke is a row that failed, the others are still wanted
            found = Finding(f"{type(error).__name__}: {error}", passed=False)
        rows.append((each, found))
        console.print(
            f"{each.name}: {found.result} [{_VERDICTS[found.passed]}, {time.monotonic() - began:.0f} s]", markup=False
        )
    table = Table("what", "how", "result", "wanted", "", title="Scorecard", show_lines=True)
    for each, found in rows:
        table.add_row(each.what, each.how, escape(found.result), each.wanted, _VERDICTS[found.passed])
    console.print(table)
    fewer = {
        "fuzz-lines": given.fuzz_lines < FUZZED_LINES,
        "fuzz-packets": given.fuzz_packets < FUZZED_PACKETS,
    }
    write([row for row in rows if not fewer.get(row[0].name)])
    return any(found.passed is False for _, found in rows)


if __name__ == "__main__":
    sys.exit(main())
