"""Cut a server's power at many moments of one run, and check each resulting state for lost changes."""

from __future__ import annotations

import asyncio
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from console import ConsoleServer
from faults import Faults
from ledger import DOMAIN, Ledger, change_until_cut, complaints
from power import HOWS, Disk, Record, records

_AFTER_A_NEW_LOG = 12


@dataclass
class Cuts:
    """The results: acknowledged changes, checked states, and faults.

    `lies_found` counts the losses on a disk that ignores syncs. Zero would mean that the test proves nothing.
    """

    told: int = 0
    states: int = 0
    wrong: list[str] = field(default_factory=list)
    lies_found: int = 0


async def cut_often(console: ConsoleServer, faults: Faults, folder: Path, cuts: int, dice: random.Random) -> Cuts:
    """Let clients change things, then cut the power at this many moments; `folder` gets the states."""
    before = shutil.copytree(console.folder, folder / "before")
    begin, ledger, changes = await _recorded(console, faults, folder / "trace", cuts)
    moments = range(begin, len(changes))
    delicate = [at for at in moments if _is_delicate(changes, begin, at)]
    chosen = {*dice.sample(delicate, min(cuts // 3, len(delicate))), *dice.sample(moments, min(cuts, len(moments)))}
    disk, lying, found = Disk.of(before), Disk.of(before), Cuts(ledger.told())
    for position, change in enumerate(changes):
        if position in chosen:
            disk.cut(folder / "left", dice.choice(HOWS), dice)
            if position % 2:  # shared memory after a power cut is unreliable
                (folder / "left" / "var" / "console.db-shm").write_bytes(dice.randbytes(32768))
            found.wrong += await _complaints(folder / "left", ledger, position)
            found.states += 1
            if found.states % 20 == 0:
                lying.cut(folder / "left", "lost", dice)
                found.lies_found += bool(await _complaints(folder / "left", ledger, position))
        disk.apply(change)
        if not (change.kind == "S" and change.name.endswith("-wal")):
            lying.apply(change)
    return found


async def _recorded(
    console: ConsoleServer, faults: Faults, trace: Path, least: int
) -> tuple[int, Ledger, list[Record]]:
    """Serve; return the clients' start, their acknowledged changes, and the file trace."""
    await asyncio.to_thread(console.start, **faults.environment(trace))
    console.run(f"domain/declare {DOMAIN}")
    begin, ledger = faults.sequence(), Ledger(lambda: float(faults.sequence()))
    async with console.asyncssh() as one, console.asyncssh() as other:
        while ledger.told() < least or not any(map(_begins_the_log, list(records(trace))[begin:])):
            clients = enumerate((one, one, other))
            await asyncio.gather(*(change_until_cut(each, ledger, f"c{number}", 60) for number, each in clients))
    await asyncio.to_thread(console.stop)
    return begin, ledger, list(records(trace))


def _begins_the_log(change: Record) -> bool:
    return change.name.endswith("-wal") and change.kind == "W" and change.offset == 0


def _is_delicate(changes: list[Record], begin: int, at: int) -> bool:
    """Return whether a moment is in a checkpoint or soon after a restart of the write-ahead log."""
    soon_after = changes[max(begin, at - _AFTER_A_NEW_LOG) : at]
    return not changes[at].name.endswith("-wal") or any(map(_begins_the_log, soon_after))


async def _complaints(left: Path, ledger: Ledger, position: int) -> list[str]:
    wrong, _ = await complaints(left, ledger, position)
    shutil.rmtree(left)
    return [f"cut at {position}: {each}" for each in wrong]
