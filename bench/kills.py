"""Kill the console and cut its power at random moments under load: no acknowledged change may be lost.

PYTHONPATH=tests/support python bench/kills.py [--kills N] [--cuts N] [--at-once N] [--store postgresql]

Eight clients on two connections add, replace, remove and set integrations. SIGKILL ends the server up to 0.4 s after
the load begins, every tenth time during its start. After each kill the script opens a copy of the store as the console
does, and compares it with the acknowledged changes. The server then continues with the killed store. Every fifty kills
begin with an empty store. For the power cuts the script records one run, and rebuilds the states that a cut may leave.
With `--store postgresql`, each store is on a PostgreSQL of its own. Every tenth kill is then one of PostgreSQL, and no
power is cut. Loopback only; ends with status 1 when a change was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from console import ConsoleServer
from cutting import Cuts, cut_often
from databases import KilledNode, configure
from faults import Faults, compiled
from killing import declare, kill_often
from ledger import Ledger
from postgresql import PostgresqlServer, postgresql_server

_KILLS_PER_STORE = 50


async def kill_many(kills: int, server: PostgresqlServer | None) -> tuple[Counter[str], list[str]]:
    """Kill a server on one store this many times; return counts of the changes and the lost ones."""
    told: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder, ledger = Path(name), Ledger()
        console = ConsoleServer(folder) if server is None else KilledNode(folder)
        if server is not None:
            configure(server.database("console"), folder)
        console.prepare()
        declare(console)
        wrong = await kill_often(console, ledger, kills, lambda what: told.update([what]), server)
        for changes in ledger.changes.values():
            told.update(change.verb for change in changes)
        told["acknowledged"] += ledger.told()
    return told, wrong


def _killed(store: str, kills: int) -> tuple[Counter[str], list[str]]:
    with ExitStack() as stack:
        server = stack.enter_context(postgresql_server()) if store == "postgresql" else None
        return asyncio.run(kill_many(kills, server))


def cut(cuts: int) -> Cuts:
    """Cut the power at this many moments of one run."""
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as aside:
        console = ConsoleServer(Path(name))
        console.prepare()
        faults = Faults.make(compiled(Path(aside) / "faults.so"), Path(aside) / "control", console.folder)
        return asyncio.run(cut_often(console, faults, Path(aside), cuts, random.Random()))


def main() -> int:
    """Kill and cut, print the figures, and return the exit status."""
    parser = argparse.ArgumentParser(description="kill the console under load, and cut its power")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--cuts", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=2, help="servers that are killed at the same time")
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")
    options = parser.parse_args()
    logging.disable()  # hide asyncio's warnings about ended servers
    told: Counter[str] = Counter()
    wrong: list[str] = []
    began = time.monotonic()
    rounds = [min(_KILLS_PER_STORE, options.kills - done) for done in range(0, options.kills, _KILLS_PER_STORE)]
    with ProcessPoolExecutor(options.at_once) as pool:
        for done, lost in pool.map(partial(_killed, options.store), rounds):
            told.update(done)
            wrong += lost
            kills = sum(count for what, count in told.items() if what.startswith("kills"))
            print(f"{kills} kills, {told['acknowledged']} changes acknowledged, {len(wrong)} complaints", flush=True)
    for what, count in told.items():
        print(f"{what:24}{count:8,}")
    print(f"{'complaints':24}{len(wrong):8,}\n{'seconds':24}{time.monotonic() - began:8,.0f}")
    blind = not told["acknowledged"] and options.kills > 0
    if options.cuts and options.store == "sqlite":
        found = cut(options.cuts)
        print(f"power cuts: {found.states:,} states of a run with {found.told:,} changes acknowledged, ", end="")
        print(f"{len(found.wrong)} complaints; {found.lies_found} of {found.states // 20} found on a disk that lies")
        wrong += found.wrong
        blind = blind or not found.lies_found
    for line in wrong[:20]:
        print(line)
    return 1 if wrong or blind else 0


if __name__ == "__main__":
    sys.exit(main())
