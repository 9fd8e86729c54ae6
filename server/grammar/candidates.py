"""Find the words that can come next at the end of a line. Pure.

Declared names are candidates; stored names need a `Lookup`. Every candidate fits: with it, the line leads to a
directory, can run, or lacks words. It is never invalid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from server.grammar.declare import Candidates, Command, Kind, PathTo
from server.grammar.filters import FILTERS
from server.grammar.match import HELP, Incomplete, Invalid, Ready, match, sort_words
from server.grammar.tokens import MOST_CHARACTERS, Line, Word, is_comment, tokenize
from server.grammar.tree import Directory, Found, Location, find, locate, offered, starts, walk
from server.model.access import Operator

#: Nothing is offered when the line has less room than this.
_LONGEST_OFFERED = 512


@dataclass(frozen=True, slots=True)
class Candidate:
    """A word that can stand at the cursor.

    `text` replaces the typed word. `goes_on` means that more follows (`a/`).
    """

    text: str
    help: str
    goes_on: bool = False


@dataclass(frozen=True, slots=True)
class Lookup:
    """A query for stored names that begin with `beginning`. `before` and `after` turn a name into a word.

    With `ignores_case` names match in any case.
    """

    names: Candidates
    arguments: Mapping[str, Any]
    beginning: str
    before: str = ""
    after: str = ""
    help: str = ""
    ignores_case: bool = False


@dataclass(frozen=True, slots=True)
class Offer:
    """The words that can replace the text from `start` to the cursor.

    `expected` is the kind of word that belongs there. `ready` means that the line before the cursor can run.
    """

    start: int
    typed: str
    candidates: tuple[Candidate, ...] = ()
    lookup: Lookup | None = None
    expected: Kind | None = None
    ready: bool = False


@dataclass(frozen=True, slots=True)
class _Cursor:
    """The word at the cursor and the whole words before it."""

    root: Directory
    here: Location
    operator: Operator
    before: tuple[Word, ...]
    typed: Word

    def nothing(self) -> Offer:
        return Offer(self.typed.start, self.typed.text)

    def fits(self, *words: Word) -> bool:
        """Tell whether the line stays valid when these words follow those before the cursor."""
        return not isinstance(match(self.root, self.here, Line((*self.before, *words))), Invalid)


def offer(root: Directory, here: Location, text: str, operator: Operator) -> Offer:
    """Return the possible next words at the end of `text`; none for an invalid or forbidden line."""
    line = tokenize(text)
    fresh = text == "" or text[-1] in " \t"
    full = len(text) > MOST_CHARACTERS - _LONGEST_OFFERED
    if line.filters and line.mistake is None and not full:
        return _filter_names(root, here, text, line, operator)
    if full or line.mistake is not None or not (fresh or line.words) or is_comment(text):
        return Offer(len(text), "")
    typed = Word("", "", len(text)) if fresh else line.words[-1]
    cursor = _Cursor(root, here, operator, line.words if fresh else line.words[:-1], typed)
    if not typed.bare:
        return cursor.nothing()
    if not cursor.before:
        return _paths(cursor, commands=True)
    found = find(root, here, cursor.before[0].text)
    if found is None or found.command is None or not operator.may(found.command.permission) or not cursor.fits():
        return cursor.nothing()
    ready = fresh and isinstance(match(root, here, Line(cursor.before)), Ready)
    return replace(_next_word(cursor, found.command, found.bound), ready=ready)


def _filter_names(root: Directory, here: Location, text: str, line: Line, operator: Operator) -> Offer:
    """Complete the name of a filter. A filter's word cannot be completed."""
    *before, words = line.filters
    fresh = text[-1] in " \t"
    if len(words) > 1 or bool(words) == fresh:  # the cursor is after the name, or directly after the bar
        return Offer(len(text), "")
    typed = words[0] if words else Word("", "", len(text))
    outcome = match(root, here, Line(line.words, (*before, ())))  # valid so far, but a filter is missing
    if not isinstance(outcome, Incomplete) or not operator.may(outcome.command.permission):
        return Offer(typed.start, typed.text)
    offered = [Candidate(each.name, each.help) for each in FILTERS if each.name.startswith(typed.text)]
    return Offer(typed.start, typed.text, tuple(offered))


