"""Acknowledged changes survive SIGKILL, and a stop interrupts nothing."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from console import PROMPT, ConsoleServer
from killing import declare, kill_often
from ledger import DOMAIN, Ledger

_KEY = re.compile(r"API key: ([A-Za-z0-9]{64})")


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_acknowledged_changes_survive_sigkill_at_any_moment(stopped_console: ConsoleServer) -> None:
    console, ledger = stopped_console, Ledger()
    declare(console)
    assert await kill_often(console, ledger, 20) == []
    assert ledger.told() > 100
    assert ledger.refused == 0
    console.start()
    table = console.run(f"domain/{DOMAIN}/integrations/list")
    for client_id in ledger.changes:
        standing = ledger.standing(client_id)
        assert standing is None or f"│{client_id} " in table
        assert standing is None or str(standing.key) in table
    console.stop()


async def test_sigterm_lets_the_command_end_and_tells_the_sessions(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    console.start()
    async with console.asyncssh() as idle, console.asyncssh() as busy, console.asyncssh() as piped:
        shell = await idle.create_process(term_type="xterm", encoding="utf-8")
        await shell.stdout.readuntil(PROMPT)
        running = await busy.create_process("sleep 1.5")
        script = await piped.create_process(encoding="utf-8")
        script.stdin.write("sleep 1\necho must not run\n")
        await asyncio.sleep(0.3)
        began = time.monotonic()
        assert console.process is not None
        console.process.terminate()
        told = await shell.wait()
        assert told.stdout == "\r\nThe console is stopping; log in again later.\r\n"
        assert told.exit_status == 75
        done = await running.wait()
        assert (done.exit_status, str(done.stdout)[:11]) == (0, "\n[exec at: ")
        cut = await script.wait()
        assert cut.exit_status == 75
        assert "must not run" not in str(cut.stdout)
        assert "The console is stopping" in str(cut.stdout)
    assert await asyncio.to_thread(console.stop) == 0
    assert time.monotonic() - began < 5
    assert "Traceback" not in "".join(console.log)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_command_that_does_not_end_is_interrupted_and_the_exit_stays_within_five_seconds(
    stopped_console: ConsoleServer, number: signal.Signals
) -> None:
    console = stopped_console
    console.start()
    async with console.asyncssh() as connection:
        sleeping = await connection.create_process("sleep 600")
        await asyncio.to_thread(console.runs_a_command)
        began = time.monotonic()
        assert await asyncio.to_thread(console.stop, number) == 0
        assert time.monotonic() - began < 5
        ended = await sleeping.wait()
    assert ended.exit_status == 75  # unlike Ctrl-C: the same command may work later
    assert str(ended.stdout).startswith(
        "Command error: temporary locked: The console is stopping; log in again later.\n"
    )
    with closing(sqlite3.connect(console.database)) as database:
        recorded = database.execute("SELECT status, detail FROM audit WHERE command = '/sleep'").fetchall()
    assert recorded == [(75, "The console is stopping; log in again later.")], "the audit said 130, interrupted"


async def test_a_change_that_is_interrupted_happens_whole_or_not_at_all(console: ConsoleServer) -> None:
    console.run("domain/declare biysk.local")
    async with console.asyncssh() as connection:
        shell = await connection.create_process(term_type="xterm", encoding="utf-8")
        await shell.stdout.readuntil(PROMPT)
        replies = []
        for number in range(60):
            shell.stdin.write(f"domain/biysk.local/integrations/add c{number:02}\n")
            await asyncio.sleep(random.uniform(0, 0.004))  # noqa: S311
            shell.stdin.write("\x03")
            await asyncio.sleep(0.02)
            shell.stdin.write("\n")
            replies.append(await shell.stdout.readuntil(f"{PROMPT}\r\n"))
            await shell.stdout.readuntil(PROMPT)
    table = console.run("domain/biysk.local/integrations/list")
    for number, reply in enumerate(replies):
        if found := _KEY.search(reply):
            assert f"│c{number:02}      │widget│{found[1]}│" in table
    console.run("domain/biysk.local/integrations/add after")


async def test_vanished_clients_leak_nothing(console: ConsoleServer) -> None:
    console.run("domain/declare biysk.local")
    assert console.process is not None
    before = _open_files(console.process.pid)
    for number in range(20):
        connection = await console.connected()
        shell = await connection.create_process(term_type="xterm", encoding="utf-8")
        await shell.stdout.readuntil(PROMPT)
        shell.stdin.write(
            (
                "half typed",
                "sleep 60\n",
                f"domain/biysk.local/integrations/add c{number}\n",
                "domain/remove biysk.local\n",
            )[number % 4]
        )
        await asyncio.sleep(0.02)
        connection.abort()
        await connection.wait_closed()
    deadline = time.monotonic() + 10
    while _open_files(console.process.pid) > before + 1:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert "biysk.local" in console.run("domain/list")


def _open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
