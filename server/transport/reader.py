"""Reading lines from a terminal: what is complete needs no editor, the rest goes to the plain or the line editor.

A complete line in the queue is what scripts and pastes send: prompt, line and line end are written at once, so its
echo follows the prompt as on a terminal. Only a line that arrives key by key is edited.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Protocol

from server.errors import OperatorError
from server.shell.terminal import EndOfInputError, ForeignEncodingError, LineDroppedError, Room
from server.transport.plain import PlainEditor
from server.transport.tty import END_OF_INPUT, INTERRUPT, Tty

_ERASE_LINE = "\r\x1b[K"
#: A key is up to so many characters, the arrows' three; what comes in larger pieces is no hand's work.
_MOST_CHARACTERS_PER_KEY = 3
#: Pieces of a document are joined up to here: a short string takes many times its characters.
_SHORT_PIECE = 4_096


class Editor(Protocol):
    """Reads a line that comes key by key, and is told of those that did not need it."""

    async def edit(self, prompt: str) -> str:
        """Return a line of which a part may be in the queue; the prompt is on the screen already."""

    def remember(self, line: str) -> None:
        """Add a line to what can be brought back."""

    def painted(self, prompt: str) -> str:
        """Return the prompt as it is to be written."""

    def announce(self, text: str) -> bool:
        """Show a line above the one that is edited now; False when none is."""


class LineReader:
    """The session's `Terminal` over a `Tty`. `editor` reads what comes key by key at the prompt."""

    def __init__(self, tty: Tty, editor: Editor | None = None, *, prompts: bool = True) -> None:
        """Take the terminal; with an `editor` of its own a person types here, whose lines are remembered."""
        self._prompts = prompts
        self.remembers = editor is not None
        self._tty = tty
        self._plain = PlainEditor(tty)
        self._editor = editor
        self._prompt = ""
        self._person_waits = self._progress_shown = False

    async def read_line(self, prompt: str) -> str:
        """Show the prompt and return one line; see `Terminal`."""
        return self._utf_8(await self._read(prompt, self._editor or self._plain))

    async def ask(self, question: str, *, hidden: bool) -> str:
        """Show the question and return the answer; see `Terminal`."""
        return self._utf_8(await self._read(question, PlainEditor(self._tty, hidden=hidden), hidden=hidden))

    async def read_document(self, question: str, *, to_the_end: bool, room: Room) -> str:
        """Return one line of any length, or all there is; see `Terminal`."""
        tty = self._tty
        tty.reading, tty.last_input = True, monotonic()
        try:
            if not to_the_end and self._prompts:
                self.write(question)
            text = self._utf_8(await self._document("" if to_the_end else "\r", room))
            if tty.pty:
                self.write("\n")
            return text
        finally:
            tty.reading = False

    async def _document(self, line_end: str, room: Room) -> str:
        kept: list[str] = []
        any_read, refusal = False, None
        while True:
            await self._tty.drain()
            await self._tty.wait()
            text = self._tty.take_through(line_end + INTERRUPT + END_OF_INPUT)
            if text.endswith(INTERRUPT):
                self.write("^C\n")
                raise LineDroppedError
            ended = not text or (text[-1] in line_end + END_OF_INPUT)
            any_read = any_read or bool(text)
            piece = text[: len(text) - (ended and bool(text))]
            if refusal is None:
                refusal = await self._refusal(room, piece)
                _keep(kept, piece)
            if refusal is not None:
                kept.clear()  # what follows is read all the same: in a shell it must not be taken for commands
            if ended and not any_read:
                raise EndOfInputError
            if ended and refusal is not None:
                raise refusal
            if ended:
                return "".join(kept)
            await asyncio.sleep(0)

    async def _refusal(self, room: Room, piece: str) -> OperatorError | None:
        """Make room for a piece of a document, or return why there is none. Ctrl-C ends the wait for it."""
        self._tty.reading = False
        try:
            await room.take(piece)
        except OperatorError as error:
            return error
        finally:
            self._tty.reading = True
        return None

    def remember(self, line: str) -> None:
        """Let a person bring a line back."""
        if self._editor is not None:
            self._editor.remember(line)

    def tell(self, text: str) -> None:
        """Show a person at the prompt a line of the console's own, and the prompt again; scripts are told nothing."""
        if self._editor is None or not self._tty.reading:
            return
        if not self._editor.announce(text):
            self._tty.write(f"\n{text}\n{self._prompt}")

    def write(self, text: str) -> None:
        """Send text, in place of a progress line."""
        gone, self._progress_shown = _ERASE_LINE if self._progress_shown else "", False
        self._tty.write(gone + text)

    def drop_typed_ahead(self) -> None:
        """Forget what a person typed ahead; what a script has piped is kept."""
        if self._tty.pty:
            self._tty.drop()

    def show_progress(self, text: str) -> None:
        """Show a line to whoever typed the command key by key, and to nobody else."""
        if self._person_waits:
            self._tty.write(_ERASE_LINE + text)
            self._progress_shown = True

    async def drain(self) -> None:
        """Wait until more can be written."""
        await self._tty.drain()

    def _utf_8(self, text: str) -> str:
        """Return what was read; raises ForeignEncodingError when the stream is no UTF-8."""
        if encoding := self._tty.foreign_encoding:
            raise ForeignEncodingError(encoding)
        return text

    def _echo(self, line: str) -> None:
        if self._tty.pty:
            self._tty.write_soon(line + "\n")

    async def _read(self, prompt: str, editor: Editor, *, hidden: bool = False) -> str:
        tty = self._tty
        tty.reading, tty.last_input = True, monotonic()
        arrivals, arrived = tty.arrivals, tty.arrived
        self._person_waits = False
        try:
            self._prompt = editor.painted(prompt) if self._prompts else ""
            self.write(self._prompt)
            line = tty.take_line()
            if line is not None:
                # typed ahead: nothing has been waited for, and a script must not hold the other sessions up
                self._echo("" if hidden else line)
                await tty.writable()
                await asyncio.sleep(0)
                return line
            await tty.drain()
            await tty.wait()
            line = tty.take_line()
            if line is None:
                line = await editor.edit(prompt)
                keys = (tty.arrivals - arrivals) * _MOST_CHARACTERS_PER_KEY
                self._person_waits = self._editor is not None and tty.arrived - arrived <= keys
                return line
            self._echo("" if hidden else line)
            return line
        finally:
            tty.reading = False


def _keep(kept: list[str], piece: str) -> None:
    if kept and len(kept[-1]) < _SHORT_PIECE:
        kept[-1] += piece
    else:
        kept.append(piece)
