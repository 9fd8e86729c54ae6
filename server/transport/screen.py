"""The edited line on the client's screen: keeps what stands there and sends only the difference.

What is typed at the end goes out as it is, without an escape or a wrap of ours, so the echo of a line is the line
itself wherever it came from. Terminals wrap by themselves and hold a full row's cursor in its last column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.cells import cell_len

_ERASE_ROW, _ERASE_BELOW = "\x1b[K", "\x1b[J"
_CLEAR = "\x1b[H\x1b[2J"
_MOST_BACKSPACES = 4


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where each character of a text begins, and behind the last one where the cursor stands: (row, column)."""

    text: str
    places: tuple[tuple[int, int], ...]

    @property
    def rows(self) -> int:
        return self.places[-1][0]


def _laid_out(text: str, columns: int) -> _Layout:
    places: list[tuple[int, int]] = []
    row = column = 0
    for character in text:
        width = 1 if character.isascii() else cell_len(character)
        if column + width > columns:
            row, column = row + 1, 0
        places.append((row, column) if width else places[-1] if places else (0, 0))
        column += width
    places.append((row, column))
    return _Layout(text, tuple(places))


class Screen:
    """The rows that a prompt and its line take up, from the row where the prompt began."""

    def __init__(self, write: Callable[[str], None], columns: int) -> None:
        """Take how to send text, and the width of the terminal in cells."""
        self._write = write
        self._columns = columns
        self._prompt = ""
        self._shown = _laid_out("", columns)
        self._cursor = 0

    def begin(self, prompt: str, line: str = "") -> None:
        """The prompt and the beginning of its line have just been written, and the cursor is behind them."""
        self._prompt = prompt
        self._shown = _laid_out(prompt + line, self._columns)
        self._cursor = len(self._shown.text)

    def show(self, line: str, cursor: int) -> None:
        """Make the screen show the line behind the prompt, the cursor before its character number `cursor`."""
        wanted = _laid_out(self._prompt + line, self._columns)
        same = self._same_beginning(wanted)
        sent = ""
        if same < len(wanted.text) or same < len(self._shown.text):
            sent = self._move(same) + wanted.text[same:] + self._erase_behind(wanted)
            self._shown, self._cursor = wanted, len(wanted.text)
        sent += self._move(len(self._prompt) + cursor)
        if sent:
            self._write(sent)

    def leave(self, mark: str = "") -> None:
        """Put the cursor behind the line, show `mark` there (`^C`), and begin a new row."""
        self._write(f"{self._move(len(self._shown.text))}{mark}\n")

    def clear(self) -> None:
        """Clear the terminal; what was shown stands at its top then."""
        cursor = self._cursor
        self._write(_CLEAR + self._shown.text)
        self._cursor = len(self._shown.text)
        self._write(self._move(cursor))

    def resize(self, columns: int) -> None:
        """The terminal is `columns` wide now and has wrapped what it shows anew: draw it over."""
        before, cursor = _laid_out(self._shown.text, columns), self._cursor
        row = before.places[cursor][0]
        self._columns, self._shown = columns, before
        self._cursor = len(before.text)
        up = f"\x1b[{row}A" if row else ""
        self._write(f"\r{up}{_ERASE_BELOW}{before.text}{self._move(cursor)}")

    def _same_beginning(self, wanted: _Layout) -> int:
        """Return how many characters stand already; never between a character and what combines with it."""
        shown, text = self._shown.text, wanted.text
        same, most = 0, min(len(shown), len(text))
        while same < most and shown[same] == text[same]:
            same += 1
        following = text[same : same + 1] or shown[same : same + 1]
        while same and following and not following.isascii() and not cell_len(following):
            same -= 1
            following = text[same]
        return same

    def _erase_behind(self, wanted: _Layout) -> str:
        """Erase what the shown text had behind the end of the wanted one."""
        if wanted.rows < self._shown.rows:
            return _ERASE_BELOW
        shorter = wanted.rows == self._shown.rows and wanted.places[-1][1] < self._shown.places[-1][1]
        return _ERASE_ROW if shorter else ""

    def _move(self, index: int) -> str:
        """Return what moves the cursor before character `index` of the shown text."""
        if index == self._cursor:
            return ""
        (row, column), (to_row, to_column) = self._shown.places[self._cursor], self._shown.places[index]
        self._cursor = index
        if to_column == self._columns:  # the end of a full row is reached by writing its last character
            last = index - 1
            return self._steps((row, column), self._shown.places[last]) + self._shown.text[last:index]
        return self._steps((row, column), (to_row, to_column))

    def _steps(self, here: tuple[int, int], there: tuple[int, int]) -> str:
        (row, column), (to_row, to_column) = here, there
        sent = ""
        if to_row != row:
            sent = f"\x1b[{to_row - row}B" if to_row > row else f"\x1b[{row - to_row}A"
        if column == self._columns or to_column == 0:
            sent, column = sent + "\r", 0
        back = column - to_column
        if 0 < back <= _MOST_BACKSPACES:
            sent += "\b" * back
        elif back:
            sent += f"\x1b[{back}D" if back > 0 else f"\x1b[{-back}C"
        return sent
