"""The plain editor for unknown terminals: it echoes and erases characters, without escape sequences."""

from __future__ import annotations

import asyncio

from rich.cells import cell_len

from server.grammar.tokens import MOST_CHARACTERS
from server.shell.terminal import EndOfInputError, LineDroppedError
from server.transport.terminal.sequences import MOST_CHARACTERS_PER_SEQUENCE, is_text, piece_at
from server.transport.terminal.tty import END_OF_INPUT, INTERRUPT, Tty

_ERASE, _DELETE, _KILL_LINE, _KILL_WORD = "\x08", "\x7f", "\x15", "\x17"
#: The characters of the queue that are handled in one iteration of the event loop.
_CHARACTERS_PER_TURN = max(1024, MOST_CHARACTERS_PER_SEQUENCE)
#: More queued input than typed keys or a pasted word waits for a turn. Sessions with so much input take turns.
_MANY_CHARACTERS = 128
#: The line is kept in runs of this length, so that erasing a character does not copy the whole line.
_CHARACTERS_PER_RUN = 256


class PlainEditor:
    """Reads one line after another. Without a pty it neither edits nor echoes."""

    def __init__(self, tty: Tty, *, hidden: bool = False) -> None:
        """Take the terminal. With `hidden` it echoes only line ends."""
        self._tty = tty
        self._hidden = hidden
        self._runs: list[str] = []
        self._length = 0
        self._kills = False  # a kill key erases in several turns, and stays in the queue until the last

    def remember(self, line: str) -> None:
        """Do nothing: there is no history."""

    def painted(self, prompt: str) -> str:
        """Return the prompt without colour."""
        return prompt

    def announce(self, text: str) -> bool:  # noqa: ARG002
        """Return False, because this editor cannot draw the line again."""
        return False

    async def edit(self, prompt: str, typed: str = "") -> str:  # noqa: ARG002  the prompt is on the screen already
        """Read a line and return it.

        The prompt and `typed`, the beginning of the line, are on the screen already. A line of more than 64 K
        characters is returned one character too long, so that the session refuses it. Raises EndOfInputError or
        LineDroppedError.
        """
        self._runs, self._length = [], 0
        self._kills = False
        self._add(typed)
        seen = -1
        while True:
            await self._tty.wait(after=seen)
            if not len(self._tty) and not self._length:
                self._echo("\n")
                raise EndOfInputError
            if len(self._tty) > _MANY_CHARACTERS:
                await self._tty.turn()
            before, arrivals = len(self._tty), self._tty.arrivals
            if not before or (self._act() if self._tty.pty else self._take()):
                self._echo("\n")
                return "".join(self._runs)
            seen = (
                arrivals if len(self._tty) == before and not self._kills else -1
            )  # wait for the rest of an unfinished sequence
            # a client that does not read its echo waits here while other sessions run
            await self._tty.drain()
            await asyncio.sleep(0)

    def _take(self) -> bool:
        """Take text up to a line end, unchanged. Returns whether the line is complete."""
        text = self._tty.take_through("\r")
        self._insert(text.removesuffix("\r"))
        return text.endswith("\r")

    def _act(self) -> bool:
        """Handle the next keys, up to a line end. Returns whether the line is complete."""
        queued = self._tty.peek(_CHARACTERS_PER_TURN)
        position = 0
        try:
            while position < len(queued):
                piece = piece_at(queued, position)
                if not piece and not self._tty.ended:
                    return False
                position += len(piece) or 1
                if piece == "\r":
                    return True
                if piece:
                    self._key(piece)
                if self._kills:
                    position -= len(piece)
                    return False
            return False
        finally:
            self._tty.take(position)

    def _key(self, piece: str) -> None:
        if piece == INTERRUPT:
            self._echo("^C\n")
            raise LineDroppedError
        if piece == END_OF_INPUT and not self._length:
            self._echo("\n")
            raise EndOfInputError
        if piece in {_ERASE, _DELETE}:
            self._erase(self._last(1))
        elif piece == _KILL_LINE:
            self._kill("".join(self._runs))
        elif piece == _KILL_WORD:
            self._kill(self._last_word())
        elif piece == "\t":
            self._insert(" ")
        elif is_text(piece):
            self._insert(piece)

    def _insert(self, text: str) -> None:
        room = MOST_CHARACTERS + 1 - self._length
        kept = text[:room] if room > 0 else ""
        self._add(kept)
        self._echo("" if self._hidden else kept)

    def _add(self, text: str) -> None:
        if self._runs and len(self._runs[-1]) + len(text) <= _CHARACTERS_PER_RUN:
            self._runs[-1] += text
        else:
            self._runs += [text[at : at + _CHARACTERS_PER_RUN] for at in range(0, len(text), _CHARACTERS_PER_RUN)]
        self._length += len(text)

    def _last(self, count: int) -> str:
        return self._runs[-1][-count:] if self._runs else ""

    def _last_word(self) -> str:
        """Return the last word with the blanks after it. It reads only the end of the line."""
        word, found = "", False
        for run in reversed(self._runs):
            kept = len(run) if found else len(run.rstrip())
            found = found or kept > 0
            start = run.rfind(" ", 0, kept) + 1
            word = run[start:] + word
            if start:
                break
        return word

    def _kill(self, gone: str) -> None:
        """Erase the end `gone` of the line, in several turns, because measuring non-ASCII characters is slow."""
        self._erase(gone[-_CHARACTERS_PER_TURN:])
        self._kills = len(gone) > _CHARACTERS_PER_TURN and self._length <= MOST_CHARACTERS

    def _erase(self, gone: str) -> None:
        """Erase the end `gone` of the line.

        A line over the limit stays as it is, because a cut line must not run.
        """
        if self._length > MOST_CHARACTERS:
            return
        left = len(gone)
        while left:
            run = self._runs.pop()
            if len(run) > left:
                self._runs.append(run[:-left])
            left -= min(left, len(run))
        self._length -= len(gone)
        self._echo("" if self._hidden else "\b \b" * cell_len(gone))

    def _echo(self, text: str) -> None:
        if self._tty.pty:
            self._tty.write(text)
