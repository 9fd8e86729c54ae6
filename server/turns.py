"""Long work in turns: whoever makes or looks through thousands of things lets the other sessions run meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from time import monotonic
from typing import TypeVar

#: How long one session may work before the others have their turn. A command of theirs takes several turns of the
#: loop, so they wait for a multiple of this: behind a list of 10,000 twice as long with 0.005, which costs no less.
TURN_SECONDS = 0.001
_T = TypeVar("_T")


async def in_turns(items: Iterable[_T], show: Callable[[int], None] | None = None) -> AsyncIterator[_T]:
    """Yield items, and let the others run whenever making them and using them has taken `TURN_SECONDS`.

    `show` is told then how many are done.
    """
    began = monotonic()
    for done, item in enumerate(items, 1):
        yield item
        if monotonic() - began > TURN_SECONDS:
            if show is not None:
                show(done)
            await asyncio.sleep(0)
            began = monotonic()
