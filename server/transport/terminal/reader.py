"""Read lines from a terminal: complete lines at once, other lines with an editor.

Scripts and pastes send complete lines. For these, prompt, line and line end are written together, so the echo follows
the prompt as on a terminal. Only a line that arrives key by key is edited.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Protocol

from server.errors import OperatorError
from server.shell.terminal import EndOfInputError, ForeignEncodingError, LineDroppedError, Room
from server.transport.terminal.plain import PlainEditor
from server.transport.terminal.tty import END_OF_INPUT, INTERRUPT, Tty

_ERASE_LINE = "\r\x1b[K"
#: The most characters of one key press: an arrow has three. Larger packets are not typed by hand.
_MOST_CHARACTERS_PER_KEY = 3
#: Pieces of a document are joined up to this size, because a short string takes many times the memory of its text.
_SHORT_PIECE = 4_096


class Editor(Protocol):
    """Reads a line that arrives key by key."""

    async def edit(self, prompt: str) -> str:
        """Read a line, whose beginning may be in the queue. The prompt is on the screen already."""

    def remember(self, line: str) -> None:
        """Add a line to the history, even if it was not edited."""

    def painted(self, prompt: str) -> str:
        """Return the prompt with its colour."""

    def announce(self, text: str) -> bool:
        """Show a line above the edited one. Returns False when no line is edited."""


class LineReader:
    """Implements `Terminal`. The `editor` reads lines that arrive key by key at the prompt."""

    def __init__(self, tty: Tty, editor: Editor | None = None, *, prompts: bool = True) -> None:
        """Take the terminal. An `editor` means that a person types here, so lines are remembered."""
        self._prompts = prompts
        self.remembers = editor is not None
        self._tty = tty
        self._plain = PlainEditor(tty)
        self._editor = editor
        self._prompt = ""
        self._person_waits = self._progress_shown = False

    async def read_line(self, prompt: str) -> str:
        """Write the prompt and return one line; see `Terminal`."""
        return self._utf_8(await self._read(prompt, self._editor or self._plain))

    async def ask(self, question: str, *, hidden: bool) -> str:
        """Write the question and return the answer; see `Terminal`."""
        return self._utf_8(await self._read(question, PlainEditor(self._tty, hidden=hidden), hidden=hidden))

    async def read_document(self, question: str, *, to_the_end: bool, room: Room) -> str:
        """Return one line of any length, or all input to its end; see `Terminal`."""
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
                kept.clear()  # but read the rest: in a shell it must not run as commands
            if ended and not any_read:
                raise EndOfInputError
            if ended and refusal is not None:
                raise refusal
            if ended:
                return "".join(kept)
            await asyncio.sleep(0)

    async def _refusal(self, room: Room, piece: str) -> OperatorError | None:
        """Reserve memory for a piece of a document, or return the error. Ctrl-C ends the wait."""
        self._tty.reading = False
        try:
            await room.take(piece)
        except OperatorError as error:
            return error
        finally:
            self._tty.reading = True
        return None

    def remember(self, line: str) -> None:
        """Add a line to the history of a person."""
        if self._editor is not None:
            self._editor.remember(line)

    def tell(self, text: str) -> None:
        """Show a line to a person at the prompt, then the prompt again. Scripts do not get it."""
        if self._editor is None or not self._tty.reading:
            return
        if not self._editor.announce(text):
            self._tty.write(f"\n{text}\n{self._prompt}")

    def write(self, text: str) -> None:
        """Write text. It replaces a progress line."""
        gone, self._progress_shown = _ERASE_LINE if self._progress_shown else "", False
        self._tty.write(gone + text)

    def drop_typed_ahead(self) -> None:
        """Drop typed-ahead input of a person. The input of a script stays."""
        if self._tty.pty:
            self._tty.drop()

    def show_progress(self, text: str) -> None:
        """Show a progress line, but only to a person who typed the command key by key."""
        if self._person_waits:
            self._tty.write(_ERASE_LINE + text)
            self._progress_shown = True

    async def drain(self) -> None:
        """Wait until the client has read enough for more output."""
        await self._tty.drain()

    def _utf_8(self, text: str) -> str:
        """Return the text. Raises ForeignEncodingError when the stream is not UTF-8."""
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
                # the line was typed ahead; yield, because a script must not delay other sessions
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
