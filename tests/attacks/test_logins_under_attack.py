"""While one source attacks, logins from elsewhere and open sessions go on, and nothing leaks."""

from __future__ import annotations

import asyncio
import re
import socket
import sqlite3
import struct
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import asyncssh
import pytest
from console import PASSWORD, PROMPT, ConsoleServer
from sources import (
    NOT_NOW,
    VERSION,
    knock,
    leave_without_a_try,
    log_in_and_leave,
    logged_in,
    start,
    state,
    wait_until_all_have_left,
)

HOSTILE = "127.0.0.9"


class Attack:
    """Hostile connections of four kinds from one source, some dozens at a time."""

    def __init__(self, console: ConsoleServer) -> None:
        self._console = console
        self._gate = asyncio.Semaphore(40)
        self.made = 0

    async def run(self, number: int) -> None:
        """Make this number of connections."""
        await asyncio.gather(*(self._one(each) for each in range(number)))

    async def _one(self, number: int) -> None:
        async with self._gate:
            with suppress(OSError, asyncssh.Error, asyncio.TimeoutError):
                if number % 4 == 3:
                    await self._guess_passwords(number)
                else:
                    await self._raw(number % 4)
            self.made += 1

    async def _raw(self, kind: int) -> None:
        local = (HOSTILE, 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", self._console.port, local_addr=local)
        try:
            if await reader.readline() == VERSION:
                if kind == 1:
                    writer.write(b"\x16\x03\x01\x02\x00GET / HTTP/1.0\r\n\r\n" + bytes(range(256)) * 40)
                elif kind == 2:
                    writer.write(b"SSH-2.0-half\r\n")
                    await asyncio.wait_for(reader.read(100), 5)
                    writer.write(b"\x00\x00\x04\x00\x08\x14" + b"a" * 100)
                await asyncio.sleep(0.2)
        finally:
            writer.transport.abort()

    async def _guess_passwords(self, number: int) -> None:
        wrong = {"client_keys": None, "password": f"wrong {number}"}
        await log_in_and_leave(self._console, HOSTILE, **wrong)


async def _log_in_until(console: ConsoleServer, over: asyncio.Event) -> int:
    """Log in from elsewhere repeatedly, four at once, by each method in turn. Every login must succeed."""
    ways: list[dict[str, object]] = [{}, {"client_keys": None, "password": PASSWORD}]
    number = 0
    while not over.is_set() or number < 40:
        await asyncio.gather(*(log_in_and_leave(console, "127.0.0.1", **ways[each % 2]) for each in range(4)))
        number += 4
    return number


async def _besieged(console: ConsoleServer, connections: int) -> tuple[int, int]:
    """Attack while other users log in and one session works. Return the numbers of logins and answers."""
    attack, over, answers = Attack(console), asyncio.Event(), 0
    with ExitStack() as held:
        for _ in range(20):  # silent connections keep some of the slots
            held.enter_context(knock(console, HOSTILE))
        async with console.asyncssh() as connection:
            shell = await connection.create_process(term_type="xterm", encoding="utf-8")
            await shell.stdout.readuntil(PROMPT)
            attacking = asyncio.create_task(attack.run(connections))
            logging_in = asyncio.create_task(_log_in_until(console, over))
            while not attacking.done():
                shell.stdin.write("whoami\n")
                assert "admin" in await asyncio.wait_for(shell.stdout.readuntil(PROMPT), 60)
                answers += 1
                await asyncio.sleep(0.02)
            await attacking
            over.set()
            logins = await logging_in
    assert attack.made == connections
    return logins, answers


def _open_files(console: ConsoleServer) -> int:
    assert console.process is not None
    return len(list(Path(f"/proc/{console.process.pid}/fd").iterdir()))


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("connections", "penalties"), [(10_000, True), (1_000, False)])
async def test_logins_from_elsewhere_go_on_while_one_source_attacks(
    stopped_console: ConsoleServer, connections: int, *, penalties: bool
) -> None:
    console = stopped_console
    start(console, per_source_penalties=str(penalties).lower())
    await log_in_and_leave(console, "127.0.0.1", client_keys=None, password=PASSWORD)
    await asyncio.to_thread(wait_until_all_have_left, console)
    files, tasks = _open_files(console), state(console)[1]
    logins, answers = await _besieged(console, connections)
    assert logins >= 40
    assert answers >= 10
    await asyncio.to_thread(wait_until_all_have_left, console)
    deadline = time.monotonic() + 20
    while _open_files(console) > files + 1 or state(console)[1] > tasks:  # until the journal's last batch is written
        assert time.monotonic() < deadline, (_open_files(console), files, state(console), tasks)
        await asyncio.sleep(0.1)
    refused = state(console)[2]
    if penalties:
        assert refused["per_source_penalties"] > connections * 0.8
    lines = [line for line in console.log if "ecss-console.limits" in line]
    assert len(lines) < 40
    assert console.stop() == 0
    told = [re.search(r"refused (?:([\d,]+) more from )?\S+: (\S+)", line) for line in console.log if ".limits" in line]
    assert sum(int((found[1] or "1").replace(",", "")) for found in told if found) == sum(refused.values())
    with sqlite3.connect(console.database) as database:
        rows = database.execute("SELECT detail FROM audit WHERE event = 'connection.refused'").fetchall()
    database.close()
    assert sum(int(detail.split()[1]) for (detail,) in rows) == sum(refused.values())
    assert len(rows) == len(told)


