"""The dialogue between a running command and its operator, over the session's terminal."""

from __future__ import annotations

from collections.abc import Awaitable

from server.encoding import save_as_utf_8
from server.errors import ArgumentError, InterruptedByOperatorError
from server.model.shutdown import Shutdown
from server.shell.terminal import EndOfInputError, ForeignEncodingError, LineDroppedError, Room, Terminal


class TerminalDialogue:
    """The dialogue of one session.

    `asked_hidden` is True when the request has asked for a secret. Then typed-ahead input may be that secret. With
    `reads_to_the_end`, as in an exec request, a document is the whole input instead of one line.
    """

    def __init__(self, terminal: Terminal) -> None:
        """Take the terminal of a session that has just begun."""
        self._terminal = terminal
        self.shutdown: Shutdown | None = None
        self.asked_hidden = False
        self.reads_to_the_end = False

    async def ask(self, question: str, *, hidden: bool) -> str | None:
        """Ask the operator and return the answer, None at the end of input. Raises OperatorError."""
        self.asked_hidden = self.asked_hidden or hidden
        return await _answer(self._terminal.ask(question, hidden=hidden))

    async def read_document(self, question: str, room: Room) -> str | None:
        """Read a document, None at the end of input. Raises OperatorError."""
        self.asked_hidden = True
        return await _answer(self._terminal.read_document(question, to_the_end=self.reads_to_the_end, room=room))

    def show_progress(self, text: str) -> None:
        """Show one line of progress to a person."""
        self._terminal.show_progress(text)


async def _answer(reading: Awaitable[str]) -> str | None:
    """Return the terminal's input, and turn its errors into OperatorError."""
    try:
        return await reading
    except EndOfInputError:
        return None
    except LineDroppedError:
        raise InterruptedByOperatorError from None
    except ForeignEncodingError as foreign:
        raise ArgumentError(unreadable_input(foreign)) from foreign


def unreadable_input(foreign: ForeignEncodingError) -> str:
    """Return the message for input in an encoding that the console does not read."""
    return f"standard input cannot be read, none of it was run: {save_as_utf_8(str(foreign))}"
