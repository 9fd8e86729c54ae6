"""The line editor for people: prompt_toolkit's keys and buffer over a `Tty`, drawn by `Screen`.

Made at the first key that is not part of a complete line, reused for all prompts of the session. prompt_toolkit reads
at most one line at a time and never writes: what stands on the screen is the `Screen`'s alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from rich.cells import cell_len

from server.errors import OperatorError
from server.shell.completion import Completion
from server.shell.terminal import EndOfInputError, LineDroppedError
from server.transport.ending import Ending
from server.transport.plain import PlainEditor
from server.transport.tty import Tty

if TYPE_CHECKING:
    from server.transport.editing import Editing

Complete = Callable[[str], Awaitable[Completion]]
Recall = Callable[[], Awaitable[list[str]]]

_MOST_EDITED_CHARACTERS = 1000
_MOST_LISTED = 100
#: What begins each colour of `prompt.colour`.
COLOURS = {"none": ""} | {
    name: f"\x1b[3{number}m"
    for number, name in enumerate(("red", "green", "yellow", "blue", "magenta", "cyan"), start=1)
}


def prepare() -> type[Editing]:
    """Import prompt_toolkit, and make it fit a server with many sessions; safe to call again, and from a thread.

    It takes a sixth of the whole start, so it is done when the console listens already, and at the first key if a
    person is faster.
    """
    from server.transport.editing import Editing  # noqa: PLC0415
    from server.transport.quiet import quieten  # noqa: PLC0415

    quieten()
    return Editing


class LineEditor:
    """Edits one line after another on one terminal."""

    def __init__(
        self, tty: Tty, size: tuple[int, int], complete: Complete, recall: Recall, colour: str = "none"
    ) -> None:
        """Take the terminal with its (columns, rows), what Tab asks, what gives the user's earlier lines.

        `colour` of the prompt is one of the configuration's names.
        """
        self._colour = COLOURS[colour]
        self._tty = tty
        self._columns, self._rows = size
        self._complete = complete
        self._recall = recall
        self._typed: list[str] = []
        self._running: Editing | None = None
        self._editing = False
        self._prompt = ""

    async def edit(self, prompt: str) -> str:
        """Return one line; the prompt is on the screen already. Raises EndOfInputError or LineDroppedError."""
        if self._tty.ended or len(self._tty) > _MOST_EDITED_CHARACTERS:
            return await PlainEditor(self._tty).edit(prompt)
        if self._running is None:
            self._running = prepare()(self._tty, await self._recall(), _MOST_EDITED_CHARACTERS)
        self._running.begin(self._typed)
        self._prompt = prompt
        self._editing = True
        try:
            return await self._line(self._running, prompt)
        finally:
            self._editing = False

    def painted(self, prompt: str) -> str:
        """Return the prompt in its colour; its last two characters have none, for those who look for `$ `."""
        return f"{self._colour}{prompt[:-2]}\x1b[0m{prompt[-2:]}" if self._colour else prompt

    def announce(self, text: str) -> bool:
        """Show a line of text, and the one that is edited below it; False when none is."""
        if self._running is None or not self._editing:
            return False
        self._running.announce(text, self._prompt, self.painted(self._prompt), self._columns)
        return True

    def remember(self, line: str) -> None:
        """Add a line to what the arrow keys bring back."""
        if line.strip() and line not in self._typed[-1:]:
            self._typed.append(line)

    def resize(self, columns: int, rows: int) -> None:
        """The terminal has another size now."""
        self._columns, self._rows = columns, rows
        if self._running is not None and self._editing:
            self._running.screen.resize(columns)

    async def _line(self, running: Editing, prompt: str) -> str:
        running.screen.begin(prompt, self._columns, self.painted(prompt))
        listed = ""
        while True:
            ending = await running.keys()
            text = running.buffer.text
            match ending:
                case Ending.ACCEPT:
                    running.screen.leave()
                    return text
                case Ending.DROP:
                    running.screen.leave("^C")
                    raise LineDroppedError
                case Ending.LEAVE:
                    running.screen.leave()
                    if text:
                        return text
                    raise EndOfInputError
                case Ending.TOO_LONG:
                    running.screen.show(text, len(text))
                    return await PlainEditor(self._tty).edit(prompt, text)
                case Ending.COMPLETE:
                    listed = await self._tab(running, prompt, listed)
                case Ending.EXPLAIN:
                    self._list(running, prompt, await self._found(running))

    async def _tab(self, running: Editing, prompt: str, tabbed: str) -> str:
        """Complete at the cursor; a second Tab at the same place lists the candidates. Returns the place."""
        here = running.buffer.document.text_before_cursor
        found = await self._found(running)
        if found.insert or found.replaces:
            running.buffer.delete_before_cursor(found.replaces)
            running.buffer.insert_text(found.insert)
        elif here == tabbed:
            self._list(running, prompt, found)
        return here[: len(here) - found.replaces] + found.insert

    async def _found(self, running: Editing) -> Completion:
        try:
            return await self._complete(running.buffer.document.text_before_cursor)
        except OperatorError:
            return Completion("", ())  # completion is a comfort: the command itself will say what is wrong

    def _list(self, running: Editing, prompt: str, found: Completion) -> None:
        """Show below the line what can come next, and the line once more below that."""
        if found.candidates or found.hints:
            running.screen.leave()
            painted = self.painted(prompt)
            self._tty.write(_listing(found, self._columns) + painted)
            running.screen.begin(prompt, self._columns, painted)


def _listing(found: Completion, columns: int) -> str:
    """Lay the candidates out one a line, each with its word of help; of paths, what their last segment can be."""
    shown = found.candidates[:_MOST_LISTED]
    words = [*found.hints, *((_last_segment(candidate.text), candidate.help) for candidate in shown)]
    width = max(cell_len(word) for word, _ in words)
    lines = [f"{word.ljust(width)}  {text}".rstrip()[: columns - 1] for word, text in words]
    if len(found.candidates) > len(shown):
        lines.append("… and more, type on")
    return "".join(f"{line}\n" for line in lines)


def _last_segment(path: str) -> str:
    return path[path.rstrip("/").rfind("/") + 1 :]
