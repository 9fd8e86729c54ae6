"""Adds that are on disk when acknowledged, compared with a bare fsync on the same disk."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Self

from servers import Server  # isort: skip  a neighbour, not a package
from speed.client import SCRIPT, Batch, Shell
from speed.stage import Stage

from witness import quantile  # isort: skip  a neighbour, not a package

SEQUENTIAL = "add, one writer"
AT_ONCE = "add, 32 writers at once"
FSYNC = "bare write of 4 KB and fsync"
BEYOND = "add beyond a bare fsync, p50"
GAIN = "rate of 32 writers ÷ of one"
SLOW = ", syncs take 10 ms more"
DOMAIN = "adds.local"
_SLOW_MICROSECONDS = 10_000
_SLOWER = 5  # divides the number of adds where each waits for a slow disk
_BLOCK = b"\1" * 4096
_FILE_BYTES = 4 * 1024 * 1024


async def play(stage: Stage) -> None:
    """Add one after another with a bare fsync after each, then from many shells at once; here and on a slow disk."""
    ours, counts, note = stage.ours, stage.counts, stage.figures.note
    with _File(stage) as file:
        sequential, fsyncs_ms = await _sequential(ours, counts.adds, file)
    bare = quantile(fsyncs_ms, 0.5)
    note(FSYNC, ours.name, ms=bare)
    note(BEYOND, ours.name, ms=sequential.measures()["p50_ms"] - bare)
    _note_rates(stage, sequential, await _at_once(ours, counts.writers, counts.adds_of_each), "")
    if (library := _slow_sync(stage.folder)) is None:
        return
    slower = {"LD_PRELOAD": str(library), "SYNC_MICROSECONDS": str(_SLOW_MICROSECONDS)}
    async with stage.fresh(replace(stage.contenders[0], environment=slower)) as slow:
        sequential, _ = await _sequential(slow, max(1, counts.adds // _SLOWER), None)
        _note_rates(stage, sequential, await _at_once(slow, counts.writers, counts.adds_of_each), SLOW)


def _note_rates(stage: Stage, sequential: Batch, at_once: Batch, where: str) -> None:
    note, name = stage.figures.note, stage.ours.name
    note(SEQUENTIAL + where, name, **sequential.measures(), per_second=sequential.per_second())
    note(AT_ONCE + where, name, **at_once.measures(), per_second=at_once.per_second())
    note(GAIN + where, name, times=at_once.per_second() / sequential.per_second())


async def _sequential(server: Server, adds: int, file: _File | None) -> tuple[Batch, list[float]]:
    """Add this many from one shell; return the cost, and the bare fsyncs of `file` between."""
    batch, fsyncs_ms, shell = Batch(server), list[float](), await Shell.opened(server, SCRIPT)
    await added(shell, _line())
    for _ in range(adds):
        with batch, batch.one():
            await added(shell, _line())
        if file is not None:
            fsyncs_ms.append(file.fsync_ms())
    await shell.close()
    return batch, fsyncs_ms


async def _at_once(server: Server, writers: int, adds: int) -> Batch:
    """Add this many from each of several shells."""
    batch, shells = Batch(server), [await Shell.opened(server, SCRIPT) for _ in range(writers)]

    async def write(shell: Shell) -> None:
        for _ in range(adds):
            with batch.one():
                await added(shell, _line())

    with batch:
        await asyncio.gather(*(write(shell) for shell in shells))
    await asyncio.gather(*(shell.close() for shell in shells))
    return batch


def _line() -> str:
    return f"domain/{DOMAIN}/integrations/add at{time.monotonic_ns()}"  # the name was free


def _slow_sync(folder: Path) -> Path | None:
    """Build the library that slows a disk; print a note and return None without a compiler."""
    library = folder / "slow_sync.so"
    if library.exists():
        return library
    if shutil.which("cc") is None:
        print("no slow disk: there is no cc (Debian: gcc libc6-dev)")
        return None
    source = Path(__file__).parent.parent.parent / "peers" / "slow_sync.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return library


async def added(shell: Shell, line: str) -> None:
    """Run a line that adds. Raises RuntimeError with the reply when it is refused."""
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
