"""Memory limits for incoming documents: a total, and one large document of each user at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from server.cooperative import FewEach, TooManyWaitError
from server.errors import ArgumentError, OperatorError, TemporaryError

#: Limits all incoming documents together: room for four of the longest.
MOST_BYTES_IN_ALL = 128 * 1024 * 1024
#: Smaller documents wait for no other one of the user, so a session at the question blocks nothing.
_FREE_BYTES = 256 * 1024
#: Documents of one user that may wait. Scripts run a few imports at the same time.
_MOST_WAITING = 8
_PATIENCE_SECONDS = 60.0
#: The memory of a character in text that is not all ASCII.
_WIDEST_BYTES = 4


class Documents:
    """The documents that sessions are reading now."""

    def __init__(self) -> None:
        """Begin without documents."""
        self.kept_bytes = 0
        self.turns = FewEach(1, _MOST_WAITING)

    @asynccontextmanager
    async def reading(self, owner: str, most_characters: int) -> AsyncIterator[Room]:
        """Give the memory for one document of a user. The end of the block frees it."""
        async with AsyncExitStack() as stack:
            room = Room(self, owner, most_characters, stack)
            stack.callback(room.give_back)
            yield room


class Room:
    """The memory for one document of up to `most_characters`, or a quarter of that unless all are ASCII."""

    def __init__(self, documents: Documents, owner: str, most_characters: int, stack: AsyncExitStack) -> None:
        """Take the stack that closes at the end of the document."""
        self._documents = documents
        self._owner = owner
        self._most_characters = most_characters
        self._stack = stack
        self._characters = self._kept_bytes = 0
        self._wide = self._is_first = False

    async def take(self, text: str) -> None:
        """Reserve memory for more of the document, in the user's turn.

        Raises ArgumentError when it is too long, TemporaryError when other documents use the memory. After an error the
        user's next document starts, although the rest of this one must still be read.
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
            message = "the documents of other users take all the room that there is, try again later"
            raise TemporaryError(message)
        self._kept_bytes += size
        self._documents.kept_bytes += size

    async def take_turn(self) -> None:
        """Wait for the user's other documents. Raises TemporaryError when that takes too long."""
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
