"""Draw a table as a box of light lines, with a line between rows. Cells are never wrapped or cut.

rich needs 1.5 ms for five rows, and cannot yield to the event loop during ten thousand rows. So this module draws the
tables itself, and the tests compare them with rich's `Table`. Source of the layout: the reference's `list`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

from rich.cells import cell_len

from server.escaping import escaped
from server.render.reply import Table

#: The rows measured between two yields. Few, because one row may have ten thousand numbers, each on its own line.
_MEASURED_AT_ONCE = 4


def table_rows(table: Table) -> Iterator[str]:
    r"""Yield the table in pieces of whole lines that end in `\n`.

    While it measures widths it yields empty pieces, so that the caller can let other sessions run.
    """
    texts: list[Iterable[str]] = []
    widths: list[int] = []
    for index, column in enumerate(table.columns):
        values = [row[index] for row in table.rows]
        width = cell_len(column.title)
        if column.width is None:
            made: list[str] = []
            for start in range(0, len(values), _MEASURED_AT_ONCE):
                some = [column.text(value) for value in values[start : start + _MEASURED_AT_ONCE]]
                some = [text if text.isprintable() else escaped(text, keep="\n") for text in some]
                width = max(width, _widest(some))
                made += some
                yield ""
            texts.append(made)
        else:
            texts.append(map(column.text, values))
            width = max(width, column.width(values))
        widths.append(width)
        yield ""
    titles = [_centred(column.title, width) for column, width in zip(table.columns, widths, strict=True)]
    yield _rule(widths, *"┌┬┐") + _line(titles)
    between = _rule(widths, *"├┼┤")
    for row in zip(*texts, strict=True):
        yield between + _row(row, widths)
    yield _rule(widths, *"└┴┘")


def _widest(texts: Sequence[str]) -> int:
    """Return the width of the widest line. The width of ASCII text is its length."""
    lines = "\n".join(texts)
    width = len if lines.isascii() else cell_len
    return max(map(width, lines.split("\n")))


def _row(texts: Sequence[str], widths: Sequence[int]) -> str:
    row = "".join(texts)
    pad = str.ljust if row.isascii() else _padded
    if "\n" not in row:
        return _line(map(pad, texts, widths))
    cells = zip_longest(*(text.split("\n") for text in texts), fillvalue="")
    return "".join([_line(map(pad, line, widths)) for line in cells])


def _line(cells: Iterable[str]) -> str:
    return f"│{'│'.join(cells)}│\n"


def _rule(widths: Sequence[int], left: str, middle: str, right: str) -> str:
    return left + middle.join("─" * width for width in widths) + right + "\n"


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def _centred(text: str, width: int) -> str:
    """Centre a header. With an odd number of blanks, the extra one goes to the right."""
    room = width - cell_len(text)
    return " " * (room // 2) + text + " " * (room - room // 2)
