"""Clients with different loopback addresses, and the server's reports about refused ones."""

from __future__ import annotations

import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import asyncssh
from console import ConsoleServer

VERSION = b"SSH-2.0-ecss-console\r\n"
NOT_NOW = b"Not allowed at this time\r\n"
_STATE = re.compile(r"now: (\d+) connections, (\d+) sessions, (\d+) tasks; refused: (.*)")


def start(console: ConsoleServer, **limits: object) -> None:
    """Start the server with these limits."""
    console.start(**{f"ECSS_CONSOLE_LIMITS__{name.upper()}": str(value) for name, value in limits.items()})


def state(console: ConsoleServer) -> tuple[int, int, dict[str, int]]:
    """Ask the process for its connections, its tasks, and its refusals by reason, as an administrator does."""
    assert console.process is not None
    known = len(console.log)
    console.process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for line in console.log[known:]:
            if found := _STATE.search(line):
                reasons = () if found[4] == "none" else found[4].split(", ")
                return int(found[1]), int(found[3]), {name: int(n) for name, n in (each.split() for each in reasons)}
        time.sleep(0.01)
    message = "SIGUSR1 is not answered"
    raise AssertionError(message)


def refused_lines(console: ConsoleServer, reason: str) -> list[str]:
    """Return the log's refusal lines so far. The answer to the signal follows all of them."""
    state(console)
    return [line for line in console.log if "refused" in line and line.rstrip().endswith(f": {reason}")]


def wait_until_all_have_left(console: ConsoleServer) -> None:
    """Wait until the server has noticed the end of its clients."""
    deadline = time.monotonic() + 20
    while state(console)[0]:
        assert time.monotonic() < deadline, "connections stay"
        time.sleep(0.02)


@contextmanager
def knock(console: ConsoleServer, source: str) -> Iterator[tuple[socket.socket, bytes]]:
    """Connect from an address without sending; give the socket and the first line received."""
    with socket.create_connection(("127.0.0.1", console.port), timeout=30, source_address=(source, 0)) as client:
        first = b""
        with suppress(ConnectionResetError):
            first = client.recv(200)
        yield client, first


def leave_without_a_try(console: ConsoleServer, source: str) -> bytes:
    with knock(console, source) as (_, first):
        return first


async def logged_in(console: ConsoleServer, source: str, **more: object) -> asyncssh.SSHClientConnection:
    return await console.connected(local_addr=(source, 0), **more)


async def log_in_and_leave(console: ConsoleServer, source: str, **more: object) -> None:
    connection = await logged_in(console, source, **more)
    async with connection:
        pass
