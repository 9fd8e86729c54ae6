"""A bell: wakes up all tasks that wait for the notifications of one channel."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Bell:
    """Wakes up waiting tasks. They read again what they wait for: a ring says only that there may be news."""

    def __init__(self) -> None:
        """Start without a ring."""
        self._next = asyncio.Event()

    @property
    def next_ring(self) -> asyncio.Event:
        """The next ring. Take it before the look that it follows, or a ring between both would be missed."""
        return self._next

    def ring(self) -> None:
        """Wake up all tasks that wait now."""
        self._next.set()
        self._next = asyncio.Event()


async def rung(ring: asyncio.Event, deadline: float) -> bool:
    """Wait for a ring until the deadline on the loop's clock; False when none came."""
    with suppress(TimeoutError):
        async with asyncio.timeout_at(deadline):
            await ring.wait()
    return ring.is_set()
