"""Fuzz a real server with SSH packets: before the key exchange, during a login, and after it.

python bench/fuzz_packets.py COUNT [--seed N]

The server must survive, log no defect, answer another session, and use no more resources at the end than after the
first rounds. The fuzzer uses internals of its own asyncssh client, never of the server. Ends with status 1 when it
finds a fault. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh

from packets import KEXINIT, OPEN, PacketMaker  # isort: skip  neighbours, not packages
from servers import Server, make_key, start_ours  # isort: skip
from witness import Witness, quantile  # isort: skip

MOST_DELAY_SECONDS = 3.0
MOST_GROWTH_KB = 16 * 1024
MOST_MORE_FILES = 8
MOST_MORE_TASKS = 8
_ROUNDS = 5
_AT_ONCE = 16
_REPLY_SECONDS = 0.01
_SETTLED_SECONDS = 30
_CONNECTION_SECONDS = 20
_DEFECT = re.compile(r"Traceback|never retrieved|incident|Task was destroyed")
_VERSIONS = (b"SSH-2.0-OpenSSH_9.9\r\n",) * 12 + (
    *(b"SSH-2.0-\xff\xfe\r\n", b"SSH-1.5-old\r\n", b"GET / HTTP/1.0\r\n\r\n", b"\0" * 300, b"SSH-2.0-" + b"x" * 9000),
    *(b"SSH-2.0-" + b"x" * 250 + b"\r\n", b"\r\n", b"", b"SSH-2.0-a\n", b"x\r\n" * 200, b"SSH-1.99-a\r\n"),
)


@dataclass(frozen=True)
class Sample:
    """The server's resources when only the witness is connected."""

    files: int
    resident_kb: float
    connections: int
    sessions: int
    tasks: int


@dataclass
class Findings:
    """The results of the run."""

    packets: int = 0
    connections: int = 0
    wall_seconds: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    delays_seconds: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether the run found nothing."""
        return not self.faults


class _Ignored(dict[int, "_Ignored"]):
    """Channels of the fuzzer's client, which accept any message of the server."""

    def __missing__(self, number: int) -> _Ignored:
        return self

    def log_received_packet(self, *_words: object) -> None:
        """Log nothing."""

    def process_packet(self, *_words: object) -> bool:
        """Accept every packet."""
        return True


