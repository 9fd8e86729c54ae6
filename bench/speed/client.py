"""The client of every scene: asyncssh in the style of OpenSSH or of a script, with its counters."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import asyncssh

from servers import Server  # isort: skip  a neighbour, not a package
from witness import quantile  # isort: skip

PROMPT = b"admin@ds1@ecss1:/$ "
#: Client version strings: a person's client gets the line editor at a terminal, a script's the plain one.
PERSON, SCRIPT = "OpenSSH_9.9", "paramiko_3.5.1"
#: Nothing that is read comes near half of it, so that no adjustment of it is sent: OTP drops the connection when one
#: comes for a channel that it has just closed.
WINDOW_BYTES = 16 * 1024 * 1024


class Batch:
    """CPU of the server and of this client, and the latency of each operation, while entered; reusable."""

    def __init__(self, server: Server) -> None:
        """Take the server to measure."""
        self._server = server
        self._cpu_ms = self._own_ms = self._seconds = 0.0
        self._latencies_ms: list[float] = []

    def __enter__(self) -> Self:
        """Go on counting."""
        self._began = time.perf_counter(), self._server.cpu_ms(), time.process_time()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop counting."""
        began, cpu_ms, own = self._began
        self._own_ms += (time.process_time() - own) * 1000
        self._cpu_ms += self._server.cpu_ms() - cpu_ms
        self._seconds += time.perf_counter() - began

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count one operation."""
        began = time.perf_counter()
        yield
        self._latencies_ms.append((time.perf_counter() - began) * 1000)

    @property
    def count(self) -> int:
        """The number of operations."""
        return len(self._latencies_ms)

    def per_second(self) -> float:
        """Return how many operations were done in a second."""
        return len(self._latencies_ms) / self._seconds

    def measures(self) -> dict[str, float]:
        """Return CPU per operation of the server and of the client, and how long the operations took."""
        count = len(self._latencies_ms)
        return {
            "cpu_ms": self._cpu_ms / count,
            "client_cpu_ms": self._own_ms / count,
            "p50_ms": quantile(self._latencies_ms, 0.5),
            "p99_ms": quantile(self._latencies_ms, 0.99),
        }


class Shell:
    """A shell on a connection of its own, at its prompt."""

    def __init__(self, connection: asyncssh.SSHClientConnection, process: asyncssh.SSHClientProcess[bytes]) -> None:
        """Take an open shell; see `opened`."""
        self.connection = connection
        self._process = process

    @classmethod
    async def opened(cls, server: Server, client: str) -> Shell:
        """Log in and open a shell as PERSON or SCRIPT."""
        connection = await server.connect(client_version=client)
        process = await connection.create_process(term_type="xterm-256color", term_size=(120, 40), encoding=None)
        shell = cls(connection, process)
        await shell.prompted()
        return shell

    async def line(self, text: str) -> bytes:
        """Send a whole line and return the output up to the next prompt."""
        self._process.stdin.write(f"{text}\r".encode())
        return await self.prompted()

    async def key(self, key: str) -> None:
        """Type one key and wait for its echo."""
        self._process.stdin.write(key.encode())
        while key.encode() not in await self._process.stdout.read(4096):
            pass

    async def press(self, keys: str, quiet_until: str) -> None:
        """Send keys and wait until the output ends with these characters."""
        self._process.stdin.write(keys.encode())
        await self._process.stdout.readuntil(quiet_until.encode())

    async def prompted(self) -> bytes:
        """Wait for the prompt."""
        received: bytes = await self._process.stdout.readuntil(PROMPT)
        return received

    async def close(self) -> None:
        """Leave."""
        self.connection.abort()
        await self.connection.wait_closed()


async def run(connection: asyncssh.SSHClientConnection, command: str) -> bytes:
    """Run a command on an open connection and return its output.

    No end of input is sent, for the reason of WINDOW_BYTES.
    """
    process = await connection.create_process(command, encoding=None, window=WINDOW_BYTES)
    printed: bytes = await process.stdout.read()
    process.close()
    return printed
