"""The line editor for people: prompt_toolkit's keys and buffer over a `Tty`, drawn by `Screen`.

It is made for the first line that does not arrive complete, and reused for all prompts of the session. prompt_toolkit
reads one key at a time and never writes: only `Screen` draws.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.cells import cell_len

from server.errors import OperatorError
from server.shell.completion import Completion
from server.shell.terminal import EndOfInputError, LineDroppedError
from server.storage.history import LastLines
from server.transport.terminal.editor_stop import EditorStop
from server.transport.terminal.plain import PlainEditor
from server.transport.terminal.tty import Tty

if TYPE_CHECKING:
    from server.transport.terminal.editing import Editing

Complete = Callable[[str], Awaitable[Completion]]
Recall = Callable[[], Awaitable[Sequence[str]]]

_MOST_EDITED_CHARACTERS = 1000
_MOST_LISTED = 100
#: The time that Tab and `?` wait for the end of their line. A line that ends so soon was not typed by hand: it arrived
#: in several packets.
_LINE_END_SECONDS = 0.05
#: The escape sequence of each value of `prompt.colour`.
COLOURS = {"none": ""} | {
    name: f"\x1b[3{number}m"
    for number, name in enumerate(("red", "green", "yellow", "blue", "magenta", "cyan"), start=1)
}


def prepare() -> type[Editing]:
    """Import and patch prompt_toolkit. It is safe to call twice, and from a thread.

    The import would take a sixth of the start. So it happens after the console has begun to listen, or at the first key
    of an earlier user.
    """
    from server.transport.terminal.editing import Editing  # noqa: PLC0415
    from server.transport.terminal.prompt_toolkit_patches import apply_patches  # noqa: PLC0415

    apply_patches()
    return Editing


class LineEditor:
    """Edits one line after another on one terminal."""

    def __init__(
        self, tty: Tty, size: tuple[int, int], complete: Complete, recall: Recall, colour: str = "none"
    ) -> None:
        """Take the terminal with its columns and rows, the completion, and the earlier lines.

        `colour` is the name of the prompt's colour. For a terminal that does not rewrap its rows at another width, set
        `reflows` to False before the first line.
        """
        self.reflows = True
        self._colour = COLOURS[colour]
        self._tty = tty
        self._columns, self._rows = size
        self._complete = complete
        self._recall = recall
        self._typed = LastLines()
        self._earlier: Sequence[str] | None = None
        self._running: Editing | None = None
        self._editing = False
        self._prompt = ""

    async def edit(self, prompt: str) -> str:
        """Read one line. The prompt is on the screen already. Raises EndOfInputError or LineDroppedError."""
        if self._tty.ended or len(self._tty) > _MOST_EDITED_CHARACTERS:
            return await PlainEditor(self._tty).edit(prompt)
        if self._running is None:
            self._running = prepare()(self._tty, _MOST_EDITED_CHARACTERS, reflows=self.reflows)
        self._running.begin()
        self._prompt = prompt
        self._editing = True
        try:
            return await self._line(self._running, prompt)
        finally:
            self._editing = False

    def painted(self, prompt: str) -> str:
        """Return the prompt in its colour. The end `$ ` stays without colour, because scripts look for it."""
        return f"{self._colour}{prompt[:-2]}\x1b[0m{prompt[-2:]}" if self._colour else prompt

    def announce(self, text: str) -> bool:
        """Show a line above the edited one. Returns False when no line is edited."""
        if self._running is None or not self._editing:
            return False
        self._running.announce(text, self._prompt, self.painted(self._prompt), self._columns)
        return True

    def remember(self, line: str) -> None:
        """Add a line to the history."""
        if line.strip() and line not in self._typed[-1:]:
            self._typed.append(line)

    def resize(self, columns: int, rows: int) -> None:
        """Use a new terminal size from now on."""
        self._columns, self._rows = columns, rows
        if self._running is not None and self._editing:
            self._running.screen.resize(columns)

    async def _line(self, running: Editing, prompt: str) -> str:
        running.screen.begin(prompt, self._columns, self.painted(prompt))
        listed = ""
        while True:
            await self._tty.drain()
            stop = await running.keys()
            text = running.buffer.text
            match stop:
                case EditorStop.ACCEPT:
                    running.screen.leave()
                    return text
                case EditorStop.DROP:
                    running.screen.leave("^C")
                    raise LineDroppedError
                case EditorStop.LEAVE:
                    running.screen.leave()
                    if text:
                        return text
                    raise EndOfInputError
                case EditorStop.TOO_LONG:
                    return await self._in_plain(running, prompt, text)
                case EditorStop.RECALL:
                    running.recall(await self._lines())
                case EditorStop.COMPLETE:
                    listed = await self._tab(running, prompt, listed)
                case EditorStop.EXPLAIN:
                    await self._explain(running, prompt)

    async def _in_plain(self, running: Editing, prompt: str, text: str) -> str:
        """Continue a line that is too long for this editor in the plain editor."""
        if len(text) > _MOST_EDITED_CHARACTERS:  # an earlier line, which is not on the screen
            running.screen.show("", 0)
            self._tty.write(text)
        else:
            running.screen.show(text, len(text))
        return await PlainEditor(self._tty).edit(prompt, text)

    async def _lines(self) -> list[str]:
        """Return the earlier lines of the user, then those of this session, each once."""
        if self._earlier is None:
            self._earlier = await self._recall()
        typed = list(self._typed)
        known = Counter(typed)
        earlier: list[str] = []
        for line in reversed(self._earlier):
            if known[line] > 0:
                known[line] -= 1
            else:
                earlier.append(line)
        return [line for line, _ in groupby([*reversed(earlier), *typed])]

    async def _explain(self, running: Editing, prompt: str) -> None:
        """List the candidates at the cursor."""
        found = await self._found(running, "?")
        if found is not None:
            self._list(running, prompt, found)

    async def _tab(self, running: Editing, prompt: str, tabbed: str) -> str:
        """Complete at the cursor; a second Tab at the same position lists the candidates.

        Returns the text before the cursor, as the position for the next Tab.
        """
        here = running.buffer.document.text_before_cursor
        found = await self._found(running, "\t")
        if found is None:
            return tabbed
        if found.insert or found.replaces:
            running.buffer.delete_before_cursor(found.replaces)
            running.insert(found.insert)
        elif here == tabbed:
            self._list(running, prompt, found)
        return here[: len(here) - found.replaces] + found.insert

    async def _found(self, running: Editing, key: str) -> Completion | None:
        """Return the candidates at the cursor, or None when the end of the line has arrived meanwhile.

        In that case the key was part of a line that arrived in several packets, so it is read again as a character.
        """
        deadline = asyncio.get_running_loop().time() + _LINE_END_SECONDS
        try:
            found = await self._complete(running.buffer.document.text_before_cursor)
        except OperatorError:
            found = Completion("", ())  # the command itself will report the error
        if await self._tty.line_end_by(deadline):
            self._tty.put_back(key)
            return None
        return found

    def _list(self, running: Editing, prompt: str, found: Completion) -> None:
        """Show the candidates below the line, then the line again."""
        if found.candidates or found.hints:
            running.screen.leave()
            painted = self.painted(prompt)
            self._tty.write(_listing(found, self._columns) + painted)
            running.screen.begin(prompt, self._columns, painted)


def _listing(found: Completion, columns: int) -> str:
    """Format the candidates, one per line with its help. Paths are shown by their last segment."""
    shown = found.candidates[:_MOST_LISTED]
    words = [*found.hints, *((_last_segment(candidate.text), candidate.help) for candidate in shown)]
    width = max(cell_len(word) for word, _ in words)
    lines = [f"{word.ljust(width)}  {text}".rstrip()[: columns - 1] for word, text in words]
    if len(found.candidates) > len(shown):
        lines.append("… and more, type on")
    return "".join(f"{line}\n" for line in lines)


def _last_segment(path: str) -> str:
    return path[path.rstrip("/").rfind("/") + 1 :]
