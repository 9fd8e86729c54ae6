"""What a handler answers: data, never text. Keys are stable snake_case names, titles are what people read."""

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
    """Plain lines; there may be none."""

    lines: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Field:
    """One `Title: value` of a record; `text` is how people read the value."""

    key: str
    title: str
    value: str | int | datetime
    text: Callable[[Any], str] = str

    @property
    def line(self) -> str:
        """The field as people read it."""
        return f"{self.title}: {self.text(self.value)}"


@dataclass(frozen=True, slots=True)
class Record:
    """A message, which may be empty, and the fields that came of it."""

    message: str
    fields: tuple[Field, ...] = ()


@dataclass(frozen=True, slots=True)
class Column:
    r"""One column of a table: `text` is how people read its values, in lines parted by `\n`.

    With `escaped` as `text` a value stays one line, whoever has typed it. What else moves a terminal is escaped in all.
    `width` tells how wide the widest of some texts is, where that is known without making them all: these are then made
    row by row, while the table is sent.
    """

    key: str
    title: str
    text: Callable[[Any], str] = str
    width: Callable[[Sequence[Any]], int] | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of values under columns."""

    columns: tuple[Column, ...]
    rows: Sequence[tuple[Any, ...]]

    def texts(self, row: tuple[Any, ...]) -> list[str]:
        """Return the values of a row as people read them."""
        return [escaped(column.text(value), keep="\n") for column, value in zip(self.columns, row, strict=True)]


@dataclass(frozen=True, slots=True)
class Script:
    """Lines that the console can run again, `opening` before one for each row; nothing else is printed, no footer.

    Under json it is the rows.
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
    """A titled list of (word, what it is)."""

    title: str
    entries: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """Help that is not about one command: an introduction and sections."""

    introduction: tuple[str, ...]
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True)
class ChangeDirectory:
    """The session's current directory is another one now; such a reply has no footer."""

    location: Location


@dataclass(frozen=True, slots=True)
class Exit:
    """The session ends with this exit status; such a reply has no footer."""

    status: int


Reply = Lines | Record | Table | Script | Help | Overview | ChangeDirectory | Exit
