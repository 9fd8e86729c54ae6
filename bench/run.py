"""Measure the server's CPU per operation and its memory per idle shell beside two peers, interleaved in one run.

python bench/run.py [ROUNDS]

The peers are the exchange's own stack (Erlang/OTP) and Go's; they do no work at all. The figure that noise hurts least
is CPU: user and system time of the server's process from /proc. Prints the medians of the rounds and our ratio to each
peer. Linux only.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from servers import OURS, Server, make_key, start_ours, start_peers  # isort: skip  a neighbour, not a package

PROMPT = b"admin@ds1@ecss1:/$ "
COMMAND = "domain/biysk.local/integrations/list"
INTEGRATIONS = ("tester", "svetlana", "aleksandr", "amouser", "servint --service --numbers 24010{0-1}")
SHELLS = 500
#: workload -> server -> (CPU ms, wall ms) per operation, one of each round
Figures = dict[str, dict[str, list[tuple[float, float]]]]


async def logins(server: Server) -> int:
    """Log in, run one command, leave: 160 times, 16 in flight."""

    async def one() -> None:
        for _ in range(10):
            async with await server.connect() as connection:
                await connection.run("whoami")

    await asyncio.gather(*(one() for _ in range(16)))
    return 160


async def execs(server: Server) -> int:
    """Run `list` a thousand times over one connection."""
    async with await server.connect() as connection:
        for _ in range(1000):
            # no end of input is sent: OTP drops the connection when one comes for a channel that it has just closed
            process = await connection.create_process(COMMAND, encoding=None)
            await process.stdout.read()
            process.close()
    return 1000


async def lines(server: Server) -> int:
    """Type `list` a thousand times into one shell, each whole after the prompt."""
    async with await server.connect() as connection:
        shell = await connection.create_process(term_type="xterm", term_size=(120, 40), encoding=None)
        await shell.stdout.readuntil(PROMPT)
        for _ in range(1000):
            shell.stdin.write(f"{COMMAND}\r".encode())
            await shell.stdout.readuntil(PROMPT)
        shell.close()
    return 1000


WORKLOADS: dict[str, Callable[[Server], Awaitable[int]]] = {
    "login, 16 in flight": logins,
    "exec of list, 5 rows": execs,
    "shell line of list, 5 rows": lines,
}


async def measure(servers: list[Server], rounds: int) -> Figures:
    """Run every workload on every server in turn, `rounds` times."""
    figures: Figures = {name: {} for name in WORKLOADS}
    for _ in range(rounds):
        for name, workload in WORKLOADS.items():
            for server in servers:
                before, began = server.cpu_ms(), time.perf_counter()
                count = await workload(server)
                wall = (time.perf_counter() - began) * 1000
                figures[name].setdefault(server.name, []).append(((server.cpu_ms() - before) / count, wall / count))
    return figures


async def idle_shell_kb(server: Server, keys: bytes) -> float:
    """Return the resident memory that each of 500 idle shells takes, `keys` typed into each and not sent."""
    before = server.resident_kb()
    connections = [await server.connect() for _ in range(SHELLS)]
    for connection in connections:
        shell = await connection.create_process(term_type="xterm", term_size=(120, 40), encoding=None)
        await shell.stdout.readuntil(PROMPT)
        for key in keys:
            shell.stdin.write(bytes([key]))
            await shell.stdout.readexactly(1)
    taken = (server.resident_kb() - before) / SHELLS
    for connection in connections:
        connection.abort()
    await asyncio.gather(*(connection.wait_closed() for connection in connections))
    return taken


async def main(folder: Path, key: Path, rounds: int) -> None:
    """Run the benchmark and print its tables."""
    servers = [start_ours(folder / "ours", key)]
    try:
        async with await servers[0].connect() as connection:
            await connection.run("domain/declare biysk.local", check=True)
            for words in INTEGRATIONS:
                await connection.run(f"domain/biysk.local/integrations/add {words}", check=True)
            reply = str((await connection.run(COMMAND, check=True)).stdout)
        servers += start_peers(folder / "peers", key, reply)
        show(await measure(servers, rounds), [server.name for server in servers])
        memory = {server.name: await idle_shell_kb(server, b"") for server in servers}
        edited = await idle_shell_kb(servers[0], b"who")
        show_memory(memory, edited)
    finally:
        for server in servers:
            server.kill()


def prepare_and_run(rounds: int) -> None:
    """Make the folders and a key, and run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        key = folder / "id"
        make_key(key)
        (folder / "ours").mkdir()
        asyncio.run(main(folder, key, rounds))


def show(figures: Figures, names: list[str]) -> None:
    """Print the medians, and our ratio to each peer."""
    peers = [name for name in names if name != OURS]
    columns = (
        [f"{name} CPU ms" for name in names] + [f"÷ {peer}" for peer in peers] + [f"{name} wall" for name in names]
    )
    table = Table("operation", *columns)
    for workload, by_server in figures.items():
        cpu = {name: statistics.median(each for each, _ in found) for name, found in by_server.items()}
        wall = {name: statistics.median(each for _, each in found) for name, found in by_server.items()}
        ratios = [f"{cpu[OURS] / cpu[peer]:.2f}" for peer in peers]
        table.add_row(workload, *(f"{cpu[n]:.2f}" for n in names), *ratios, *(f"{wall[n]:.2f}" for n in names))
    Console(width=140).print(table)


def show_memory(memory: dict[str, float], edited: float) -> None:
    """Print the memory of an idle shell, and our ratio to each peer."""
    table = Table(
        f"idle shell, {SHELLS} open", *(f"{name} KB" for name in memory), *(f"÷ {n}" for n in memory if n != OURS)
    )
    for label, ours in (("at its first prompt", memory[OURS]), ("with a line begun in the editor", edited)):
        peers = {name: kb for name, kb in memory.items() if name != OURS}
        table.add_row(
            label,
            f"{ours:.0f}",
            *(f"{kb:.0f}" for kb in peers.values()),
            *(f"{ours / kb:.2f}" for kb in peers.values()),
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    prepare_and_run(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
