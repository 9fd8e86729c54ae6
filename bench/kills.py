"""Kills the console at random moments under load and looks what is lost: nothing may be.

PYTHONPATH=tests python bench/kills.py [--kills N] [--at-once N]

Eight clients on two connections add, replace, remove and set integrations. The server is killed with SIGKILL up to
0.4 s after the load has begun, every tenth time while it still starts. After each kill a copy of the store is opened as
the console does and compared with what the clients were told; the server goes on with the store as the kill left it.
Every fifty kills begin with an empty store. Loopback only; ends with status 1 when something was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from console import ConsoleServer
from ledger import DOMAIN, Ledger, change_until_cut, complaints, copied

_KILLS_PER_STORE = 50
_LOAD_SECONDS = 0.4
_START_SECONDS = 0.8
_CLIENTS = 8


async def kill_one(console: ConsoleServer, ledger: Ledger, name: str) -> list[str]:
    """Start, load, kill, and return what is wrong with the store then."""
    console.start()
    connections = [await console.connected() for _ in range(2)]
    work = [
        asyncio.create_task(change_until_cut(connections[number % 2], ledger, f"{name}.{number}"))
        for number in range(_CLIENTS)
    ]
    await asyncio.sleep(random.uniform(0, _LOAD_SECONDS))
    await asyncio.to_thread(console.stop, signal.SIGKILL)
    await asyncio.gather(*work)
    return await look(console, ledger)


async def look(console: ConsoleServer, ledger: Ledger) -> list[str]:
    """Compare a copy of the store with what the clients know, and take what was under way for decided."""
    wrong, stored = await complaints(copied(console.folder, console.folder / "copy"), ledger)
    ledger.settle(stored)
    return wrong


async def kill_while_it_starts(console: ConsoleServer, ledger: Ledger) -> list[str]:
    """Start, kill before or while it begins to serve, and return what is wrong with the store then."""
    console.launch()
    await asyncio.sleep(random.uniform(0, _START_SECONDS))
    await asyncio.to_thread(console.stop, signal.SIGKILL)
    return await look(console, ledger)


async def kill_many(kills: int) -> tuple[Counter[str], list[str]]:
    """Kill a server on one store so many times; return what was done, counted, and what was lost."""
    told: Counter[str] = Counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        console, ledger = ConsoleServer(Path(name)), Ledger()
        console.prepare()
        console.start()
        console.run(f"domain/declare {DOMAIN}")
        console.stop()
        for number in range(kills):
            if number % 10 == 9:
                wrong += await kill_while_it_starts(console, ledger)
                told["kills while it starts"] += 1
            else:
                wrong += await kill_one(console, ledger, f"r{number}")
                told["kills under load"] += 1
        for changes in ledger.changes.values():
            told.update(change.verb for change in changes)
        told["acknowledged"] += ledger.told()
    return told, wrong


def _killed(kills: int) -> tuple[Counter[str], list[str]]:
    return asyncio.run(kill_many(kills))


def main() -> int:
    """Kill, print the figures, and return the exit status."""
    parser = argparse.ArgumentParser(description="kill the console under load")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=2, help="servers that are killed at the same time")
    options = parser.parse_args()
    told: Counter[str] = Counter()
    wrong: list[str] = []
    began = time.monotonic()
    rounds = [min(_KILLS_PER_STORE, options.kills - done) for done in range(0, options.kills, _KILLS_PER_STORE)]
    with ProcessPoolExecutor(options.at_once) as pool:
        for done, lost in pool.map(_killed, rounds):
            told.update(done)
            wrong += lost
            kills = told["kills under load"] + told["kills while it starts"]
            print(f"{kills} kills, {told['acknowledged']} changes acknowledged, {len(wrong)} complaints", flush=True)
    for what, count in told.items():
        print(f"{what:24}{count:8,}")
    print(f"{'complaints':24}{len(wrong):8,}\n{'seconds':24}{time.monotonic() - began:8,.0f}")
    for line in wrong[:20]:
        print(line)
    return 1 if wrong or not told["acknowledged"] else 0


if __name__ == "__main__":
    sys.exit(main())
