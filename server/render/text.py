"""Replies as text for people and scripts: lines, an empty line, the footer."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from rich.cells import cell_len

from server.errors import OperatorError
from server.escaping import escaped
from server.grammar.explain import Page
from server.render.examples import example
from server.render.reply import ChangeDirectory, Exit, Help, Lines, Overview, Record, Reply, Script, Table
from server.render.table import table_rows

#: Fits a terminal of 80 columns. All clients get this width, because replies do not depend on the client.
HELP_COLUMNS = 78
_WORD_COLUMNS = 30
_TAB = "\t"


@dataclass(frozen=True, slots=True)
class Footer:
    """The start time and duration of a command, and the nodes that took part: `ds1@ecss1 v.3.14.7.585`."""

    at: datetime
    time_ms: int
    nodes: tuple[str, ...]

    def text(self) -> str:
        """Return an empty line and the footer, as in the reference."""
        at = self.at.strftime("%d.%m.%Y %H:%M:%S")
        nodes = ", ".join(self.nodes) or "none"
        return f"\n[exec at: {at}, exec time: {self.time_ms}ms, nodes: {nodes}]\n"


def reply_text(reply: Reply) -> Iterator[str]:
    """Yield the reply in pieces of whole lines. The results of `cd` and `exit` have none."""
    match reply:
        case Lines(lines):
            yield _joined(lines)
        case Record(message, fields):
            yield _joined([*([message] if message else []), *(field.line for field in fields)])
        case Table():
            yield from table_rows(reply)
        case Script(_, opening, rows, line):
            yield _joined(opening)
            yield from (f"{line(row)}\n" for row in rows)
        case Help(page):
            yield help_text(page)
        case Overview():
            yield _overview_text(reply)
        case ChangeDirectory() | Exit():
            return


def error_text(error: OperatorError) -> str:
    """Return the lines of an error."""
    return _joined(error.lines())


def help_text(page: Page) -> str:
    """Return a help page: summary, usage, arguments, options, permission and examples with their output."""
    parts = [f"{page.path}\n\n{_wrapped(page.summary)}"]
    parts += [_wrapped(paragraph) for paragraph in page.details.split("\n\n") if paragraph]
    parts.append(f"Usage: {page.usage}\n")
    if page.words:
        parts.append("Arguments:\n" + _two_columns(page.words))
    if page.options:
        parts.append("Options:\n" + _two_columns(page.options))
    parts.append(f"Permission: {page.permission}\n")
    if shown := example(page.path):
        parts.append(f"Example:\n{_indented(shown)}")
    return "\n".join(parts)


def _overview_text(overview: Overview) -> str:
    parts = [_joined(overview.introduction)] if overview.introduction else []
    parts += [f"{section.title}:\n{_two_columns(section.entries)}" for section in overview.sections]
    return "\n".join(parts)


def _two_columns(entries: Iterable[tuple[str, str]]) -> str:
    """Lay out pairs of a word and a text in two columns.

    Texts wrap inside their column. The text of a word that is too long starts on the next line.
    """
    from rich.console import Console  # noqa: PLC0415  only help needs it, and its import takes 40 ms
    from rich.table import Table as Grid  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    listed = [*entries]
    widest = max((cell_len(word) for word, _ in listed if cell_len(word) <= _WORD_COLUMNS), default=_WORD_COLUMNS)
    file = io.StringIO()
    console = Console(file=file, width=HELP_COLUMNS, color_system=None, force_terminal=False)
    for word, text in listed:
        grid = Grid.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=widest + 2, no_wrap=True)
        grid.add_column()
        if cell_len(word) > widest:
            console.print(Text("  " + word), soft_wrap=True)
        grid.add_row(Text("  " + word if cell_len(word) <= widest else ""), Text(text))
        console.print(grid)
    return _joined(line.rstrip() for line in file.getvalue().splitlines())


def _wrapped(text: str) -> str:
    return _indented(textwrap.fill(text, HELP_COLUMNS - 2, break_long_words=False, break_on_hyphens=False))


def _indented(text: str) -> str:
    return _joined(f"  {line}".rstrip() for line in text.splitlines())


def _joined(lines: Iterable[str]) -> str:
    """Join lines and escape them: text of another user cannot control the terminal or start a new line."""
    return "".join([f"{escaped(line, keep=_TAB)}\n" for line in lines])
