"""The edited line on the client's screen. It remembers the shown text and sends only differences.

Text typed at the end is sent unchanged, without escape sequences or line breaks, so the echo of a line is the line
itself. Terminals wrap by themselves, and keep the cursor of a full row in its last column.
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
    """The positions of a text's characters as (row, column). The last one is the cursor's after the text."""

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


def _combines(character: str) -> bool:
    return bool(character) and not character.isascii() and not cell_len(character)


class Screen:
    """The rows of a prompt and its line, counted from the first row of the prompt."""

    def __init__(self, write: Callable[[str], None], *, reflows: bool = True) -> None:
        """Take the function that sends text, and whether the terminal rewraps rows at another width."""
        self.write = write
        self._reflows = reflows
        self._columns = 80
        self._prompt = self._painted = ""
        self._reflowed = False  # whether the terminal has rewrapped the line since the last drawing
        self._shown = _laid_out("", self._columns)
        self._cursor = 0
        self._at = (0, 0)

    def begin(self, prompt: str, columns: int, painted: str) -> None:
        """Begin after the prompt, which has just been written on a terminal `columns` wide.

        `painted` is the prompt with its colour, or the prompt itself.
        """
        self._prompt, self._painted, self._columns, self._reflowed = prompt, painted, columns, False
        self._wrote(_laid_out(prompt, columns))

    def show(self, line: str, cursor: int) -> None:
        """Show the line after the prompt, with the cursor before character number `cursor`."""
        self._show(self._prompt + line, len(self._prompt) + cursor)

    def search(self, text: str, found: str) -> None:
        """Show the text of a search and the line found, in place of the prompt."""
        beginning = f"(reverse-i-search)'{text}': "
        self._show(beginning + found, len(beginning))

    def _show(self, text: str, cursor: int) -> None:
        wanted = _laid_out(text, self._columns)
        if self._reflowed and self._at[0] and wanted.places[cursor] < self._at:
            # the first rows may be above the top of the window, where drawing is impossible
            row = self._at[0]
            self._wrote(wanted)
            self.write(self._anew(row) + self._move(cursor))
            return
        same = self._same_beginning(wanted)
        sent = ""
        if same < len(wanted.text) or same < len(self._shown.text):
            same = 0 if self._recolours(same) else same
            sent = self._move(same) + self._erase_from(same, wanted) + self._drawn(wanted.text, same)
            at = self._at
            self._wrote(wanted)
            if same == len(wanted.text):
                self._at = at  # only an erasure was sent
        sent += self._move(cursor)
        if sent:
            self.write(sent)

    def leave(self, mark: str = "") -> None:
        """Move the cursor to the end of the line, write `mark` (`^C`), and begin a new row."""
        self.write(f"{self._move(len(self._shown.text))}{mark}\n")

    def clear(self) -> None:
        """Clear the terminal, and draw the prompt and its line at the top."""
        cursor = self._cursor
        self._wrote(self._shown)
        self.write(_CLEAR + self._drawn(self._shown.text) + self._move(cursor))

    def resize(self, columns: int) -> None:
        """Use a new terminal width from now on.

        A terminal that reflows has rewrapped the line itself. Then nothing is sent, because the first rows may be above
        the top of the window, where drawing is impossible. In other terminals the rows have not moved.
        """
        cursor, row = self._cursor, self._at[0]
        self._columns = columns
        self._wrote(_laid_out(self._shown.text, columns))
        if self._reflows:
            self._cursor, self._at, self._reflowed = cursor, self._shown.places[cursor], True
        else:
            self.write(self._anew(row) + self._move(cursor))

    def _anew(self, row: int) -> str:
        """Return the output that draws the text again. `row` is the row of the cursor in the text."""
        up = f"\x1b[{row}A" if row else ""
        self._reflowed = False
        return f"\r{up}{_ERASE_BELOW}{self._drawn(self._shown.text)}"

    def _recolours(self, same: int) -> bool:
        """Tell whether drawing would begin inside a coloured prompt, which must be drawn as a whole."""
        return self._painted != self._prompt and same < len(self._prompt)

    def _drawn(self, text: str, start: int = 0) -> str:
        """Return the output for a text from character `start` on, with the colour of the prompt."""
        if start == 0 and text.startswith(self._prompt):
            return self._painted + text[len(self._prompt) :]
        return text[start:]

    def _wrote(self, layout: _Layout) -> None:
        """Record that the screen shows this text, with the cursor after it."""
        self._shown, self._cursor, self._at = layout, len(layout.text), layout.places[-1]

    def _same_beginning(self, wanted: _Layout) -> int:
        """Return how many characters need no drawing. Never separates a character from its combining marks."""
        shown, text = self._shown.text, wanted.text
        same, most = 0, min(len(shown), len(text))
        while same < most and shown[same] == text[same]:
            same += 1
        while 0 < same < len(shown) and wanted.places[same] != self._shown.places[same]:
            same -= 1  # a wide character has moved to another row
        while same and (_combines(text[same : same + 1]) or _combines(shown[same : same + 1])):
            same -= 1
        return same

    def _erase_from(self, same: int, wanted: _Layout) -> str:
        """Return the erasure before a new end of the line: of a longer old end, or of gaps at wide characters."""
        if same == len(self._shown.text):
            return ""
        covered = wanted.places[-1] >= self._shown.places[-1] and wanted.text.isascii() and self._shown.text.isascii()
        if covered:
            return ""
        return _ERASE_BELOW if self._shown.rows > self._shown.places[same][0] else _ERASE_ROW

    def _move(self, index: int) -> str:
        """Return the output that moves the cursor before character `index`."""
        self._cursor = index
        here, there = self._at, self._shown.places[index]
        if here == there:
            return ""
        self._at = there
        if there[1] == self._columns:  # only writing its last character reaches the end of a full row
            last = self._shown.places.index(self._shown.places[index - 1])
            return self._steps(here, self._shown.places[last]) + self._shown.text[last:index]
        return self._steps(here, there)

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
