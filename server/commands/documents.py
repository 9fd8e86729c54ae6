"""Memory limits for incoming documents: a total for all, and one large document per user at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from server.cooperative import FewEach, TooManyWaitError
from server.errors import ArgumentError, OperatorError, TemporaryError

#: The limit for all incoming documents together. Four of the longest ones fit.
MOST_BYTES_IN_ALL = 128 * 1024 * 1024
#: A smaller document does not wait for the user's other documents, so a session that waits for input blocks nothing.
_FREE_BYTES = 256 * 1024
#: The most documents of one user that wait for their turn. Scripts run a few imports at the same time.
_MOST_WAITING = 8
_PATIENCE_SECONDS = 60.0
#: The most memory that Python needs for one character of text that is not all ASCII.
_WIDEST_BYTES = 4


class Documents:
    """The memory of all documents that sessions are reading now."""

    def __init__(self) -> None:
        """Begin without documents."""
        self.kept_bytes = 0
        self.turns = FewEach(1, _MOST_WAITING)

    @asynccontextmanager
    async def reading(self, owner: str, most_characters: int) -> AsyncIterator[Room]:
        """Give a user the `Room` for one document. The end of the block frees its memory."""
        async with AsyncExitStack() as stack:
            room = Room(self, owner, most_characters, stack)
            stack.callback(room.give_back)
            yield room


class Room:
    """The memory for one document of up to `most_characters` in ASCII, or a quarter of that in other text."""

    def __init__(self, documents: Documents, owner: str, most_characters: int, stack: AsyncExitStack) -> None:
        """Take the limits and a stack.

        The stack is closed at the end of the document and releases the user's turn.
        """
        self._documents = documents
        self._owner = owner
        self._most_characters = most_characters
        self._stack = stack
        self._characters = self._kept_bytes = 0
        self._wide = self._is_first = False

    async def take(self, text: str) -> None:
        """Reserve memory for the next part of the document. A large document waits for the user's turn first.

        Raises ArgumentError when the document is too long, and TemporaryError when other documents use the memory.
        After an error the user's next document starts, although the rest of this one must still be read.
        """
        try:
            await self._take(text)
        except OperatorError:
            await self._stack.aclose()
            raise

    async def _take(self, text: str) -> None:
        self._wide = self._wide or not text.isascii()
        self._characters += len(text)
        most = self._most_characters // (_WIDEST_BYTES if self._wide else 1)
        if self._characters > most:
            message = f"the document is longer than {most:,} characters"
            raise ArgumentError(f"{message}, the limit where not all are ASCII" if self._wide else message)
        size = len(text) * (1 if text.isascii() else _WIDEST_BYTES)
        if self._kept_bytes + size > _FREE_BYTES:
            await self.take_turn()
        if self._documents.kept_bytes + size > MOST_BYTES_IN_ALL:
            message = "the documents of other users take all the memory for documents, try again later"
            raise TemporaryError(message)
        self._kept_bytes += size
        self._documents.kept_bytes += size

    async def take_turn(self) -> None:
        """Wait until no other large document of the user is being read. Raises TemporaryError after a minute."""
        if self._is_first:
            return
        try:
            await self._stack.enter_async_context(self._documents.turns.turn(self._owner, _PATIENCE_SECONDS))
        except (TooManyWaitError, TimeoutError):
            message = f"other imports of {self._owner} are under way, try again later"
            raise TemporaryError(message) from None
        self._is_first = True

    def give_back(self) -> None:
        """Free the memory for other documents."""
        self._documents.kept_bytes -= self._kept_bytes
        self._kept_bytes = 0
