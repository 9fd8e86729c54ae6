"""What a session needs of the other end, whatever carries it."""

from __future__ import annotations

from typing import Protocol


class EndOfInputError(Exception):
    """Nothing more will be typed: Ctrl-D on an empty line, or the client closed its side."""


class LineDroppedError(Exception):
    """Ctrl-C while a line was typed; the terminal has shown `^C` and a new line."""


class ForeignEncodingError(Exception):
    """The input is UTF-16 or UTF-32, which the argument names: nothing of it can be understood."""


class Room(Protocol):
    """The room for a document."""

    async def take(self, text: str) -> None:
        """Make room for more of it; may wait. Raises OperatorError when there is none."""


class Terminal(Protocol):
    """One shell or command at the other end.

    `remembers` tells whether a person types here, whose lines are kept in the user's history.
    """

    remembers: bool

    async def read_line(self, prompt: str) -> str:
        """Show the prompt and return one line without its end.

        Raises EndOfInputError, LineDroppedError or ForeignEncodingError.
        """

    async def ask(self, question: str, *, hidden: bool) -> str:
        """Like `read_line`, without history or completion; a `hidden` answer is not echoed."""

    async def read_document(self, question: str, *, to_the_end: bool, room: Room) -> str:
        """Return one line that is not echoed, or all there is `to_the_end`, for which nothing is shown.

        A document for which there is no room is read whole and dropped. Raises as `read_line` and `room` do.
        """

    def remember(self, line: str) -> None:
        """Let a person bring a line back that was read."""

    def write(self, text: str) -> None:
        r"""Send text; `\n` ends lines."""

    def drop_typed_ahead(self) -> None:
        """Forget what was typed ahead at a terminal."""

    def show_progress(self, text: str) -> None:
        """Show one line to a person who waits, and to nobody else; what is written next takes its place."""

    async def drain(self) -> None:
        """Wait until the client has taken enough for more to be written."""
