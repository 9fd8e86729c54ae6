"""Hints for habits of other shells, for lines that cannot run.

They never change the meaning of a line. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from server.grammar.tokens import Line, Word
from server.model.key_formats import named_format

#: Limits the words that are searched, because a line may have thousands.
_MOST_WORDS = 50
_MOST_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class _Habit:
    """A habit: a test that recognises it in a word without quotes, and the hint."""

    shows: Callable[[str], object]
    hint: str


_HABITS = (
    _Habit(
        re.compile(r"&&|\|\||;\Z|;[a-z/]|&\Z").search,
        "A line has one command, and ; && || mean nothing: put each on a line of its own, under +strict to stop at a "
        "failure.",
    ),
    _Habit(
        re.compile(r"[^|]\|[^|]|[^|]\|\Z|\A\|[^|]").search, "A filter needs blanks around |, as in: domain/list | count"
    ),
    _Habit(
        re.compile(r"\A(?:[0-9]?>>?|<|[0-9]?>&)|[^->=]>\Z").search,
        "Nothing is redirected here, do that where ssh runs, as in: ssh HOST domain/list > FILE",
    ),
    _Habit(
        re.compile(r"\A\$|[/=]\$|\$\{|\$\(|`").search,
        "There are no variables and no substitution here: text is taken as it is typed.",
    ),
    _Habit(
        re.compile(r"\A#").match, "A comment has # as the first character of its line; behind a command it is text."
    ),
)
_SHELL_FILTERS = {
    "grep": "match",
    "egrep": "regex",
    "head": "first",
    "tail": "last",
    "wc": "count",
    "jq": "json",
}


def habit_hints(line: Line) -> tuple[str, ...]:
    """Return a hint for each habit of other shells in the words of a line that cannot run.

    Hints repeat no word of the line, because it may be a secret.
    """
    words = [*line.words, *(word for stage in line.filters for word in stage)][:_MOST_WORDS]
    bare = [word.typed for word in words if word.bare and len(word.typed) <= _MOST_CHARACTERS]
    hints = [habit.hint for habit in _HABITS if any(habit.shows(typed) for typed in bare)]
    return (*_key_hint(words), *hints, *_filter_hint(line.filters))


def _key_hint(words: Sequence[Word]) -> tuple[str, ...]:
    """Recognise the first line of a pasted key in another format, whose dashes were taken for options."""
    texts = [word.text[:_MOST_CHARACTERS] for word in words]
    first = next((index for index, text in enumerate(texts) if text.startswith("----")), len(texts))
    named = named_format(" ".join(texts[first:]))
    return (f"This {named}",) if named else ()


def _filter_hint(filters: Sequence[tuple[Word, ...]]) -> tuple[str, ...]:
    names = (stage[0].text for stage in filters[:_MOST_WORDS] if stage)
    return tuple(f"Did you mean | {_SHELL_FILTERS[name]}?" for name in dict.fromkeys(names) if name in _SHELL_FILTERS)
