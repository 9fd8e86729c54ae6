"""What ends a word of the program in the midst: Ctrl-C, and signals that would leave copies of the store behind."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from server.storage.store import Store
from server.storage.uncut import CommittedError
from server.storage.writer import Query

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, with KeyboardInterrupt; what is ignored stays so."""
    before = {number: signal.getsignal(number) for number in _ENDING}
    for number, handler in before.items():
        if handler is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def go_through() -> None:
    """Ignore them up to the end of that block: from here on `nothing was changed` would be wrong."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)


@asynccontextmanager
async def change(store: Store) -> AsyncIterator[Query]:
    """Give a `query` for the one change of a word: Ctrl-C takes it back inside the block, and behind it counts no more.

    Else a word that was interrupted while it was committed would say that nothing was changed.
    """
    try:
        async with store.transaction() as query:
            yield query
            go_through()
    except CommittedError:  # a Ctrl-C just before: it is stored, and the word goes on
        task = asyncio.current_task()
        while task is not None and task.cancelling():
            task.uncancel()
