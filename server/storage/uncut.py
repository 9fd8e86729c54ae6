"""Await work that a cancellation must not interrupt, such as a statement in the database."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class CommittedError(asyncio.CancelledError):
    """The caller was cancelled during its commit: the change is stored, and the cancellation goes on."""


async def uncut(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end even if the caller is cancelled; then raise CancelledError."""
    return await awaited(asyncio.ensure_future(work))


async def awaited(running: asyncio.Future[T], *, commits: bool = False) -> T:
    """Await a future without cancelling it; a cancellation of the caller is raised when it is done.

    The cancellation is raised as CommittedError when the future `commits` a change and has succeeded.
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
