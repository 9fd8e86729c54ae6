"""Parse the filters after a command: `… | match TEXT | first 5 | json`.

`json` is the last one of a chain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import re2

from server.grammar.declare import Kind
from server.grammar.tokens import Word
from server.model.names import with_foreign

JSON = "json"
_MOST_ROWS = 10_000_000
#: Together these limits keep the time that one line blocks other sessions below 50 ms.
_MOST_FILTERS = 10
_MOST_EXPRESSION_CHARACTERS = 500
_MOST_EXPRESSION_BYTES = 1 << 17
#: The largest compiled expression. A search takes up to 2.5 ns for each of its steps and each byte of the text.
_MOST_STEPS = 2_048
_MOST_STEPS_AT_ONCE = 1_000_000


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text.lstrip("0")[:10] or "0") > _MOST_ROWS:
        message = f"{text} is not a count; use 0 to {_MOST_ROWS}"
        raise ValueError(message)
    return int(text.lstrip("0")[:10] or "0")


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled regular expression. The time of a search grows with `steps` times the length of the text."""

    found_in: Callable[[str], object]
    steps: int

    def takes_long(self, text: str) -> bool:
        """Tell whether a search in this text may take more than a few milliseconds."""
        return self.steps * len(text) > _MOST_STEPS_AT_ONCE


def _expression(text: str) -> Expression:
    if len(text) > _MOST_EXPRESSION_CHARACTERS:
        message = f"the expression is longer than {_MOST_EXPRESSION_CHARACTERS} characters"
        raise ValueError(message)
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MOST_EXPRESSION_BYTES
    options.never_capture = True  # groups would double the time, and nothing reads them
    try:
        expression = re2.compile(text, options)
    except re2.error as error:
        reason = error.args[0].decode("utf-8", "replace") if error.args else "it cannot be read"
        message = f"{text} is not a regular expression: {reason}"
        raise ValueError(message) from None
    if expression.programsize > _MOST_STEPS:
        message = "the expression is too large: it repeats too much, or letters of too many scripts, as \\pL does"
        raise ValueError(message)
    return Expression(expression.search, expression.programsize)


_TEXT = Kind("<TEXT>", "text to find in a row, upper and lower case alike", str.casefold)
_EXPRESSION = Kind("<RE>", "regular expression in RE2's syntax, to find in a row", _expression)
_COUNT = Kind("<N>", f"how many rows, 0 to {_MOST_ROWS}", _count)


@dataclass(frozen=True, slots=True)
class FilterKind:
    """The declaration of one filter. Without a kind it takes no word."""

    name: str
    kind: Kind | None
    help: str

    @property
    def usage(self) -> str:
        """The syntax of the filter: `match <TEXT>`."""
        return f"{self.name} {self.kind.metavar}" if self.kind else self.name


class FilterLacksWordError(ValueError):
    """The last filter of a line is valid but incomplete. The text says what is missing."""


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter of a line with its parsed word."""

    name: str
    value: Any


FILTERS = (
    FilterKind("match", _TEXT, "keep the rows that contain the text"),
    FilterKind("except", _TEXT, "drop the rows that contain the text"),
    FilterKind("regex", _EXPRESSION, "keep the rows that match the expression"),
    FilterKind("count", None, "print how many rows there are"),
    FilterKind("first", _COUNT, "keep the first rows"),
    FilterKind("last", _COUNT, "keep the last rows"),
    FilterKind(JSON, None, "print the reply as one JSON document; the last filter"),
)


def wants_json(stages: Sequence[tuple[Word, ...]]) -> bool:
    """Tell whether a line ends in `| json`, even if the rest is invalid."""
    return bool(stages) and [word.text for word in stages[-1]] == [JSON]


def parse_filters(stages: Sequence[tuple[Word, ...]]) -> tuple[Filter, ...]:
    """Return the filters of a line.

    Raises ValueError for a mistake, FilterLacksWordError for a missing word.
    """
    if len(stages) > _MOST_FILTERS:
        message = f"a line has at most {_MOST_FILTERS} filters, this one has {len(stages)}"
        raise ValueError(message)
    found = []
    for index, words in enumerate(stages):
        names = ", ".join(each.name for each in FILTERS)
        lacking = FilterLacksWordError if index == len(stages) - 1 else ValueError
        if not words:
            message = f"a filter is expected after |: {names}"
            raise lacking(message)
        known = next((each for each in FILTERS if each.name == words[0].text), None)
        if known is None:
            message = f'there is no filter {words[0].typed}; use {names}, or "|" in quotes for text'
            raise ValueError(with_foreign(message, words[0].typed))
        if known.name == JSON and index != len(stages) - 1:
            message = "| json is the last filter"
            raise ValueError(message)
        if known.kind is not None and len(words) == 1:
            message = f"| {known.name} takes one word, {known.kind.metavar}: {known.kind.expected}"
            raise lacking(message)
        found.append(Filter(known.name, _value(known, words)))
    return tuple(found)


def _value(known: FilterKind, words: tuple[Word, ...]) -> object:
    if known.kind is None and len(words) > 1:
        message = f"| {known.name} takes no word"
        raise ValueError(message)
    if known.kind is None:
        return None
    if len(words) != 2:  # noqa: PLR2004  the name and its word
        message = f"| {known.name} takes one word, {known.kind.metavar}: {known.kind.expected}"
        raise ValueError(message)
    try:
        return known.kind.parse(words[1].text)
    except ValueError as wrong:
        message = f"| {known.name}: {wrong}"
        raise ValueError(with_foreign(message, words[1].text)) from None
