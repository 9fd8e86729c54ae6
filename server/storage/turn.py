"""The write lock's queue: urgent changes first, long ones last, and no change waits for ever."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import IntEnum

#: After this many turns in a row at higher ranks, a change of a lower rank gets the next turn.
_MOST_IN_A_ROW = 8


class Rank(IntEnum):
    """The order of waiting changes: the lowest rank goes first."""

    FIRST = 0
    ORDINARY = 1
    LONG = 2


class Turn:
    """A lock that goes to the waiter with the first rank; first come, first served within a rank."""

    def __init__(self) -> None:
        """Start with a free lock."""
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
                self.release()  # the turn was already handed to this cancelled waiter
            raise

    def release(self) -> None:
        """Hand the turn to the next waiter."""
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
