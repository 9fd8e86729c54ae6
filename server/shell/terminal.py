"""The terminal of a session, independent of the transport."""

from __future__ import annotations

from typing import Protocol


class EndOfInputError(Exception):
    """The end of input: Ctrl-D on an empty line, or the client closed its side."""


class LineDroppedError(Exception):
    """Ctrl-C on a line. The terminal has shown `^C` and a new line."""


class ForeignEncodingError(Exception):
    """The input is UTF-16 or UTF-32 and cannot be read. The argument is the encoding."""


class Room(Protocol):
    """The memory for one document."""

    async def take(self, text: str) -> None:
        """Reserve memory for the next part of it; may wait. Raises OperatorError when there is none."""


class Terminal(Protocol):
    """The client's side of one shell or command.

    `remembers` is True when a person types here. Then lines go to the user's history.
    """

    remembers: bool

    async def read_line(self, prompt: str) -> str:
        """Show the prompt and return one line without its line end.

        Raises EndOfInputError, LineDroppedError or ForeignEncodingError.
        """

    async def ask(self, question: str, *, hidden: bool) -> str:
        """Read an answer like `read_line`, but without history and completion.

        A `hidden` answer is not echoed.
        """

    async def read_document(self, question: str, *, to_the_end: bool, room: Room) -> str:
        """Read one line without echo or, with `to_the_end`, all input, without showing the question.

        A document that does not fit is read to its end and dropped. Raises the errors of `read_line` and `room`.
        """

    def remember(self, line: str) -> None:
        """Make a line available for recall with the arrow keys."""

    def write(self, text: str) -> None:
        r"""Send text; `\n` ends lines."""

    def drop_typed_ahead(self) -> None:
        """Drop input that was typed ahead at a terminal."""

    def show_progress(self, text: str) -> None:
        """Show one line of progress to a person. The next output replaces it. Scripts get nothing."""

    async def drain(self) -> None:
        """Wait until the client has read enough of the output."""
