"""Match a line against the command tree, with four outcomes, as in FRR and Junos.

`Ready` can run; `Incomplete` lacks words; `Invalid` has wrong ones; `Unknown` names no command. The match checks all
arguments before any look-up in the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from server.grammar.declare import Argument, Command, Option
from server.grammar.filters import FILTERS, Filter, FilterLacksWordError, parse_filters
from server.grammar.tokens import Line, Word
from server.grammar.tree import Directory, Found, Location, find, locate, starts, walk
from server.model.names import with_foreign

HELP = "--help"
#: Dashes that people type before an option. Text processors turn two dashes into a long one.
_DASHES = "-\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}"


@dataclass(frozen=True)
class Ready:
    """The command can run with `arguments`, by parameter name, and the repeated words in `rest`."""

    command: Command
    arguments: Mapping[str, Any]
    rest: tuple[Any, ...] = ()
    help_wanted: bool = False
    filters: tuple[Filter, ...] = ()


@dataclass(frozen=True)
class Incomplete:
    """Words are missing. `message` names the first."""

    command: Command
    message: str


@dataclass(frozen=True)
class Invalid:
    """Words are wrong. `command` is None when the mistake precedes the command."""

    command: Command | None
    message: str


@dataclass(frozen=True)
class Unknown:
    """The first word names no command. `near` is a similar command, as it would be typed.

    `absent` names a missing thing in its path, such as "domain biysk.local". The caller fills it in from the store.
    """

    word: str
    near: str | None
    absent: str | None = None


Match = Ready | Incomplete | Invalid | Unknown


@dataclass
class Words:
    """The words of one command, sorted into positional words and options. Completion reads it too.

    `waiting` is an option that lacks its value, `open` one whose value may go on, and `more` holds its further words.
    """

    positional: list[str] = field(default_factory=list)
    values: dict[str, str | bool] = field(default_factory=dict)
    waiting: Option | None = None
    open: Option | None = None
    more: dict[str, list[str]] = field(default_factory=dict)
    help_wanted: bool = False
    options_ended: bool = False


class _WrongWordError(ValueError):
    """A word that the command does not take. The text is the message."""


def match(root: Directory, here: Location, line: Line) -> Match:
    """Match a line that was typed in the directory `here`."""
    found = find(root, here, line.words[0].text) if line.words else None
    command = found.command if found else None
    mistake = line.mistake or ("a command is expected before |" if not line.words else None)
    if mistake is not None:
        return Invalid(command, mistake)
    if found is None or command is None:
        path = next((word.typed for word in line.words[1:2] if _is_command(root, here, word)), None)
        return Unknown(line.words[0].typed, path or _near(root, here, line.words[0].text, found))
    try:
        words = sort_words(command, line.words[1:])
        outcome = Ready(command, {}, help_wanted=True) if words.help_wanted else _bind(command, found.bound, words)
        filters = parse_filters(line.filters)
    except FilterLacksWordError as lacking:
        return Incomplete(command, str(lacking))
    except ValueError as wrong:
        return Invalid(command, str(wrong))
    return replace(outcome, filters=filters) if filters and isinstance(outcome, Ready) else outcome


def _is_command(root: Directory, here: Location, word: Word) -> bool:
    """Tell whether a word is the path of a command.

    People type the word `delete` before a path, because the vendor's documentation prints it there (source:
    cocon-facts).
    """
    found = find(root, here, word.text) if "/" in word.text else None
    return found is not None and found.command is not None


def sort_words(command: Command, words: tuple[Word, ...]) -> Words:
    """Sort words into options and positional words, without parsing values.

    Raises ValueError with the message for a word in a wrong place.
    """
    if any(word.text == HELP for word in _before_dashes(words)):
        return Words(help_wanted=True)
    found = Words()
    for word in words:
        if found.waiting is not None:
            _take_value(found, word)
        elif word.text == "--" and not found.options_ended:
            found.options_ended, found.open = True, None
        elif word.text.startswith("--") and not found.options_ended:
            found.open = None
            _take_option(command, found, word)
        elif found.open is not None:
            found.more.setdefault(found.open.name, []).append(word.text)
        else:
            _take_positional(command, found, word)
    return found


def _before_dashes(words: tuple[Word, ...]) -> Iterator[Word]:
    for word in words:
        if word.text == "--":
            return
        yield word


def _take_value(found: Words, word: Word) -> None:
    option = found.waiting
    if option is None or option.kind is None:
        return
    if word.text.startswith("--"):
        message = f"{option.word} needs a value, {option.kind.metavar}: {option.kind.expected}"
        raise _WrongWordError(message)
    _give(found, option, word.text)
    found.waiting = None


def _give(found: Words, option: Option, value: str) -> None:
    found.values[option.name] = value
    if option.kind is not None and option.kind.begins is not None and option.kind.begins(value):
        found.open = option


def _take_option(command: Command, found: Words, word: Word) -> None:
    name, equals, value = word.text.partition("=")
    option = command.option(name)
    if option is None:
        message = f"there is no option {name}{_meant(command, name)}"
        raise _WrongWordError(with_foreign(message, name))
    if option.name in found.values:
        message = f"{option.word} is given twice"
        raise _WrongWordError(message)
    if option.kind is None and equals:
        message = f"{option.word} takes no value"
        raise _WrongWordError(message)
    if option.kind is None:
        found.values[option.name] = True
    elif equals:
        _give(found, option, value)
    else:
        found.waiting = option


def _take_positional(command: Command, found: Words, word: Word) -> None:
    if len(found.positional) >= len(command.arguments) and not any(a.repeated for a in command.arguments):
        message = f"{word.typed} is one word too many{_meant(command, word.text)}"
        raise _WrongWordError(with_foreign(message, word.typed))
    found.positional.append(word.text)


def _meant(command: Command, typed: str) -> str:
    """Return a suggestion for a word that begins with any dashes: an option or a filter."""
    name = typed.lstrip(_DASHES)
    if name == typed:
        return ""
    if name in {each.name for each in FILTERS}:
        return f", did you mean | {name}?"
    words = {option.word.lstrip(_DASHES): option.word for option in command.options}
    near = get_close_matches(name, words, n=1)
    return f", did you mean {words[near[0]]}?" if near else ""


def _bind(command: Command, bound: Mapping[str, str], words: Words) -> Match:
    """Parse every word by its kind and check the relations of the options. Raises _WrongWordError."""
    arguments: dict[str, Any] = {}
    rest: tuple[Any, ...] = ()
    for name, place in command.places.items():
        arguments[name] = _parse(place.kind.metavar, place, bound[name])
    for argument, text in zip(command.arguments, words.positional, strict=False):
        if not argument.repeated:
            arguments[argument.name] = _parse(argument.kind.metavar, argument, text)
    for argument in command.arguments[-1:]:
        if argument.repeated:
            extra = words.positional[len(command.arguments) - 1 :]
            rest = tuple(_parse(argument.kind.metavar, argument, text) for text in extra)
    for name, value in words.values.items():
        option = next(each for each in command.options if each.name == name)
        text = " ".join((str(value), *words.more.get(name, ())))
        arguments[name] = value if option.kind is None else _parse(option.word, option, text)
    _check_relations(command, words)
    if words.waiting is not None and words.waiting.kind is not None:
        kind = words.waiting.kind
        return Incomplete(command, f"{words.waiting.word} needs a value, {kind.metavar}: {kind.expected}")
    missing = next((a for a in command.arguments[len(words.positional) :] if a.required), None)
    if missing is not None:
        return Incomplete(command, f"{missing.kind.metavar} is missing: {missing.kind.expected}")
    return Ready(command, arguments, rest)


def _parse(label: str, taker: Argument | Option, text: str) -> Any:  # noqa: ANN401  a kind's value has its own type
    if taker.kind is None:
        return text
    try:
        return taker.kind.parse(text)
    except ValueError as wrong:
        message = f"{label}: {wrong}"
        secret = taker.kind.secret  # the message must not repeat it
        raise _WrongWordError(message if secret else with_foreign(message, text)) from None


def _check_relations(command: Command, words: Words) -> None:
    given = set(words.values) | ({words.waiting.name} if words.waiting else set())
    for option in command.options:
        needs, excludes = option.relation.needs, option.relation.excludes
        if option.name not in given:
            continue
        if excludes in given:
            message = f"{option.word} and --{excludes} exclude each other"
            raise _WrongWordError(message)
        if needs is not None and needs not in given:
            message = f"{option.word} needs --{needs}"
            raise _WrongWordError(message)


def _near(root: Directory, here: Location, typed: str, found: Found | None) -> str | None:
    """Suggest a similar command for an unknown first word, or `cd` to the directory that it names."""
    parent, slash, name = typed.rpartition("/")
    is_directory = found is not None and found.command is None and name.strip(".") != ""
    if is_directory and found is not None and not _ends_in_place(found):
        return f"cd {typed}"
    names: set[str] = set()
    for start in starts(here, typed):
        inside = walk(root, locate(parent + slash, start)[0])
        if inside is not None and inside.command is None:
            names.update(inside.directory.commands)
    near = get_close_matches(name, sorted(names), n=1)
    if near:
        return parent + slash + near[0]
    return f"cd {typed}" if is_directory else None


def _ends_in_place(found: Found) -> bool:
    """Tell whether the last segment is a place that takes any name, and so may be a misspelt command."""
    return found.depths[-1:] == (len(found.location) - 1,)
