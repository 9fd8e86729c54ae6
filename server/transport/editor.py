"""The line editor for people: prompt_toolkit's keys and buffer over a `Tty`, drawn by `Screen`.

Made at the first key that is not part of a complete line, reused for all prompts of the session. prompt_toolkit reads
one key at a time and never writes: what stands on the screen is the `Screen`'s alone.
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
from server.transport.ending import Ending
from server.transport.plain import PlainEditor
from server.transport.tty import Tty

if TYPE_CHECKING:
    from server.transport.editing import Editing

Complete = Callable[[str], Awaitable[Completion]]
Recall = Callable[[], Awaitable[Sequence[str]]]

_MOST_EDITED_CHARACTERS = 1000
_MOST_LISTED = 100
#: Tab and `?` wait so long for the end of their line: a line that arrives in several packets is no person's typing.
_LINE_END_SECONDS = 0.05
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

        `colour` of the prompt is one of the configuration's names. Set `reflows` to False before the first line for a
        terminal that leaves its rows as they are when its width changes.
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
        """Return one line; the prompt is on the screen already. Raises EndOfInputError or LineDroppedError."""
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
            await self._tty.drain()
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
                    return await self._in_plain(running, prompt, text)
                case Ending.RECALL:
                    running.recall(await self._lines())
                case Ending.COMPLETE:
                    listed = await self._tab(running, prompt, listed)
                case Ending.EXPLAIN:
                    await self._explain(running, prompt)

    async def _in_plain(self, running: Editing, prompt: str, text: str) -> str:
        """Go on with a line that is too long to be edited here, where it can be added to, erased, run and dropped."""
        if len(text) > _MOST_EDITED_CHARACTERS:  # an earlier one, which does not stand on the screen
            running.screen.show("", 0)
            self._tty.write(text)
        else:
            running.screen.show(text, len(text))
        return await PlainEditor(self._tty).edit(prompt, text)

    async def _lines(self) -> list[str]:
        """Return the user's earlier lines, and behind them those of this session, each of which is there once."""
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
        """List what can come at the cursor."""
        found = await self._found(running, "?")
        if found is not None:
            self._list(running, prompt, found)

    async def _tab(self, running: Editing, prompt: str, tabbed: str) -> str:
        """Complete at the cursor; a second Tab at the same place lists the candidates. Returns the place."""
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
        """Return what can come at the cursor; None when the end of the line has arrived meanwhile.

        The key was none then, but a character of a line that arrived in parts: it is read again, as such.
        """
        deadline = asyncio.get_running_loop().time() + _LINE_END_SECONDS
        try:
            found = await self._complete(running.buffer.document.text_before_cursor)
        except OperatorError:
            found = Completion("", ())  # completion is a comfort: the command itself will say what is wrong
        if await self._tty.line_end_by(deadline):
            self._tty.put_back(key)
            return None
        return found

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
