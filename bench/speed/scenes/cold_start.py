"""From exec to the first SSH banner, and on to the reply to the first command."""

from __future__ import annotations

import time

from speed.client import run
from speed.stage import FEW, Stage, list_of

BANNER = "cold start, exec to the first banner"
REPLY = "cold start, exec to the first command's reply"
FIRST_LOGIN = "first login after a start, with a command"


async def play(stage: Stage) -> None:
    """Start every contender in turn, more than once, because this figure varies the most."""
    for contender in stage.contenders * stage.counts.starts:
        began = time.perf_counter()
        async with stage.fresh(contender) as server:
            greeted, cpu_ms = time.perf_counter(), server.cpu_ms()
            async with await server.connect() as connection:
                await run(connection, list_of(FEW))
            replied, later_ms = time.perf_counter(), server.cpu_ms()
        note = stage.figures.note
        note(BANNER, server.name, cpu_ms=cpu_ms, p50_ms=(greeted - began) * 1000)
        note(REPLY, server.name, cpu_ms=later_ms, p50_ms=(replied - began) * 1000)
        note(FIRST_LOGIN, server.name, cpu_ms=later_ms - cpu_ms, p50_ms=(replied - greeted) * 1000)
