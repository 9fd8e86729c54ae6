"""Completion at the cursor: what the grammar offers, with the names that are stored now."""

from __future__ import annotations

from dataclasses import dataclass

from server.commands.call import Console, Seeker
from server.grammar.candidates import Candidate, Offer, offer
from server.grammar.tree import Location
from server.model.access import Operator


@dataclass(frozen=True, slots=True)
class Completion:
    """What Tab does: `insert` is what to add at the cursor, or else `candidates` are there to choose from.

    `hints` are what else can be typed, with a word of help: a new name, or Enter.
    """

    insert: str
    candidates: tuple[Candidate, ...]
    hints: tuple[tuple[str, str], ...] = ()


async def complete(console: Console, operator: Operator, here: Location, text: str) -> Completion:
    """Complete the end of `text`; stored names are asked of the store. Raises TemporaryError when it is away."""
    offered = offer(console.root, here, text, operator)
    candidates = list(offered.candidates)
    if offered.lookup is not None:
        look = offered.lookup
        names = await look.names(Seeker(console, operator), look.arguments, look.beginning)
        goes_on = look.after == "/"
        candidates += [Candidate(look.before + name + look.after, look.help, goes_on=goes_on) for name in names]
    hints = _hints(offered)
    if not candidates:
        return Completion("", (), hints)
    insert = _common_beginning([candidate.text for candidate in candidates])[len(offered.typed) :]
    if len(candidates) == 1 and not candidates[0].goes_on:
        insert += " "
    return Completion(insert, tuple(candidates), hints)


def _hints(offered: Offer) -> tuple[tuple[str, str], ...]:
    expected = [(offered.expected.metavar, offered.expected.expected)] if offered.expected else []
    return (*expected, *([("Enter", "run the command")] if offered.ready else []))


def _common_beginning(words: list[str]) -> str:
    """Return what all words begin with; the first and the last in order differ the most."""
    first, last = min(words), max(words)
    same = 0
    while same < len(first) and first[same] == last[same]:
        same += 1
    return first[:same]
