"""Adds that are on the disk when they are acknowledged, beside a bare fsync on the same disk."""

from __future__ import annotations

import asyncio
import os
import time
from itertools import count
from typing import Self

from speed.client import SCRIPT, Batch, Shell
from speed.stage import Stage

from witness import quantile  # isort: skip  a neighbour, not a package

SEQUENTIAL = "add, one writer"
AT_ONCE = "add, 32 writers at once"
FSYNC = "bare write of 4 KB and fsync"
BEYOND = "add beyond a bare fsync, p50"
GAIN = "rate of 32 writers ÷ of one"
DOMAIN = "adds.local"
_BLOCK = b"\1" * 4096
_FILE_BYTES = 4 * 1024 * 1024


async def play(stage: Stage) -> None:
    """Add one after another with a bare fsync after each, then from many shells at once."""
    ours, counts, names = stage.ours, stage.counts, count()
    line = f"domain/{DOMAIN}/integrations/add round{stage.round}"
    sequential, at_once = Batch(ours), Batch(ours)
    shells = [await Shell.opened(ours, SCRIPT) for _ in range(counts.writers)]
    with _File(stage) as file:
        await added(shells[0], f"{line}-{next(names)}")
        fsyncs_ms = []
        for _ in range(counts.adds):
            with sequential, sequential.one():
                await added(shells[0], f"{line}-{next(names)}")
            fsyncs_ms.append(file.fsync_ms())

    async def write(shell: Shell) -> None:
        for _ in range(counts.adds_of_each):
            with at_once.one():
                await added(shell, f"{line}-{next(names)}")

    with at_once:
        await asyncio.gather(*(write(shell) for shell in shells))
    await asyncio.gather(*(shell.close() for shell in shells))
    note, one, many = stage.figures.note, sequential.measures(), at_once.measures()
    bare = quantile(fsyncs_ms, 0.5)
    note(SEQUENTIAL, ours.name, **one, per_second=sequential.per_second())
    note(AT_ONCE, ours.name, **many, per_second=at_once.per_second())
    note(FSYNC, ours.name, ms=bare)
    note(BEYOND, ours.name, ms=one["p50_ms"] - bare)
    note(GAIN, ours.name, times=at_once.per_second() / sequential.per_second())


async def added(shell: Shell, line: str) -> None:
    """Run a line that adds; raises RuntimeError with the reply when it is refused."""
    reply = await shell.line(line)
    if b"error" in reply or b"API key" not in reply:
        raise RuntimeError(reply.decode())


class _File:
    """A file of the size of a write-ahead log, written over block by block as SQLite does."""

    def __init__(self, stage: Stage) -> None:
        self._path = stage.folder / "fsync"
        self._place = 0

    def __enter__(self) -> Self:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(self._descriptor, bytes(_FILE_BYTES), 0)
        os.fsync(self._descriptor)
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self._descriptor)

    def fsync_ms(self) -> float:
        began = time.perf_counter()
        os.pwrite(self._descriptor, _BLOCK, self._place)
        os.fsync(self._descriptor)
        self._place = (self._place + len(_BLOCK)) % _FILE_BYTES
        return (time.perf_counter() - began) * 1000
