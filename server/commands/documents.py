"""Documents on their way in: how much memory they may take, one at a time of each user."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from server.cooperative import FewEach, TooManyWaitError
from server.errors import ArgumentError, OperatorError, TemporaryError

#: What all documents that are being read may take: four of the longest.
MOST_BYTES_IN_ALL = 128 * 1024 * 1024
#: A document up to here waits for no other one of its user: a session at the question for one holds nothing up.
_FREE_BYTES = 256 * 1024
#: Of one user, so many documents wait for the one that is read. Scripts run a few imports side by side.
_MOST_WAITING = 8
_PATIENCE_SECONDS = 60.0
#: What a character takes, where not all are ASCII.
_WIDEST_BYTES = 4


class Documents:
    """The documents that all sessions are reading."""

    def __init__(self) -> None:
        """Begin with none."""
        self.kept_bytes = 0
        self.turns = FewEach(1, _MOST_WAITING)

    @asynccontextmanager
    async def reading(self, owner: str, most_characters: int) -> AsyncIterator[Room]:
        """Give the room for one document of a user, which is kept until the block ends."""
        async with AsyncExitStack() as stack:
            room = Room(self, owner, most_characters, stack)
            stack.callback(room.give_back)
            yield room


class Room:
    """The room for one document of up to `most_characters`, or a quarter of that where not all are ASCII."""

    def __init__(self, documents: Documents, owner: str, most_characters: int, stack: AsyncExitStack) -> None:
        """Take the stack that ends with the document."""
        self._documents = documents
        self._owner = owner
        self._most_characters = most_characters
        self._stack = stack
        self._characters = self._kept_bytes = 0
        self._wide = self._is_first = False

    async def take(self, text: str) -> None:
        """Make room for more of the document, when the user's turn has come.

        Raises ArgumentError when it is too long, TemporaryError when other documents take the room. The next document
        of the user goes on then, although the rest of this one is still to be read.
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
        """Wait until no other document of the user is under way. Raises TemporaryError when that takes too long."""
        if self._is_first:
            return
        try:
            await self._stack.enter_async_context(self._documents.turns.turn(self._owner, _PATIENCE_SECONDS))
        except (TooManyWaitError, TimeoutError):
            message = f"other imports of {self._owner} are under way, try again later"
            raise TemporaryError(message) from None
        self._is_first = True

    def give_back(self) -> None:
        """Free the room for other documents."""
        self._documents.kept_bytes -= self._kept_bytes
        self._kept_bytes = 0
