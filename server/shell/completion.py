"""Complete at the cursor: combine the candidates of the grammar with the stored names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from server.commands.context import CompletionContext
from server.commands.shared_services import Services
from server.grammar.candidates import Candidate, Offer, offer
from server.grammar.tree import Location
from server.model.access import Operator
from server.model.domains import folded


@dataclass(frozen=True, slots=True)
class Completion:
    """The effect of Tab: the text to `insert` at the cursor, and the `candidates`.

    First delete `replaces` characters before the cursor: a name may be typed in another case. `hints` are other things
    to type, each with a short help: a new name, or Enter.
    """

    insert: str
    candidates: tuple[Candidate, ...]
    hints: tuple[tuple[str, str], ...] = ()
    replaces: int = 0


async def complete(services: Services, operator: Operator, location: Location, text: str) -> Completion:
    """Complete the last word of `text`. Raises TemporaryError when the store is unavailable."""
    offered = offer(services.root, location, text, operator)
    candidates = list(offered.candidates)
    ignores_case = offered.lookup is not None and offered.lookup.ignores_case
    if offered.lookup is not None:
        look = offered.lookup
        names = await look.names(CompletionContext(services, operator), look.arguments, look.beginning)
        goes_on = look.after == "/"
        candidates += [Candidate(look.before + name + look.after, look.help, goes_on=goes_on) for name in names]
    hints = _hints(offered)
    if not candidates:
        return Completion("", (), hints)
    typed, words = offered.typed, [candidate.text for candidate in candidates]
    text = _common_beginning(words, typed, folded if ignores_case else str)
    same = len(_common_beginning([typed, text], typed, str))
    insert = text[same:]
    if len(candidates) == 1 and not candidates[0].goes_on:
        insert += " "
    return Completion(insert, tuple(candidates), hints, len(typed) - same)


def _hints(offered: Offer) -> tuple[tuple[str, str], ...]:
    expected = [(offered.expected.metavar, offered.expected.expected)] if offered.expected else []
    return (*expected, *([("Enter", "run the command")] if offered.ready else []))


def _common_beginning(words: Sequence[str], typed: str, key: Callable[[str], str]) -> str:
    """Return the common prefix of all words.

    The spelling is that of a word that begins with `typed`, if there is one. The first and the last word in order share
    the prefix of all words between them, so only these two are compared.
    """
    keys = [key(word) for word in words]
    first, last = min(keys), max(keys)
    same = 0
    while same < len(first) and first[same] == last[same]:
        same += 1
    return next((word for word in words if word.startswith(typed)), words[0])[:same]