@dataclass
class Fuzzer:
    """Sends packets in three phases from many addresses until a budget is spent."""

    server: Server
    maker: PacketMaker
    found: Findings = field(default_factory=Findings)
    budget: int = 0

    async def spend(self, packets: int, phase: Callable[[], Awaitable[None]]) -> None:
        """Send this number of packets in one phase, over a few connections at once."""
        self.budget = packets

        async def work() -> None:
            while self.budget > 0 and self.server.process.poll() is None:
                self.found.connections += 1
                with suppress(OSError, asyncssh.Error, asyncio.IncompleteReadError, TimeoutError):
                    await asyncio.wait_for(phase(), _CONNECTION_SECONDS)

        await asyncio.gather(*(work() for _ in range(_AT_ONCE)))

    def source(self) -> tuple[str, int]:
        """Return a loopback address for the next connection."""
        return f"127.0.0.{self.maker.random.randrange(2, 250)}", 0

    def _spent(self) -> None:
        self.budget -= 1
        self.found.packets += 1

    async def in_clear(self) -> None:
        """Send packets before the key exchange."""
        random = self.maker.random
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port, local_addr=self.source())
        try:
            writer.write(random.choice(_VERSIONS))
            gone = asyncio.ensure_future(self._until_gone(reader))
            if random.random() < 0.7:
                writer.write(self.maker.framed(KEXINIT, self.maker.kexinit()))
                self._spent()
            for _ in range(random.choice((1, 3, 10, 30))):
                message = self.maker.mutated(*self.maker.before_login(), often=0.6)
                writer.write(self.maker.framed(*message) * random.choice((1,) * 20 + (50,)))
                self._spent()
                if (await asyncio.wait([gone], timeout=_REPLY_SECONDS))[0] or self.budget <= 0:
                    break
            gone.cancel()
        finally:
            writer.transport.abort() if random.random() < 0.5 else writer.close()

    @staticmethod
    async def _until_gone(reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while await reader.read(65536):
                pass

    async def in_login(self) -> None:
        """Send encrypted packets in the middle of a login that never succeeds."""
        fuzzer = self

        class Client(asyncssh.SSHClient):
            def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
                self._connection = conn

            async def password_auth_requested(self) -> str | None:
                await fuzzer._send(self._connection, logged_in=False)
                return None

        await self.server.connect(client_factory=Client, client_keys=None, local_addr=self.source())

    async def after_login(self) -> None:
        """Send encrypted packets after a successful login."""
        connection = await self.server.connect(local_addr=self.source())
        try:
            await self._send(connection, logged_in=True)
        finally:
            connection.abort()
            await connection.wait_closed()

    def _under_keys(self, opened: int, *, logged_in: bool) -> tuple[int, bytes]:
        """Return the next message for a connection with this number of open channels."""
        random, maker = self.maker.random, self.maker
        out_of_place = random.random() < 0.03
        if out_of_place:
            return maker.mutated(*maker.before_login(), often=0.5)
        if logged_in:
            return maker.mutated(*maker.after_login(max(0, opened - 1)), often=0.1)
        return maker.mutated(*maker.login(), often=0.2)

    async def _send(self, connection: Any, *, logged_in: bool) -> None:  # noqa: ANN401  its insides
        random = self.maker.random
        closed, ignored, opened = asyncio.ensure_future(connection.wait_closed()), _Ignored(), 0
        connection._auth_complete = True  # noqa: SLF001  or what comes too early would be kept back
        connection._channels = connection._kex = ignored  # noqa: SLF001
        connection.process_packet = ignored.process_packet
        for index in range(random.choice((5, 20, 100))):
            first = logged_in and index == 0
            kind, payload = (OPEN, self.maker.opening()) if first else self._under_keys(opened, logged_in=logged_in)
            opened += kind == OPEN
            connection.send_packet(kind, payload)
            self._spent()
            if random.random() < 0.005:  # invalid ciphertext
                connection._send(random.randbytes(random.choice((1, 16, 100, 5000))))  # noqa: SLF001
            if (await asyncio.wait([closed], timeout=_REPLY_SECONDS / 5))[0] or self.budget <= 0:
                break
        closed.cancel()

    async def settle(self) -> None:
        """Wait until only the witness is connected, and take a sample."""
        end = time.monotonic() + _SETTLED_SECONDS
        while (held := await self.server.held())[:2] > (1, 1) and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        self.found.samples.append(Sample(self.server.open_files(), self.server.resident_kb(), *held))


async def fuzz(server: Server, count: int, seed: int) -> Findings:
    """Send `count` packets in rounds and check the server's state."""
    fuzzer = Fuzzer(server, PacketMaker(seed))
    found, began, share = fuzzer.found, time.monotonic(), count // _ROUNDS
    with Witness(server.port, server.key) as witness:
        try:
            for _ in range(_ROUNDS):
                await fuzzer.spend(share * 2 // 5, fuzzer.in_clear)
                await fuzzer.spend(share // 5, fuzzer.in_login)
                await fuzzer.spend(share - share * 2 // 5 - share // 5, fuzzer.after_login)
                await fuzzer.settle()
        except (TimeoutError, OSError) as error:
            found.faults.append(f"the server does not answer: {error}")
    found.wall_seconds, found.delays_seconds = time.monotonic() - began, witness.delays_seconds
    if witness.failure:
        found.faults.append(f"the other session ended: {witness.failure}")
    found.faults += _faults(server, found)
    return found


def _faults(server: Server, found: Findings) -> list[str]:
    faults = []
    if server.process.poll() is not None:
        faults.append(f"the server has ended with status {server.process.returncode}")
    log = server.logged()
    if defect := _DEFECT.search(log):
        faults.append("the log tells of a defect:\n" + log[max(0, defect.start() - 500) : defect.start() + 3000])
    if (slowest := max(found.delays_seconds, default=0)) > MOST_DELAY_SECONDS:
        faults.append(f"another session waited {slowest:.1f} s")
    if len(found.samples) == _ROUNDS:
        early, last = found.samples[1], found.samples[-1]
        if (last.connections, last.sessions) > (1, 1):
            faults.append(f"{last.connections} connections and {last.sessions} sessions are left over")
        if last.files - early.files > MOST_MORE_FILES or last.tasks - early.tasks > MOST_MORE_TASKS:
            faults.append(f"files or tasks grow: {early} … {last}")
        if last.resident_kb - early.resident_kb > MOST_GROWTH_KB:
            faults.append(f"memory grows: {early.resident_kb:,.0f} … {last.resident_kb:,.0f} KB")
    return faults


def report(found: Findings) -> list[str]:
    """Return the lines of the report."""
    p99, worst = quantile(found.delays_seconds, 0.99), max(found.delays_seconds, default=0)
    lines = [
        f"{found.packets:,} packets over {found.connections:,} connections in {found.wall_seconds:.0f} s",
        f"another session waited p99 {p99 * 1000:.0f} ms, max {worst * 1000:.0f} ms",
    ]
    lines += [
        f"round {index}: {each.files} files, {each.resident_kb / 1024:.1f} MB, {each.connections} connections, "
        f"{each.sessions} sessions, {each.tasks} tasks"
        for index, each in enumerate(found.samples, 1)
    ]
    return [*lines, *found.faults]


def run(count: int, seed: int) -> Findings:
    """Start a server and fuzz it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_key(folder / "id")
        server = start_ours(folder, folder / "id", "fuzz", limits__per_source_penalties="false")
        try:
            return asyncio.run(fuzz(server, count, seed))
        finally:
            server.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    findings = run(given.count, given.seed)
    print("\n".join(report(findings)))
    sys.exit(not findings.passed)
