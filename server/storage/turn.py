"""The turn to write: changes that must not wait go first, long ones last, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import IntEnum

#: So many turns in a row may pass those that wait at a lower rank; then one of these has its turn.
_MOST_IN_A_ROW = 8


class Rank(IntEnum):
    """Which change goes first where several wait."""

    FIRST = 0
    ORDINARY = 1
    LONG = 2


class Turn:
    """A lock that is handed over by rank, within a rank in order."""

    def __init__(self) -> None:
        """Begin with a turn that nobody has."""
        self._held = False
        self._waiting: dict[Rank, deque[asyncio.Future[None]]] = {rank: deque() for rank in Rank}
        self._passed = dict.fromkeys(Rank, 0)

    async def acquire(self, rank: Rank) -> None:
        """Wait for the turn."""
        if not self._held:
            self._held = True
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[rank].append(future)
        try:
            await future
        except asyncio.CancelledError:
            if not future.cancelled():
                self.release()  # it was handed over already
            raise

    def release(self) -> None:
        """Hand the turn over."""
        for futures in self._waiting.values():
            while futures and futures[0].done():  # cancelled
                futures.popleft()
        ranks = [rank for rank, futures in self._waiting.items() if futures]
        if not ranks:
            self._held = False
            return
        rank = next((each for each in ranks if self._passed[each] >= _MOST_IN_A_ROW), ranks[0])
        for each in ranks:
            self._passed[each] += each > rank
        self._passed[rank] = 0
        self._waiting[rank].popleft().set_result(None)

    @asynccontextmanager
    async def held(self, rank: Rank) -> AsyncIterator[None]:
        """Hold the turn inside the block."""
        await self.acquire(rank)
        try:
            yield
        finally:
            self.release()
