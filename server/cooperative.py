"""The shares of users in what all sessions use: the event loop, and the threads for work that takes longer.

One user with many sessions gets as much as one with a single session, and nobody waits for all that another has queued.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from time import monotonic
from typing import ParamSpec, Self, TypeVar

#: How long one slice of long work may take. All sessions together get one slice in each iteration of the event loop. A
#: short command takes several iterations, so it waits for a multiple of this.
TURN_SECONDS = 0.001
#: Text that is longer takes a turn before it is taken apart or searched.
LONG_CHARACTERS = 2_048
#: A slice that could not be divided and took longer is followed by a pause as long, for the commands of others.
_LONG_SLICE_SECONDS = 0.005
_LONGEST_PAUSE_SECONDS = 0.1
#: A reply of so many rows takes megabytes until its client has read it. A user has few of them at a time.
MANY_ROWS = 1_000
_LARGE_REPLIES = 4
_T = TypeVar("_T")
_P = ParamSpec("_P")


class TooManyWaitError(Exception):
    """The owner has as much in the queue as one owner may have."""


class _Queue:
    """Futures that wait, taken from one owner after another."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def add(self, owner: str) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(future)
        return future

    def count(self, owner: str) -> int:
        """Return how many of an owner wait; those that were cancelled do not."""
        return sum(not future.done() for future in self._waiting.get(owner, ()))

    def take(self) -> asyncio.Future[None] | None:
        """Remove the next future; its owner goes behind the other owners."""
        while self._waiting:
            owner = next(iter(self._waiting))
            futures = self._waiting.pop(owner)
            future = futures.popleft()
            while futures and future.done():  # cancelled
                future = futures.popleft()
            if futures:
                self._waiting[owner] = futures
            if not future.done():
                return future
        return None


class FairLock:
    """A lock with a few places, which go to one owner after another."""

    def __init__(self, places: int) -> None:
        """Begin with all places free."""
        self._free = places
        self._queue = _Queue()

    def waiting(self, owner: str) -> int:
        """Return how many of an owner wait for a place."""
        return self._queue.count(owner)

    async def acquire(self, owner: str) -> None:
        """Wait for a place."""
        if self._free:
            self._free -= 1
            return
        future = self._queue.add(owner)
        try:
            await future
        except asyncio.CancelledError:
            if not future.cancelled():
                self.release()  # it was this one's turn already
            raise

    def release(self) -> None:
        """Give the place to the next owner."""
        future = self._queue.take()
        if future is None:
            self._free += 1
        else:
            future.set_result(None)

    @asynccontextmanager
    async def held(self, owner: str) -> AsyncIterator[None]:
        """Hold a place inside the block."""
        await self.acquire(owner)
        try:
            yield
        finally:
            self.release()


