"""Measure the console beside two peers, with one client, interleaved in one run.

python bench/run.py [--quick | --tiny] [--ours] [--only SCENE …] [--results FOLDER]

The peers use the exchange's own stack (Erlang/OTP) and Go's. They only send replies, while our console does all the
work. CPU time of all threads of the server is the measure with the least noise. Prints tables of medians with ratios
and targets, saves the figures in bench/results, and writes the tables of a whole run into docs/performance.md.
Linux only; about three minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from servers import make_key  # isort: skip  a neighbour, not a package
from speed import tables
from speed.client import run
from speed.contenders import ours, peers
from speed.figures import Figures
from speed.machine import circumstances
from speed.results import FOLDER, Result
from speed.scenes import adds, cold_start, lines, lists, logins, memory
from speed.seed import seed
from speed.stage import FEW, MANY, SOME, Counts, Stage, domain_of, folder_on_disk, list_of
from speed.targets import judged

DOCUMENT = Path(__file__).parent.parent / "docs" / "performance.md"
SCENES: dict[str, Callable[[Stage], Awaitable[None]]] = {
    "logins": logins.play,
    "lines": lines.play,
    "lists": lists.play,
    "adds": adds.play,
    "cold_start": cold_start.play,
    "memory": memory.play,
}


async def measured(folder: Path, counts: Counts, scenes: list[str], *, with_peers: bool) -> Figures:
    """Prepare and start all contenders, and run the scenes in each round."""
    key = folder / "id"
    make_key(key)
    print("preparing", flush=True)
    serving = ours(folder / "ours", key)
    await seed(serving.folder, {domain_of(size): size for size in (FEW, SOME, MANY)} | {adds.DOMAIN: 0})
    fresh = ours(folder / "fresh", key)
    await seed(fresh.folder, {domain_of(FEW): FEW, adds.DOMAIN: 0})
    stage = Stage(folder, counts, [fresh])
    try:
        stage.servers.append(await serving.start())
        async with await stage.ours.connect() as connection:
            commands = (*map(list_of, (FEW, SOME, MANY)), logins.COMMAND)
            replies = {command: await run(connection, command) for command in commands}
        if with_peers:
            stage.contenders += peers(folder / "peers", key, replies)
            for contender in stage.contenders[1:]:
                stage.servers.append(await contender.start())
        await _check(stage, replies)
        for stage.round in range(counts.rounds):
            for name in scenes:
                began = time.monotonic()
                await SCENES[name](stage)
                print(f"round {stage.round + 1}, {name}: {time.monotonic() - began:.0f} s", flush=True)
    finally:
        for server in stage.servers:
            server.kill()
    return stage.figures


async def _check(stage: Stage, replies: dict[str, bytes]) -> None:
    """Check that all contenders give the same replies, except the footer's time. Raises RuntimeError if not."""
    for server in stage.servers:
        async with await server.connect() as connection:
            for command, reply in replies.items():
                got = await run(connection, command)
                if got.split(b"\n[exec at")[0] != reply.split(b"\n[exec at")[0] or not got:
                    message = f"{server.name} answers {command} with {got[:200]!r}"
                    raise RuntimeError(message)


def main() -> int:
    """Measure, print, keep; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="one round; nothing is written into the document")
    size.add_argument("--tiny", action="store_true", help="to see that the benchmark works; the figures mean nothing")
    parser.add_argument("--ours", action="store_true", help="without the peers")
    parser.add_argument("--only", action="append", choices=SCENES, metavar="SCENE", help=", ".join(SCENES))
    parser.add_argument("--results", type=Path, default=FOLDER, metavar="FOLDER")
    given = parser.parse_args()
    counts = Counts.tiny() if given.tiny else Counts.quick() if given.quick else Counts()
    machine = circumstances()
    with folder_on_disk() as name:
        scenes = [scene for scene in SCENES if not given.only or scene in given.only]
        figures = asyncio.run(measured(Path(name), counts, scenes, with_peers=not given.ours))
    verdicts = [each for each in judged(figures, counts) if each.met is not None or not given.only]
    grids = [tables.of_targets(verdicts), tables.of_cpu(figures), tables.of_others(figures)]
    for grid in grids:
        grid.show()
    print(tables.of_circumstances(machine))
    print(f"kept in {Result('bench', machine, figures).write(given.results)}")
    whole = not given.only and counts == Counts() and len(figures.servers()) > 1
    if whole:
        text = "\n\n".join([tables.of_circumstances(machine), *(grid.markdown() for grid in grids)])
        tables.put_between_marks(DOCUMENT, "bench", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
