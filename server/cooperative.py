"""Share the event loop and the worker threads fairly between users.

A user with many sessions gets as much as a user with one. No user waits for all the queued work of another.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from time import monotonic
from typing import ParamSpec, Self, TypeVar

#: The length of one slice of long work. Each iteration of the event loop runs one slice for all sessions together. A
#: short command takes several iterations, so long work delays it by several slices.
TURN_SECONDS = 0.001
#: Longer text waits for a turn before it is parsed or searched.
LONG_CHARACTERS = 2_048
#: Some slices cannot be divided. After one that takes longer than this, other commands get an equally long pause.
_LONG_SLICE_SECONDS = 0.005
_LONGEST_PAUSE_SECONDS = 0.1
#: A larger reply takes megabytes until its client has read it. A user may have only a few of them at a time.
MANY_ROWS = 1_000
_LARGE_REPLIES = 4
_T = TypeVar("_T")
_P = ParamSpec("_P")


class TooManyWaitError(Exception):
    """The owner has too many waiting requests."""


class _Queue:
    """Waiting futures, served round-robin over their owners."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def add(self, owner: str) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(future)
        return future

    def count(self, owner: str) -> int:
        """Return the number of an owner's waiting futures, without cancelled ones."""
        return sum(not future.done() for future in self._waiting.get(owner, ()))

    def take(self) -> asyncio.Future[None] | None:
        """Remove the next future and move its owner to the end of the round."""
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
    """A semaphore that serves its owners round-robin."""

    def __init__(self, places: int) -> None:
        """Take the number of holders at a time."""
        self._free = places
        self._queue = _Queue()

    def waiting(self, owner: str) -> int:
        """Return how many requests of an owner wait."""
        return self._queue.count(owner)

    async def acquire(self, owner: str) -> None:
        """Wait for the lock."""
        if self._free:
            self._free -= 1
            return
        future = self._queue.add(owner)
        try:
            await future
        except asyncio.CancelledError:
            if not future.cancelled():
                self.release()  # the lock was granted already
            raise

    def release(self) -> None:
        """Pass the lock to the next owner."""
        future = self._queue.take()
        if future is None:
            self._free += 1
        else:
            future.set_result(None)

    @asynccontextmanager
    async def held(self, owner: str) -> AsyncIterator[None]:
        """Hold the lock inside the block."""
        await self.acquire(owner)
        try:
            yield
        finally:
            self.release()


class FairPool:
    """A few threads that serve owners round-robin. Each owner may have `most_waiting` calls in the queue."""

    def __init__(self, threads: int, name: str, most_waiting: int | None = None) -> None:
        """Start no thread yet. Without `most_waiting`, only the session limits bound the queue."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._places = FairLock(threads)
        self._most_waiting = most_waiting

    async def run(self, owner: str, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run a function in a thread at the owner's turn. Raises TooManyWaitError.

        A cancelled call that has started keeps its thread until the function returns.
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
        """Run a function in a thread without waiting for a turn, before the event loop runs."""
        return self._pool.submit(function, *args, **kwargs)

    def close(self) -> None:
        """End the threads after their running calls."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ended(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._places.release)


class FewEach:
    """A semaphore for each owner. More requests of an owner wait in order, up to `most_waiting`."""

    def __init__(self, places: int, most_waiting: int | None = None) -> None:
        """Take the number of holders per owner.

        Without `most_waiting`, only the session limits bound the queue.
        """
        self._places = places
        self._most_waiting = most_waiting
        self._locks: dict[str, tuple[asyncio.Semaphore, int]] = {}

    @asynccontextmanager
    async def turn(self, owner: str, patience_seconds: float | None = None) -> AsyncIterator[None]:
        """Wait for the owner's turn. Raises TooManyWaitError, or TimeoutError after `patience_seconds`."""
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
    """Shares the event loop: each iteration runs one slice of all waiting long work.

    `close` ends the search thread.
    """

    def __init__(self) -> None:
        """Begin without work."""
        self._queue = _Queue()
        self._granting = False
        self._granted_seconds: float | None = None
        self.searches = FairPool(1, "search")
        self.reads = FairLock(1)
        self.large_replies = FewEach(_LARGE_REPLIES)

    def of(self, owner: str) -> Share:
        """Return the share of one user for one line."""
        return Share(self, owner)

    def close(self) -> None:
        """End the thread after its running call."""
        self.searches.close()

    async def turn(self, owner: str) -> None:
        """Wait for the owner's next slice."""
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
        loop.call_soon(self._grant)  # runs after the slice


class Share:
    """One command line's share of the event loop, threads and memory.

    A context manager that ends with the line.
    """

    def __init__(self, turns: Turns, owner: str) -> None:
        """Take the shared turns and the line's user."""
        self._turns = turns
        self._owner = owner
        self._held: AsyncExitStack | None = None

    async def __aenter__(self) -> Self:
        """Begin the line."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Release everything that the line holds."""
        held, self._held = self._held, None
        if held is not None:
            await held.aclose()

    async def keep_many(self, rows: int) -> None:
        """Wait while the user has too many large replies under way. Call it before building a large reply."""
        if rows < MANY_ROWS or self._held is not None:
            return
        self._held = AsyncExitStack()
        await self._held.enter_async_context(self._turns.large_replies.turn(self._owner))

    async def turn(self) -> None:
        """Wait for the user's next slice."""
        await self._turns.turn(self._owner)

    async def turn_for(self, text: str) -> None:
        """Wait for a slice before work on a long text."""
        if len(text) > LONG_CHARACTERS:
            await self._turns.turn(self._owner)

    async def in_turns(self, items: Iterable[_T], show: Callable[[int], None] | None = None) -> AsyncIterator[_T]:
        """Yield items. After each `TURN_SECONDS` of producing and using them, wait for a turn.

        Before each wait, `show` gets the number of items done.
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
        """Wait for the turn to read and use thousands of rows. Only one such read runs at a time.

        So a short read, such as that of a login, waits for one long read at most, not for one of each session.
        """
        return self._turns.reads.held(self._owner)

    async def in_thread(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run a function in a thread. The function must release the interpreter lock."""
        return await self._turns.searches.run(self._owner, function, *args, **kwargs)
