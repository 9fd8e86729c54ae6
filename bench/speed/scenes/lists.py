"""Lists of five hundred and ten thousand rows: cost, time to the first byte, wait of other sessions."""

from __future__ import annotations

import asyncio
import time

from servers import Server  # isort: skip  a neighbour, not a package
from speed.client import WINDOW_BYTES, Batch
from speed.stage import MANY, SOME, Stage, list_of

from witness import Witness, quantile  # isort: skip

OF_SOME = "list of 500"
OF_MANY = "list of 10,000"
FIRST_BYTE = "first byte of a list of 10,000"
OTHERS_WAIT = "longest wait of another session meanwhile"
OTHERS_WAIT_FOR_FILTER = "longest wait of another session, list of 10,000 behind a filter"
NOISE = "longest wait of another session, nobody lists"
_FILTER = " | match nobody"
_WITNESS_PAUSE_SECONDS = 0.003


async def play(stage: Stage) -> None:
    """List on every server in turn."""
    for server in stage.in_turn():
        batch, _ = await listed(server, list_of(SOME), stage.counts.lists_of_some)
        stage.figures.note(OF_SOME, server.name, **batch.measures())
    for server in stage.in_turn():
        batch, first_ms = await listed(server, list_of(MANY), stage.counts.lists_of_many)
        stage.figures.note(OF_MANY, server.name, **batch.measures())
        stage.figures.note(FIRST_BYTE, server.name, ms=quantile(first_ms, 0.5))
    for _ in range(stage.counts.fair_lists):
        alone_ms, during_ms, filter_ms = await _waits(stage.ours, stage.counts.alone_seconds)
        stage.figures.note(OTHERS_WAIT, stage.ours.name, ms=during_ms)
        stage.figures.note(OTHERS_WAIT_FOR_FILTER, stage.ours.name, ms=filter_ms)
        stage.figures.note(NOISE, stage.ours.name, ms=alone_ms)


async def listed(server: Server, command: str, count: int) -> tuple[Batch, list[float]]:
    """List this many times over one connection; return the cost, and the ms to each first byte."""
    batch, first_ms = Batch(server), list[float]()
    async with await server.connect() as connection:
        for _ in range(count):
            with batch, batch.one():
                began = time.perf_counter()
                process = await connection.create_process(command, encoding=None, window=WINDOW_BYTES)
                await process.stdout.readexactly(1)
                first_ms.append((time.perf_counter() - began) * 1000)
                await process.stdout.read()
                process.close()
    return batch, first_ms


async def _waits(server: Server, alone_seconds: float) -> tuple[float, float, float]:
    """Return the longest wait of another session beyond its usual one.

    Measured without a list, during a list, and during a filtered list.
    """

    async def watched(command: str) -> list[float]:
        witness = Witness(server.port, server.key, pause_seconds=_WITNESS_PAUSE_SECONDS)
        with witness:
            await (listed(server, command, 1) if command else asyncio.sleep(alone_seconds))
        if witness.failure:
            raise RuntimeError(witness.failure)
        return [delay * 1000 for delay in witness.delays_seconds]

    alone, during, behind_filter = [await watched(each) for each in ("", list_of(MANY), list_of(MANY) + _FILTER)]
    usual = quantile(alone, 0.5)
    return max(alone) - usual, max(during) - usual, max(behind_filter) - usual