def _next_word(cursor: _Cursor, command: Command, bound: Mapping[str, str]) -> Offer:
    words, typed = sort_words(command, cursor.before[1:]), cursor.typed
    places = {} if words.help_wanted else _reached(cursor.operator, command, bound)
    if words.help_wanted or places is None:
        return cursor.nothing()
    named = [argument for argument in command.arguments if not argument.repeated]
    places |= {each.name: text for each, text in zip(named, words.positional, strict=False)}
    taking = words.waiting or (None if typed.text.startswith("--") else words.open)
    if taking is not None and taking.kind is not None:
        return _values(cursor, taking.kind, places)
    if typed.text.startswith("--") and not words.options_ended:
        return Offer(typed.start, typed.text, _options(cursor, command))
    if len(words.positional) < len(command.arguments):
        argument = command.arguments[len(words.positional)]
        offered = _values(cursor, argument.kind, places)
        options = () if argument.required or typed.text or words.options_ended else _options(cursor, command)
        return replace(offered, candidates=offered.candidates + options)
    if typed.text or words.options_ended:
        return cursor.nothing()
    return Offer(typed.start, typed.text, _options(cursor, command))


def _reached(operator: Operator, command: Command, bound: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the values of the places in a command's path; None when one is a domain that is not granted."""
    places = {name: place.kind.parse(bound[name]) for name, place in command.places.items()}
    granted = [places[name] for name, place in command.places.items() if place.kind.granted]
    return places if all(operator.reaches(domain) for domain in granted) else None


def _values(cursor: _Cursor, kind: Kind, places: Mapping[str, Any]) -> Offer:
    typed = cursor.typed
    if kind.path_to is not None:
        return _paths(cursor, commands=kind.path_to is PathTo.ANYTHING)
    lookup = None
    if kind.candidates:
        lookup = Lookup(kind.candidates, places, typed.text, help=kind.metavar, ignores_case=kind.ignores_case)
    return Offer(typed.start, typed.text, lookup=lookup, expected=kind)


def _within_reach(operator: Operator, found: Found) -> bool:
    """Tell whether the names in a path are valid, and their domains granted."""
    try:
        names = [(place, place.kind.parse(text)) for place, text in found.places]
    except ValueError:
        return False
    return all(operator.reaches(name) for place, name in names if place.kind.granted)


def _options(cursor: _Cursor, command: Command) -> tuple[Candidate, ...]:
    """Return the options after which the line stays valid."""
    typed = cursor.typed.text
    offered = [
        Candidate(option.word, option.relation.help)
        for option in command.options
        if option.word.startswith(typed)
        and (option.relation.permission is None or cursor.operator.may(option.relation.permission))
        and cursor.fits(Word(option.word, option.word, 0))
    ]
    if typed and HELP.startswith(typed):
        offered.append(Candidate(HELP, "show the help of this command"))
    return tuple(offered)


def _paths(cursor: _Cursor, *, commands: bool) -> Offer:
    """Complete the last segment of a path in the tree, with `/` after directories."""
    typed = cursor.typed
    parent, slash, last = typed.text.rpartition("/")
    before = parent + slash
    near: dict[str, Candidate] = {}
    lookup = None
    for start in starts(cursor.here, typed.text):
        found = walk(cursor.root, locate(before, start)[0])
        if found is None or found.command is not None or not _within_reach(cursor.operator, found):
            continue
        names = _names(cursor, found.directory, before, last, commands=commands)
        if start != cursor.here and not typed.text:  # nothing typed yet: of the root, offer only its global commands
            names = {name: candidate for name, candidate in names.items() if not candidate.goes_on}
        near = names | near
        place = found.directory.place
        inside = found.directory.inside
        if place is not None and inside is not None and place.kind.candidates is not None and lookup is None:
            lookup = Lookup(place.kind.candidates, {}, last, before, "/", inside.help, place.kind.ignores_case)
    return Offer(typed.start, typed.text, tuple(sorted(near.values(), key=_directories_first)), lookup)


def _names(cursor: _Cursor, directory: Directory, before: str, last: str, *, commands: bool) -> dict[str, Candidate]:
    """Return the candidates of a directory whose names begin with `last`, by name."""
    names = {
        name: Candidate(f"{before}{name}/", inside.help, goes_on=True)
        for name, inside in directory.directories.items()
        if name.startswith(last) and offered(inside, cursor.operator)
    }
    for name, command in directory.commands.items() if commands else ():
        if name.startswith(last) and cursor.operator.may(command.permission):
            names[name] = Candidate(before + name, command.summary)
    return names


def _directories_first(candidate: Candidate) -> tuple[bool, str]:
    return not candidate.goes_on, candidate.text