class FairPool:
    """A few threads that serve one owner after another, who may have `most_waiting` calls each in the queue."""

    def __init__(self, threads: int, name: str, most_waiting: int | None = None) -> None:
        """Start no thread yet; without `most_waiting` the number of sessions is the limit."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._places = FairLock(threads)
        self._most_waiting = most_waiting

    async def run(self, owner: str, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run a function in a thread when the owner's turn has come. Raises TooManyWaitError.

        A cancelled call that has begun keeps its thread until the function returns.
        """
        if self._most_waiting is not None and self._places.waiting(owner) >= self._most_waiting:
            raise TooManyWaitError
        await self._places.acquire(owner)
        loop = asyncio.get_running_loop()
        try:
            running = self._pool.submit(function, *args, **kwargs)
        except BaseException:
            self._places.release()
            raise
        running.add_done_callback(lambda _: self._ended(loop))
        return await asyncio.wrap_future(running)

    def submit(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Run a function in a thread without a turn, before there is a loop."""
        return self._pool.submit(function, *args, **kwargs)

    def close(self) -> None:
        """End the threads after what is running."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ended(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._places.release)


class FewEach:
    """A few places for each owner; more of the same owner wait in order, up to `most_waiting`."""

    def __init__(self, places: int, most_waiting: int | None = None) -> None:
        """Begin with nobody at work; without `most_waiting` the number of sessions is the limit."""
        self._places = places
        self._most_waiting = most_waiting
        self._locks: dict[str, tuple[asyncio.Semaphore, int]] = {}

    @asynccontextmanager
    async def turn(self, owner: str, patience_seconds: float | None = None) -> AsyncIterator[None]:
        """Wait for the owner's turn. Raises TooManyWaitError, and TimeoutError when the patience has ended."""
        lock, users = self._locks.get(owner, (asyncio.Semaphore(self._places), 0))
        if self._most_waiting is not None and users >= self._places + self._most_waiting:
            raise TooManyWaitError
        self._locks[owner] = lock, users + 1
        try:
            async with asyncio.timeout(patience_seconds):
                await lock.acquire()
            try:
                yield
            finally:
                lock.release()
        finally:
            lock, users = self._locks.pop(owner)
            if users > 1:
                self._locks[owner] = lock, users - 1


class Turns:
    """Shares the event loop: of all long work that waits, one slice runs in each iteration.

    `close` ends the thread of searches.
    """

    def __init__(self) -> None:
        """Begin with no work."""
        self._queue = _Queue()
        self._granting = False
        self._granted_seconds: float | None = None
        self.searches = FairPool(1, "search")
        self.reads = FairLock(1)
        self.large_replies = FewEach(_LARGE_REPLIES)

    def of(self, owner: str) -> Share:
        """Return the share of one user, for one line."""
        return Share(self, owner)

    def close(self) -> None:
        """End the thread after what is running."""
        self.searches.close()

    async def turn(self, owner: str) -> None:
        """Wait until the owner may work for a slice."""
        future = self._queue.add(owner)
        if not self._granting:
            self._granting = True
            asyncio.get_running_loop().call_soon(self._grant)
        await future

    def _grant(self) -> None:
        loop = asyncio.get_running_loop()
        took = 0.0 if self._granted_seconds is None else monotonic() - self._granted_seconds
        self._granted_seconds = None
        if took > _LONG_SLICE_SECONDS:
            loop.call_later(min(took, _LONGEST_PAUSE_SECONDS), self._grant)
            return
        future = self._queue.take()
        if future is None:
            self._granting = False
            return
        self._granted_seconds = monotonic()
        future.set_result(None)
        loop.call_soon(self._grant)  # runs behind the slice


class Share:
    """What a line of one user may take of the event loop, of threads and of memory. Entered, it ends with the line."""

    def __init__(self, turns: Turns, owner: str) -> None:
        """Take what is shared, and whose line it is."""
        self._turns = turns
        self._owner = owner
        self._held: AsyncExitStack | None = None

    async def __aenter__(self) -> Self:
        """Begin the line."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give back what the line took."""
        held, self._held = self._held, None
        if held is not None:
            await held.aclose()

    async def keep_many(self, rows: int) -> None:
        """Before a reply of so many rows is made, wait until few such replies of the user are on their way."""
        if rows < MANY_ROWS or self._held is not None:
            return
        self._held = AsyncExitStack()
        await self._held.enter_async_context(self._turns.large_replies.turn(self._owner))

    async def turn(self) -> None:
        """Wait until the user may work for a slice."""
        await self._turns.turn(self._owner)

    async def turn_for(self, text: str) -> None:
        """Wait likewise before work on a text that is long."""
        if len(text) > LONG_CHARACTERS:
            await self._turns.turn(self._owner)

    async def in_turns(self, items: Iterable[_T], show: Callable[[int], None] | None = None) -> AsyncIterator[_T]:
        """Yield items, and wait for a turn whenever making them and using them has taken `TURN_SECONDS`.

        `show` is told then how many are done.
        """
        began = monotonic()
        for done, item in enumerate(items, 1):
            yield item
            if monotonic() - began > TURN_SECONDS:
                if show is not None:
                    show(done)
                await self._turns.turn(self._owner)
                began = monotonic()

    def read(self) -> AbstractAsyncContextManager[None]:
        """Wait for a turn to read thousands of rows at once, and to use them: one such read is done at a time.

        Short reads, as those of a login, then wait for one long read and not for one of each session.
        """
        return self._turns.reads.held(self._owner)

    async def in_thread(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run a function that releases the interpreter in a thread."""
        return await self._turns.searches.run(self._owner, function, *args, **kwargs)
