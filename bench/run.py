"""Measure the server's CPU per operation beside the exchange's own stack, interleaved in one run.

python bench/run.py [ROUNDS]

The figure that noise hurts least is CPU: user and system time of the server's process tree from /proc. Prints the
median of the rounds and our ratio to the peer; without Erlang installed, our figures alone. Linux only.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import asyncssh
from rich.console import Console
from rich.table import Table

PROMPT = b"admin@ds1@ecss1:/$ "
COMMAND = "domain/biysk.local/integrations/list"
INTEGRATIONS = ("tester", "svetlana", "aleksandr", "amouser", "servint --service --numbers 24010{0-1}")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Server:
    """A running server: its process, port, and the key that opens it."""

    name: str
    process: subprocess.Popen[str]
    port: int
    key: Path

    def cpu_ms(self) -> float:
        """Return the CPU time of the process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 1000 / TICKS

    async def connect(self) -> asyncssh.SSHClientConnection:
        """Log in."""
        return await asyncssh.connect(
            "127.0.0.1",
            self.port,
            username="admin",
            client_keys=[str(self.key)],
            known_hosts=None,
            agent_path=None,
            config=None,
            kex_algs=["curve25519-sha256"],
            encryption_algs=["aes128-gcm@openssh.com"],
        )


def start_ours(folder: Path, key: Path) -> Server:
    """Start the console with five integrations in one domain."""
    environment = {**os.environ, "ECSS_CONSOLE_LISTEN__PORT": "0"}
    program = [sys.executable, "-m", "server"]
    words = [*program, "user", "add", "admin", "--authorized-key", f"{key}.pub"]
    subprocess.run(words, cwd=folder, env=environment, check=True, capture_output=True)
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*program, "serve"], cwd=folder, env=environment, stderr=file, stdout=subprocess.DEVNULL, text=True
        )
    for _ in range(200):
        time.sleep(0.05)
        if found := re.search(r" port (\d+)$", log.read_text(), re.MULTILINE):
            return Server("ecss-console", process, int(found[1]), key)
    message = "the console does not start:\n" + log.read_text()
    raise SystemExit(message)


def start_erlang(folder: Path, key: Path, reply: str) -> Server | None:
    """Start the Erlang peer; None where Erlang is not installed."""
    if shutil.which("erlc") is None:
        return None
    for name in ("sys", "user"):
        (folder / name).mkdir()
    host_key = folder / "sys" / "ssh_host_ed25519_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(host_key)], check=True)
    shutil.copy(f"{key}.pub", folder / "user" / "authorized_keys")
    (folder / "reply.txt").write_text(reply, encoding="utf-8")
    subprocess.run(["erlc", "-o", str(folder), str(Path(__file__).with_name("console_peer.erl"))], check=True)
    process = subprocess.Popen(
        ["erl", "-noinput", "-noshell", "-pa", str(folder), "-s", "console_peer", "start"],
        cwd=folder,
        env={**os.environ, "PEER_DIR": str(folder), "HOME": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )
    if process.stdout is None:
        return None
    return Server("Erlang", process, int(process.stdout.readline()), key)


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
    """Type `list` a thousand times into one shell, each after the prompt."""
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


async def measure(servers: list[Server], rounds: int) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return (server CPU ms, wall ms) per operation, by workload and server, one of each round."""
    figures: dict[str, dict[str, list[tuple[float, float]]]] = {name: {} for name in WORKLOADS}
    for _ in range(rounds):
        for name, workload in WORKLOADS.items():
            for server in servers:
                before, began = server.cpu_ms(), time.perf_counter()
                count = await workload(server)
                wall = (time.perf_counter() - began) * 1000
                figures[name].setdefault(server.name, []).append(((server.cpu_ms() - before) / count, wall / count))
    return figures


async def main(folder: Path, key: Path, rounds: int) -> None:
    """Run the benchmark and print its table."""
    servers = [start_ours(folder / "ours", key)]
    try:
        async with await servers[0].connect() as connection:
            await connection.run("domain/declare biysk.local", check=True)
            for words in INTEGRATIONS:
                await connection.run(f"domain/biysk.local/integrations/add {words}", check=True)
            reply = str((await connection.run(COMMAND, check=True)).stdout)
        peer = start_erlang(folder / "peer", key, reply)
        servers += [peer] if peer else []
        show(await measure(servers, rounds), peer)
    finally:
        for server in servers:
            server.process.terminate()
            server.process.wait(10)


def prepare_and_run(rounds: int) -> None:
    """Make the folders and a key, and run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        key = folder / "id"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        (folder / "ours").mkdir()
        (folder / "peer").mkdir()
        asyncio.run(main(folder, key, rounds))


def show(figures: dict[str, dict[str, list[tuple[float, float]]]], peer: Server | None) -> None:
    """Print the medians and the ratios."""
    table = Table("operation", "our CPU ms", "peer's CPU ms", "ratio", "our wall ms", "peer's wall ms")
    for name, by_server in figures.items():
        medians = {
            server: [statistics.median(column) for column in zip(*found, strict=True)]
            for server, found in by_server.items()
        }
        cpu, wall = medians["ecss-console"]
        row = [name, f"{cpu:.2f}", "-", "-", f"{wall:.2f}", "-"]
        if peer is not None:
            peer_cpu, peer_wall = medians[peer.name]
            row = [name, f"{cpu:.2f}", f"{peer_cpu:.2f}", f"{cpu / peer_cpu:.2f}", f"{wall:.2f}", f"{peer_wall:.2f}"]
        table.add_row(*row)
    Console(width=100).print(table)
    if peer is None:
        print("no peer: Erlang is not installed (Debian: erlang-base erlang-ssh)")


if __name__ == "__main__":
    prepare_and_run(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
