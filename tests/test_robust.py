"""No client can hold up another, and none leaves anything behind: what a second session sees of the first."""

from __future__ import annotations

import asyncio
import random
import re
import resource
import signal
import time
from pathlib import Path
from typing import Self

import asyncssh
import pytest
from console import PROMPT, ConsoleServer

from server.model.integrations import Integration, IntegrationType, new_key


def _resident_mb(console: ConsoleServer) -> float:
    assert console.process is not None
    pages = int(Path(f"/proc/{console.process.pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1_000_000


def _open_files(console: ConsoleServer) -> int:
    assert console.process is not None
    return len(list(Path(f"/proc/{console.process.pid}/fd").iterdir()))


async def _settled_tasks(console: ConsoleServer, most: int) -> int:
    """Return how many tasks there are, as soon as they are no more than `most` or have had ten seconds to end.

    Tasks that come and go, as the one that writes the audit's batch, may be caught at work; what is left behind stays.
    """
    for _ in range(50):
        if (tasks := _tasks(console)) <= most:
            break
        await asyncio.sleep(0.2)
    return tasks


def _tasks(console: ConsoleServer) -> int:
    """Ask the process how many tasks it holds, as an administrator does."""
    assert console.process is not None
    known = len(console.log)
    console.process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for line in console.log[known:]:
            if found := re.search(r"now: \d+ connections, \d+ sessions, (\d+) tasks", line):
                return int(found[1])
        time.sleep(0.01)
    message = "SIGUSR1 is not answered"
    raise AssertionError(message)


class Witness:
    """Somebody else's session, which is asked for its name again and again while something goes on."""

    def __init__(self, console: ConsoleServer) -> None:
        self._console = console
        self.answers = 0
        self.longest_seconds = 0.0

    async def __aenter__(self) -> Self:
        self._connection = await self._console.connected()
        self._shell = await self._connection.create_process(term_type="xterm", encoding="utf-8")
        await self._shell.stdout.readuntil(PROMPT)
        self._asking = asyncio.create_task(self._ask())
        return self

    async def _ask(self) -> None:
        while True:
            began = time.monotonic()
            self._shell.stdin.write("whoami\n")
            assert "admin" in await asyncio.wait_for(self._shell.stdout.readuntil(PROMPT), 30)
            self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)
            self.answers += 1
            await asyncio.sleep(0.01)

    async def __aexit__(self, *_outcome: object) -> None:
        before = self.answers
        for _attempt in range(500):
            if self.answers >= before + 3 or self._asking.done():
                break
            await asyncio.sleep(0.02)
        assert self.answers >= before + 3, "the other session is not answered any more"
        self._asking.cancel()
        self._connection.abort()


async def _shell(
    connection: asyncssh.SSHClientConnection, term: str | None = "xterm"
) -> asyncssh.SSHClientProcess[bytes]:
    return await connection.create_process(term_type=term, term_size=(80, 24), encoding=None)


PERSON = {"client_version": "OpenSSH_9.9"}


@pytest.mark.parametrize(
    "typed",
    [
        b"echo pasted\n" * 10_000,
        b"x" * 1_000_000 + b"\n",
        b"sleep 1\n" + b"y" * 300_000,
        random.Random(1).randbytes(200_000),  # noqa: S311  the same bytes each time
        b"\0" * 100_000 + b"\xff\xfe" * 50_000 + b"\n",
        b"\x1b[" * 50_000 + b"\n",
        b"\t" * 5_000,
        b"\x03" * 50_000,
    ],
    ids=[
        "10,000 lines",
        "1 MB line",
        "300 KB while a command runs",
        "random",
        "NUL and no UTF-8",
        "escapes",
        "Tab",
        "^C",
    ],
)
@pytest.mark.parametrize("reader", ["editor", "plain", "pipe"])
async def test_whatever_one_client_types_the_others_are_answered(
    console: ConsoleServer, typed: bytes, reader: str
) -> None:
    version = PERSON if reader == "editor" else {}
    async with Witness(console) as witness, console.asyncssh(**version) as connection:
        shell = await _shell(connection, None if reader == "pipe" else "xterm")
        shell.stdin.write(typed[: len(typed) // 2])
        await asyncio.sleep(0.1)
        shell.stdin.write(typed[len(typed) // 2 :])
        shell.stdin.write_eof()

        async def read() -> None:
            while await shell.stdout.read(1 << 20):
                pass

        reading = asyncio.create_task(read())
        await asyncio.wait({reading}, timeout=3)
        reading.cancel()
        assert witness.answers
    assert witness.longest_seconds < 5
    assert _resident_mb(console) < 250


async def test_a_hundred_megabytes_that_nobody_reads(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    rows = [(Integration(f"client{number:05}", IntegrationType.WIDGET), new_key()) for number in range(15_000)]
    await console.seed("biysk.local", rows)
    console.start()
    connection = await console.connected()
    shell = await connection.create_process(encoding=None, window=1 << 16)
    channel = shell.channel
    channel.pause_reading()
    async with Witness(console) as witness:
        shell.stdin.write(b"domain/biysk.local/integrations/list\n" * 20)
        await asyncio.sleep(4)
        assert witness.answers > 5
    assert _resident_mb(console) < 300
    connection.abort()
    await connection.wait_closed()
    console.run("whoami")


@pytest.mark.parametrize("size", [(0, 0), (1, 1), (65_535, 65_535), (4_294_967_295, 4_294_967_295)])
async def test_windows_of_any_size(console: ConsoleServer, size: tuple[int, int]) -> None:
    async with console.asyncssh(**PERSON) as connection:
        shell = await connection.create_process(term_type="xterm", term_size=size, encoding="utf-8")
        await shell.stdout.readuntil("$ ")
        for keys in ("who", "\x1b[D", "a\x7f", "\x05"):
            shell.stdin.write(keys)
            await asyncio.sleep(0.02)
            shell.change_terminal_size(*size)
        shell.stdin.write("ami\r")
        assert "admin" in await shell.stdout.readuntil("585]\r\n")


async def test_four_hundred_abrupt_disconnects_leave_nothing_behind(console: ConsoleServer) -> None:
    console.run("domain/declare biysk.local")
    states = (b"", b"half", b"sleep 60\n", b"domain/remove biysk.local\n", b"\x1b", b"wh\t", b"x\x12y", b"pwd\n" * 500)

    async def vanish(number: int) -> None:
        connection = await console.connected(**(PERSON if number % 2 else {}))
        shell = await _shell(connection, None if number % 5 == 0 else "xterm")
        shell.stdin.write(states[number % len(states)])
        await asyncio.sleep(0.02)
        connection.abort()
        await connection.wait_closed()

    before = _tasks(console)
    figures = []
    for start in range(0, 400, 100):
        for first in range(start, start + 100, 10):
            await asyncio.gather(*(vanish(number) for number in range(first, first + 10)))
        await asyncio.sleep(0.5)
        tasks_left = await _settled_tasks(console, before)
        figures.append((_open_files(console), _resident_mb(console), tasks_left))
    files, resident, tasks = zip(*figures, strict=True)
    assert max(files) <= files[0] + 2, figures
    assert max(tasks) <= before, figures
    assert resident[-1] - resident[1] < 8, figures
    assert "biysk.local" in console.run("domain/list")


async def test_five_hundred_shells_open_at_once_each_answer(console: ConsoleServer) -> None:
    connections: list[asyncssh.SSHClientConnection] = []
    gate = asyncio.Semaphore(16)

    async def opened() -> asyncssh.SSHClientProcess[str]:
        async with gate:
            connection = await console.connected(**PERSON)
            connections.append(connection)
            shell = await connection.create_process(term_type="xterm", encoding="utf-8")
            await shell.stdout.readuntil(PROMPT)
            return shell

    async def answered(shell: asyncssh.SSHClientProcess[str], number: int) -> bool:
        shell.stdin.write(f"echo {number}\n")
        return f"\r\n{number}\r\n" in await shell.stdout.readuntil(PROMPT)

    shells = await asyncio.gather(*(opened() for _ in range(500)))
    assert all(await asyncio.gather(*(answered(shell, number) for number, shell in enumerate(shells))))
    for connection in connections:
        connection.abort()
    await asyncio.gather(*(connection.wait_closed() for connection in connections))


async def test_ten_thousand_names_complete_without_a_stall(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    rows = [(Integration(f"client{number:05}", IntegrationType.WIDGET), new_key()) for number in range(10_000)]
    await console.seed("biysk.local", rows)
    console.start()
    async with Witness(console) as witness, console.asyncssh(**PERSON) as connection:
        shell = await connection.create_process(term_type="xterm", term_size=(80, 24), encoding="utf-8")
        await shell.stdout.readuntil(PROMPT)
        for key in "domain/biysk.local/integrations/remove c":
            shell.stdin.write(key)
            await shell.stdout.readexactly(1)
        shell.stdin.write("\t")
        await shell.stdout.readuntil("lient0")
        for number in range(50):
            shell.stdin.write(f"{number % 10}\t\t\x7f")
            await asyncio.sleep(0.02)
        shell.stdin.write("9999\t")
        await shell.stdout.readuntil("9999 ")
    assert witness.longest_seconds < 1
