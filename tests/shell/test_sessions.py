"""Open sessions: listed, killed, and ended when idle or at their longest duration."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime

import asyncssh
import paramiko
import pytest
from console import ADMIN, PROMPT, ConsoleServer

from server.config import Config, Current
from server.model.access import Operator
from server.model.sessions import OpenSession
from server.model.shutdown import Shutdown
from server.transport.logins import Logins

PERSON = {"client_version": "OpenSSH_9.9"}


async def test_sessions_are_listed_and_killed(console: ConsoleServer) -> None:
    console.add_user("oleg", "operator")
    async with console.asyncssh(username="oleg") as connection:
        shell = await connection.create_process(term_type="xterm", encoding="utf-8")
        await shell.stdout.readuntil("$ ")
        rows = json.loads(await asyncio.to_thread(console.run, "cocon/session/list | json"))["rows"]
        assert [(row["user"], row["role"], row["shells"]) for row in rows] == [
            ("oleg", "operator", 1),
            ("admin", "admin", 1),
        ]
        assert rows[0]["idle_seconds"] is not None
        assert rows[1]["idle_seconds"] is None
        end = f"cocon/session/kill {rows[0]['session']}"
        would = await asyncio.to_thread(console.run, f"{end} --check")
        assert would.startswith(
            f"Nothing was changed. Without --check this would:\n  end session {rows[0]['session']}\n"
        )
        assert len(json.loads(await asyncio.to_thread(console.run, "cocon/session/list | json"))["rows"]) == 2
        killed = await asyncio.to_thread(console.run, end)
        assert killed.startswith(f"Session {rows[0]['session']} ended\n")
        ended = await asyncio.wait_for(shell.wait(), 10)
        assert "This session was ended: ended by admin." in str(ended.stdout)
        assert ended.exit_status == 75
        await asyncio.wait_for(connection.wait_closed(), 10)
    assert "oleg" not in console.run("cocon/session/list")


async def test_a_killed_session_does_not_finish_its_command(console: ConsoleServer) -> None:
    async with console.asyncssh() as connection:
        running = await connection.create_process("sleep 60", encoding="utf-8")
        rows: list[dict[str, str]] = []
        while not rows:
            found = json.loads(await asyncio.to_thread(console.run, "cocon/session/list | json"))["rows"]
            rows = found[:1]
        await asyncio.to_thread(console.run, f"cocon/session/kill {rows[0]['session']}")
        ended = await asyncio.wait_for(running.wait(), 10)
        assert ended.exit_status == 75
        assert str(ended.stdout).startswith(
            "Command error: temporary locked: This session was ended: ended by admin.\n"
        )


def test_killing_an_unknown_session_is_a_command_error(console: ConsoleServer) -> None:
    assert console.told("admin", "cocon/session/kill 00000000") == (1, "Command error: there is no session 00000000\n")
    assert console.told("admin", "cocon/session/kill 00000000 --check")[0] == 1


async def test_an_idle_session_is_warned_and_ended(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    console.start(ECSS_CONSOLE_SESSIONS__IDLE_SECONDS="4")
    async with console.asyncssh(**PERSON) as person, console.asyncssh() as script, console.asyncssh() as busy:
        typed = await person.create_process(term_type="xterm", term_size=(80, 24), encoding="utf-8")
        await typed.stdout.readuntil(PROMPT)
        for key in "who":
            typed.stdin.write(key)
            await asyncio.sleep(0.05)
        piped = await script.create_process(term_type="vt100", encoding="utf-8")
        running = await busy.create_process("sleep 7", encoding="utf-8")
        shown = str((await asyncio.wait_for(typed.wait(), 20)).stdout)
        assert "who\r\nThis session ends in" in shown
        assert f"{PROMPT}who" in shown
        assert "This session was ended: it was idle for too long." in shown
        told = str((await asyncio.wait_for(piped.wait(), 20)).stdout)
        assert "ends in" not in told
        assert "This session was ended: it was idle for too long." in told
        assert (await asyncio.wait_for(running.wait(), 20)).exit_status == 0


@dataclass
class Clocked:
    """A login with given times."""

    idle: float | None = 0.0
    lasted: float = 0.0
    told: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    operator: Operator = ADMIN

    def described(self) -> OpenSession:
        """Return the given idle time."""
        began = datetime(2026, 11, 24, tzinfo=UTC)
        return OpenSession(ADMIN.session_id, ADMIN.name, ADMIN.role, ADMIN.source, began, self.idle, 1)

    def open_seconds(self) -> float:
        """Return the given duration."""
        return self.lasted

    def tell(self, text: str) -> None:
        """Note the warning."""
        self.told.append(text)

    def end(self, shutdown: Shutdown) -> None:
        """Note the message to the client."""
        self.ended.append(shutdown.sentence)


def _looking(login: Clocked, idle: int, longest: int = 0) -> Logins:
    sessions = {"idle_seconds": idle, "longest_seconds": longest}
    logins = Logins(Current(Config.model_validate({"sessions": sessions})))
    logins.add(ADMIN.session_id, login)
    return logins


def test_the_idle_warning_comes_once_a_minute_before_the_end() -> None:
    login = Clocked()
    logins = _looking(login, idle=600)
    for idle in (0.0, 539.0, 539.9, 540.0, 541.0, 599.9):
        login.idle = idle
        logins.end_overdue()
        assert len(login.told) == (idle >= 540), idle
    assert login.told == ["This session ends in 60 seconds: it was idle for too long."]
    assert not login.ended
    login.idle = 600.0
    logins.end_overdue()
    assert login.ended == ["This session was ended: it was idle for too long."]


def test_activity_after_the_idle_warning_allows_another_warning() -> None:
    login = Clocked()
    logins = _looking(login, idle=600)
    for idle in (550.0, None, 3.0, 555.0, 556.0):  # None: a command runs
        login.idle = idle
        logins.end_overdue()
    assert [each.split()[4] for each in login.told] == ["50", "45"]
    assert not login.ended


def test_the_warning_names_the_limit_that_ends_first() -> None:
    login = Clocked(idle=530.0, lasted=3550.0)
    _looking(login, idle=600, longest=3600).end_overdue()
    assert login.told == ["This session ends in 50 seconds: it has lasted as long as it may."]
    login = Clocked(idle=1e6, lasted=1e6)
    _looking(login, idle=0).end_overdue()
    assert (login.told, login.ended) == ([], [])


async def test_an_unanswered_question_counts_as_idle(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    console.start(ECSS_CONSOLE_SESSIONS__IDLE_SECONDS="3")
    console.run("domain/declare biysk.local")
    async with console.asyncssh() as connection:
        shell = await connection.create_process(encoding="utf-8")
        shell.stdin.write("domain/remove biysk.local\n")
        assert "it was idle for too long" in str((await asyncio.wait_for(shell.wait(), 20)).stdout)
    assert "biysk.local" in console.run("domain/list")


async def test_a_session_ends_at_its_longest_duration(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    console.start(ECSS_CONSOLE_SESSIONS__LONGEST_SECONDS="3")
    began = time.monotonic()
    async with console.asyncssh() as connection:
        shell = await connection.create_process(encoding="utf-8")
        while not shell.stdout.at_eof():
            shell.stdin.write("whoami\n")
            await asyncio.sleep(0.1)
            if shell.exit_status is not None or time.monotonic() - began > 30:
                break
        ended = await asyncio.wait_for(shell.wait(), 20)
    assert "it has lasted as long as it may" in str(ended.stdout)


@pytest.mark.parametrize("shown", ["full", "masked"])
def test_lists_show_keys_as_configured(stopped_console: ConsoleServer, shown: str) -> None:
    console = stopped_console
    console.start(ECSS_CONSOLE_INTEGRATIONS__SHOW_KEYS=shown)
    console.run("domain/declare biysk.local")
    here = "domain/biysk.local/integrations/"
    key = console.run(f"{here}add crm").split("API key: ")[1][:64]
    listed = console.run(f"{here}list")
    assert (key in listed) is (shown == "full")
    assert (f"{key[:4]}{'*' * 56}{key[-4:]}" in listed) is (shown == "masked")
    assert key not in console.run(f"{here}show crm")
    assert f"API key: {key}\n" in console.run(f"{here}show crm --reveal")
    console.add_user("oleg", "operator", "biysk.local")
    assert f"API key: {key}\n" in console.told("oleg", f"{here}show crm --reveal")[1]


def test_an_unresponsive_client_is_disconnected(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    console.start(ECSS_CONSOLE_KEEPALIVE__INTERVAL_SECONDS="1", ECSS_CONSOLE_KEEPALIVE__COUNT="2")
    with subprocess.Popen(console.ssh_words(), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stdout.read(len(PROMPT)) == PROMPT.encode()
        client.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 20
        while len(json.loads(console.run("cocon/session/list | json"))["rows"]) > 1:
            assert time.monotonic() < deadline, "the dead peer is still listed"
            time.sleep(0.5)
        client.kill()


async def test_a_long_command_is_not_idle_time(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    console.start(ECSS_CONSOLE_SESSIONS__IDLE_SECONDS="3")
    async with console.asyncssh() as connection:
        shell = await connection.create_process(encoding="utf-8")
        await shell.stdout.readuntil(PROMPT)
        shell.stdin.write("sleep 5\n")
        await shell.stdout.readuntil(PROMPT)
        await asyncio.sleep(1.5)
        shell.stdin.write("whoami\n")
        assert "admin\n" in await shell.stdout.readuntil(PROMPT)


async def test_a_killed_session_runs_no_more_commands(console: ConsoleServer) -> None:
    console.add_user("oleg", "admin")
    async with console.asyncssh(username="oleg") as connection, console.asyncssh() as admin:
        await connection.run("whoami", check=True)
        rows = json.loads(str((await admin.run("cocon/session/list | json")).stdout))["rows"]
        session = next(row["session"] for row in rows if row["user"] == "oleg")
        await admin.run(f"cocon/session/kill {session}", check=True)
        with pytest.raises((asyncssh.ChannelOpenError, asyncssh.ConnectionLost, asyncssh.DisconnectError)):
            await connection.run("domain/declare late.local", check=True)
    assert "late" not in console.run("domain/list")


@pytest.mark.parametrize("end", ["killed", "stopped"])
async def test_a_channel_opened_before_the_end_runs_no_command_after_it(console: ConsoleServer, end: str) -> None:
    """A killed session with a spare channel could once still make an administrator."""
    ready = paramiko.Transport(("127.0.0.1", console.port))
    with closing(ready):
        ready.start_client(timeout=20)
        ready.auth_publickey("admin", paramiko.Ed25519Key.from_private_key_file(str(console.key)))
        channel, busy = ready.open_session(timeout=20), ready.open_session(timeout=20)
        busy.exec_command("sleep 2")
        if end == "killed":
            async with console.asyncssh() as admin:
                rows = json.loads(str((await admin.run("cocon/session/list | json")).stdout))["rows"]
                await admin.run(f"cocon/session/kill {rows[0]['session']}", check=True)
        else:
            assert console.process is not None
            console.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(console.logs, "stopping: no more logins")
        channel.exec_command("domain/declare late.local")
        assert "Command error: temporary locked: " in channel.makefile().read().decode()
        assert channel.recv_exit_status() == 75
    if end == "stopped":
        await asyncio.to_thread(console.stop)
        console.start()
    assert "late" not in console.run("domain/list")


async def test_killing_the_own_session_returns_a_status(console: ConsoleServer) -> None:
    async with console.asyncssh() as connection:
        rows = json.loads(str((await connection.run("cocon/session/list | json")).stdout))["rows"]
        ran = await connection.run(f"cocon/session/kill {rows[0]['session']}")
        assert ran.exit_status in {75, 130}
