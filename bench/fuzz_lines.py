"""Fuzz the grammar: random and mutated lines through tokens, match and completion, on all cores.

python bench/fuzz_lines.py COUNT [--seed N]

Every line must have one of the four outcomes, and no completion may make it wrong. No line may raise, take long or
grow the memory. The figures are CPU time of one line. Ends with status 1 when a line breaks a rule.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from server.grammar.candidates import offer
from server.grammar.declare import Kind
from server.grammar.explain import complaint
from server.grammar.match import Incomplete, Invalid, Ready, Unknown, match
from server.grammar.tokens import Line, tokenize
from server.grammar.tree import Directory, Location, find
from server.model.access import Operator, Role

from lines import LineMaker  # isort: skip  a neighbour, not a package

_ADMIN = Operator("admin", Role.ADMIN, "127.0.0.1:22", "00000000")
#: A line blocks all other sessions for its whole time.
MOST_LINE_SECONDS = 0.2
MOST_GROWTH_KB = 16 * 1024
_HANGS_AFTER_SECONDS = 60
_MOST_REPORTED = 10
_LINES_A_LOOK = 5000
_BUCKET_SECONDS = 10e-6


class _FoundError(Exception):
    """A line that breaks a rule; the text names the rule."""


@dataclass
class Findings:
    """The results of many lines. `buckets` counts lines by CPU time, in steps of 10 microseconds."""

    lines: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    buckets: Counter[int] = field(default_factory=Counter)
    slowest_seconds: float = 0.0
    slowest_line: str = ""
    growth_kb: float = 0.0
    faults: list[str] = field(default_factory=list)
    fault_count: int = 0
    wall_seconds: float = 0.0

    def fault(self, text: str) -> None:
        """Keep the first few faults, count all."""
        self.fault_count += 1
        if len(self.faults) < _MOST_REPORTED:
            self.faults.append(text)

    @property
    def p999_seconds(self) -> float:
        """The time that one line in a thousand exceeds."""
        left = self.lines / 1000
        for bucket in sorted(self.buckets, reverse=True):
            left -= self.buckets[bucket]
            if left <= 0:
                return (bucket + 1) * _BUCKET_SECONDS
        return 0.0

    @property
    def passed(self) -> bool:
        """Whether the run found nothing."""
        return not self.fault_count and self.growth_kb <= MOST_GROWTH_KB


def fuzz(count: int, seed: int) -> Findings:
    """Run `count` lines, spread over the cores."""
    cores = os.cpu_count() or 1
    shares = [count // cores + (index < count % cores) for index in range(cores)]
    total, began = Findings(), time.monotonic()
    with ProcessPoolExecutor(cores) as pool:
        running = [pool.submit(_share, share, seed + index) for index, share in enumerate(shares)]
        for each in running:
            try:
                _merge(total, each.result())
            except BrokenProcessPool:
                total.fault("a process crashed or hung; its traceback stands above")
    total.wall_seconds = time.monotonic() - began
    return total


def _merge(total: Findings, found: Findings) -> None:
    total.lines += found.lines
    total.outcomes += found.outcomes
    total.buckets += found.buckets
    total.fault_count += found.fault_count
    total.faults += found.faults
    total.growth_kb = max(total.growth_kb, found.growth_kb)
    if found.slowest_seconds > total.slowest_seconds:
        total.slowest_seconds, total.slowest_line = found.slowest_seconds, found.slowest_line


def _share(count: int, seed: int) -> Findings:
    maker, found = LineMaker(seed), Findings()
    settled_kb = 0.0
    for index in range(count):
        if index % _LINES_A_LOOK == 0:
            faulthandler.dump_traceback_later(_HANGS_AFTER_SECONDS, exit=True)
        if index == count // 4:  # one-time compilation and caching have ended by then
            gc.collect()
            settled_kb = _resident_kb()
        _one(maker, found)
    faulthandler.cancel_dump_traceback_later()
    gc.collect()
    found.growth_kb = _resident_kb() - settled_kb
    return found


def _one(maker: LineMaker, found: Findings) -> None:
    text, here = maker.line(), maker.place()
    began = time.thread_time()
    try:
        line = tokenize(text)
        outcome = _outcome(maker.root, here, line)
        offered = _offered(maker.root, here, text)
    except Exception:  # noqa: BLE001  whatever it is, it is what the fuzzer looks for
        found.fault(f"{ascii(text)[:400]} in {here}:\n{traceback.format_exc()}")
        return
    seconds = time.thread_time() - began
    found.lines += 1
    found.outcomes[outcome] += 1
    found.buckets[int(seconds / _BUCKET_SECONDS)] += 1
    if seconds > found.slowest_seconds:
        found.slowest_seconds, found.slowest_line = seconds, f"{ascii(text)[:80]} ({len(text)} characters)"
    if seconds > MOST_LINE_SECONDS:
        found.fault(f"{ascii(text)[:120]} ({len(text)} characters) took {seconds * 1000:.0f} ms of CPU")
    for start, typed, candidate in offered:
        if mistake := _mistaken(maker.root, here, text[:start], typed, candidate):
            found.fault(f"{mistake}: {ascii(text)[:200]} ({len(text)} characters) in {here}")


def _outcome(root: Directory, here: Location, line: Line) -> str:
    """Return the name of the outcome, with its message made as dispatch makes it."""
    outcome = match(root, here, line)
    if not isinstance(outcome, Ready | Incomplete | Invalid | Unknown):
        message = f"{outcome!r} is none of the four outcomes"
        raise _FoundError(message)
    if not isinstance(outcome, Ready):
        complaint(outcome)
    return type(outcome).__name__


def _offered(root: Directory, here: Location, text: str) -> Iterable[tuple[int, str, str]]:
    found = offer(root, here, text, _ADMIN)
    names = [candidate.text for candidate in found.candidates]
    if found.lookup is not None and _can_be_stored(found.lookup.beginning, found.expected):
        names.append(f"{found.lookup.before}{found.lookup.beginning}a{found.lookup.after}")
    return [(found.start, found.typed, name) for name in names]


def _can_be_stored(beginning: str, kind: Kind | None) -> bool:
    """Return whether the store could hold a name with this prefix, of this kind or as a domain or client."""
    if kind is not None:
        try:
            kind.parse(f"{beginning}a")
        except ValueError:
            return False
    plain = set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    return set(beginning) <= plain and beginning[:1] not in {".", "-", "_"} and len(beginning) < 64


def _mistaken(root: Directory, here: Location, before: str, typed: str, candidate: str) -> str | None:
    """Return the fault of a completion that replaces the typed word."""
    if not candidate.startswith(typed):
        return f"offers {candidate!r}, which does not begin with {typed!r}"
    line = tokenize(before + candidate)
    outcome = match(root, here, line)
    if isinstance(outcome, Invalid):
        return f"offers {candidate!r}, which makes it wrong: {outcome.message}"
    if isinstance(outcome, Unknown):
        where = find(root, here, line.words[0].text)
        if where is None or where.command is not None:
            return f"offers {candidate!r}, which leads nowhere"
    return None


def _resident_kb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1024


def report(found: Findings) -> list[str]:
    """Return the lines of the report."""
    rate = found.lines / found.wall_seconds
    outcomes = ", ".join(f"{name} {found.outcomes[name]:,}" for name in sorted(found.outcomes))
    slowest = f"max {found.slowest_seconds * 1000:.1f} ms: {found.slowest_line}"
    return [
        f"{found.lines:,} lines in {found.wall_seconds:.0f} s, {rate:,.0f} lines/s: {outcomes}",
        f"CPU of a line: p99.9 {found.p999_seconds * 1000:.2f} ms, {slowest}",
        f"growth {found.growth_kb:,.0f} KB, faults {found.fault_count}",
        *found.faults[:_MOST_REPORTED],
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    findings = fuzz(given.count, given.seed)
    print("\n".join(report(findings)))
    sys.exit(not findings.passed)
