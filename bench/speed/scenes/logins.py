"""Logins, sixteen in flight: connect, key exchange, public key, one command, leave."""

from __future__ import annotations

import asyncio

from servers import Server  # isort: skip  a neighbour, not a package
from speed.client import Batch, run
from speed.stage import Stage

ROW = "login, 16 in flight"
COMMAND = "whoami"
_IN_FLIGHT = 16


async def play(stage: Stage) -> None:
    """Log in on every server in turn."""
    for server in stage.in_turn():
        stage.figures.note(ROW, server.name, **(await logged_in(server, stage.counts.logins)).measures())


async def logged_in(server: Server, count: int, in_flight: int = _IN_FLIGHT) -> Batch:
    """Log in this many times, run `whoami`, leave; return the cost."""
    batch, left = Batch(server), count

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            with batch.one():
                async with await server.connect() as connection:
                    await run(connection, COMMAND)

    with batch:
        await asyncio.gather(*(work() for _ in range(in_flight)))
    return batch
