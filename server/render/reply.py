"""The replies of handlers: data, never text.

JSON has the keys, stable snake_case names; text has the titles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from server.escaping import escaped
from server.grammar.explain import Page
from server.grammar.tree import Location


@dataclass(frozen=True, slots=True)
class Lines:
    """Plain lines, or none."""

    lines: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Cell:
    """A value with its text for people, as another node has made it."""

    value: Any
    text: str


@dataclass(frozen=True, slots=True)
class Field:
    """One `Title: value` of a record. `text` formats the value for people."""

    key: str
    title: str
    value: str | int | datetime | Cell
    text: Callable[[Any], str] = str

    @property
    def line(self) -> str:
        """The field as text for people."""
        return f"{self.title}: {self.text(self.value)}"


@dataclass(frozen=True, slots=True)
class Record:
    """A message, which may be empty, and fields."""

    message: str
    fields: tuple[Field, ...] = ()


@dataclass(frozen=True, slots=True)
class Column:
    r"""One column of a table. `text` formats a value for people, as lines separated by `\n`.

    The table escapes all other control characters. Use `escaped` as `text` to keep typed values on one line. `width`
    returns the width of the widest value without formatting every value. Then the table formats the values row by row
    while it is sent.
    """

    key: str
    title: str
    text: Callable[[Any], str] = str
    width: Callable[[Sequence[Any]], int] | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Columns, and rows with one value for each column."""

    columns: tuple[Column, ...]
    rows: Sequence[tuple[Any, ...]]

    def texts(self, row: tuple[Any, ...]) -> list[str]:
        """Return the values of a row as text for people."""
        return [escaped(column.text(value), keep="\n") for column, value in zip(self.columns, row, strict=True)]


@dataclass(frozen=True, slots=True)
class Script:
    """Commands that the console can run: the `opening` lines, then one line per row, without a footer.

    The JSON document has the rows.
    """

    columns: tuple[Column, ...]
    opening: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]
    line: Callable[[tuple[Any, ...]], str]


@dataclass(frozen=True, slots=True)
class Help:
    """The help page of one command."""

    page: Page


@dataclass(frozen=True, slots=True)
class Section:
    """A title, and pairs of a word and its explanation."""

    title: str
    entries: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """Help on a directory or on the console: an introduction and sections."""

    introduction: tuple[str, ...]
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True)
class ChangeDirectory:
    """The result of `cd`: the new current directory. It has no footer."""

    location: Location


@dataclass(frozen=True, slots=True)
class Exit:
    """The result of `exit`: the session's exit status. It has no footer."""

    status: int


Reply = Lines | Record | Table | Script | Help | Overview | ChangeDirectory | Exit