async def _flood(console: ConsoleServer) -> int:
    """Send empty SSH packets at full speed until the server stops reading. Return the bytes sent."""
    sent = 0
    with suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", console.port, local_addr=("127.0.0.2", 0))
        try:
            writer.write(b"SSH-2.0-flood\r\n")
            packets = b"\x00\x00\x00\x0c\x06\x02" + bytes(10)  # SSH_MSG_IGNORE, unencrypted
            while sent < 50_000_000:
                writer.write(packets * 1024)
                await writer.drain()
                sent += 1024 * len(packets)
        finally:
            writer.transport.abort()
    return sent


async def test_megabytes_of_empty_packets_before_login_delay_no_session(console: ConsoleServer) -> None:
    async with console.asyncssh() as connection:
        shell = await connection.create_process(term_type="xterm", encoding="utf-8")
        await shell.stdout.readuntil(PROMPT)
        flooding = [asyncio.create_task(_flood(console)) for _ in range(60)]
        for _ in range(5):
            await log_in_and_leave(console, "127.0.0.1")
            shell.stdin.write("whoami\n")
            assert "admin" in await asyncio.wait_for(shell.stdout.readuntil(PROMPT), 30)
        assert max(await asyncio.gather(*flooding)) < 50_000_000
    assert leave_without_a_try(console, "127.0.0.2") == NOT_NOW
    refused = state(console)[2]
    assert refused.pop("max_login_bytes") > 0
    assert set(refused) == {"per_source_penalties"}


@pytest.mark.slow
async def test_logins_succeed_beside_reset_connections(stopped_console: ConsoleServer) -> None:
    """A reset connection's descriptor is reused at once, and its end once ended the new login."""
    console = stopped_console
    start(console, per_source_penalties="false")
    over = asyncio.Event()

    async def reset() -> None:
        while not over.is_set():
            _, writer = await asyncio.open_connection("127.0.0.1", console.port, local_addr=("127.0.0.2", 0))
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.write(b"SSH-2.0-reset\r\n")
            writer.transport.abort()
            await asyncio.sleep(0)

    resetting = [asyncio.create_task(reset()) for _ in range(4)]
    for _ in range(50):
        async with await logged_in(console, "127.0.0.1") as connection:
            await connection.run("whoami", check=True)
    over.set()
    await asyncio.gather(*resetting)
