"""Awaiting what a cancellation must not cut, such as a statement that the database runs."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class CommittedError(asyncio.CancelledError):
    """The caller was cancelled while its transaction was committed: it is stored, and the cancellation goes on."""


async def uncut(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end, also when the caller is cancelled meanwhile; CancelledError follows then."""
    return await awaited(asyncio.ensure_future(work))


async def awaited(running: asyncio.Future[T], *, commits: bool = False) -> T:
    """Await a future without cancelling it; a cancellation of the caller is raised at its end.

    It is raised as CommittedError where the future `commits` a change and has succeeded.
    """
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait({running})
        except asyncio.CancelledError as asked:
            cancelled = asked
    failed = running.exception()
    if cancelled is None:
        return running.result()
    if failed is None and commits:
        raise CommittedError from cancelled
    raise cancelled
