"""Attacks and accidents that once went wrong; each test tells its story."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import socket
import sqlite3
import statistics
import struct
import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

import asyncssh
import paramiko
import pytest
from console import PASSWORD, PROMPT, ConsoleServer, read_until_end

from server.model.events import Event, EventKind
from server.storage.engine import Row, Value
from server.storage.sqlite.engine import SqliteEngine
from server.storage.store import Store
from server.storage.vault import Vault

PERSON = {"client_version": "OpenSSH_9.9"}  # gets the line editor, as people do


async def _person(connection: asyncssh.SSHClientConnection) -> asyncssh.SSHClientProcess[str]:
    shell = await connection.create_process(term_type="xterm", term_size=(80, 24), encoding="utf-8")
    await shell.stdout.readuntil("$ ")
    return shell


async def test_key_presses_never_act_in_another_session(console: ConsoleServer) -> None:
    """prompt_toolkit shares one current application across the process by default.

    A viewer's key press after an administrator's once continued in the administrator's session.
    """
    console.program("user", "add", "eve", "--role", "viewer", "--password-stdin", text=PASSWORD + "\n")
    async with (
        console.asyncssh(username="eve", client_keys=None, password=PASSWORD, **PERSON) as low,
        console.asyncssh(**PERSON) as high,
    ):
        viewer, admin = await _person(low), await _person(high)
        for shell in (viewer, admin, viewer, admin):
            shell.stdin.write("x")
            assert await shell.stdout.readexactly(1) == "x"
        viewer.stdin.write("\x15domain/declare by-low")
        await viewer.stdout.readuntil("by-low")
        admin.stdin.write("\x15whoami\r")
        said = await admin.stdout.readuntil(PROMPT)
        assert "whoami\r\nadmin\r\n" in said
        assert "by-low" not in said
        viewer.stdin.write("\r")
        refused = await viewer.stdout.readuntil("585]\r\n")
        assert "permission denied" in refused
        assert "whoami" not in refused
    assert "by-low" not in console.run("domain/list")


async def test_a_script_of_many_lines_does_not_block_other_sessions(console: ConsoleServer) -> None:
    """Commands without a wait once ran back to back and blocked all other sessions for seconds."""
    async with console.asyncssh() as hog, console.asyncssh() as other:
        script = await hog.create_process(stdin=asyncssh.PIPE, stdout=asyncssh.DEVNULL)
        script.stdin.write("pwd\n" * 20_000)
        script.stdin.write_eof()
        multi = await hog.create_process("\n".join(["pwd"] * 5_000), stdout=asyncssh.DEVNULL)
        answered = 0
        while not (script.stdout.at_eof() or answered == 20):
            ran = await other.run("whoami")
            assert str(ran.stdout).startswith("admin")
            answered += 1
        assert answered == 20, "the script ended before twenty commands of another session were heard"
        multi.close()
        script.close()


@pytest.mark.slow
async def test_a_signal_while_reading_is_paused_resumes_reading(console: ConsoleServer) -> None:
    """The queue was once emptied without resuming the channel, and the session read nothing more."""
    async with console.asyncssh() as connection:
        shell = await connection.create_process(term_type="dumb", encoding="utf-8")
        await shell.stdout.readuntil(PROMPT)
        shell.stdin.write("sleep 60\n" + "echo lost\n" * 40_000)
        await asyncio.sleep(0.5)
        shell.send_signal("INT")
        assert (await shell.stdout.readuntil(f"^C\r\n{PROMPT}")).endswith(f"^C\r\n{PROMPT}")
        shell.stdin.write("exit 3\n")
        assert (await asyncio.wait_for(shell.wait(), 20)).exit_status == 3


async def test_lines_typed_ahead_by_a_vanished_client_are_not_run(console: ConsoleServer) -> None:
    """Ctrl-C and the disconnect arrived in one cancellation, which was handled as Ctrl-C only."""
    holder = sqlite3.connect(console.database, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    connection = await console.connected()
    shell = await connection.create_process(term_type="dumb", encoding="utf-8")
    await shell.stdout.readuntil(PROMPT)
    shell.stdin.write("domain/declare first.local\n")
    await asyncio.to_thread(console.runs_a_command)
    shell.stdin.write("\x03domain/declare ghost.local\nsleep 8\n")
    await asyncio.sleep(0.05)
    before = len(console.log)
    connection.abort()
    while not any("has left" in line for line in console.log[before:]):  # noqa: ASYNC110  a log tells nobody
        await asyncio.sleep(0.01)
    holder.execute("ROLLBACK")
    holder.close()
    await asyncio.sleep(0.5)
    assert "ghost" not in console.run("domain/list")


async def test_waiting_for_the_store_can_be_interrupted_and_does_not_add_up(console: ConsoleServer) -> None:
    """Each of several clients once waited five seconds after the one before it."""
    holder = sqlite3.connect(console.database, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    async with console.asyncssh() as connection:
        shell = await connection.create_process("domain/declare x.local", term_type="dumb", encoding="utf-8")
        await asyncio.to_thread(console.runs_a_command)
        shell.stdin.write("\x03")
        assert (await asyncio.wait_for(shell.wait(), 3)).exit_status == 130
        began = time.monotonic()
        ran = await asyncio.gather(*(connection.run(f"domain/declare d{number}.local") for number in range(6)))
        assert [each.exit_status for each in ran] == [75] * 6
        assert time.monotonic() - began < 12
    holder.close()
    console.run("domain/declare after.local")


async def test_a_stop_while_the_store_is_locked_stays_within_five_seconds(stopped_console: ConsoleServer) -> None:
    """The command, the journal's batch and its last batch each waited for the lock: fifteen seconds."""
    console = stopped_console
    console.start()
    holder = sqlite3.connect(console.database, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    async with console.asyncssh() as connection:
        adding = [await connection.create_process(f"domain/declare d{number}.local") for number in range(4)]
        await asyncio.to_thread(console.runs_a_command)
        began = time.monotonic()
        assert await asyncio.to_thread(console.stop) == 0
        assert time.monotonic() - began < 5
        statuses = [(await each.wait()).exit_status for each in adding]
        assert set(statuses) <= {75, 130}
    holder.close()
    log = "".join(console.log)
    assert "Traceback" not in log
    assert "not in the store" in log  # records that could not be stored go to the log


async def test_a_command_that_ends_while_the_console_stops_keeps_its_status(stopped_console: ConsoleServer) -> None:
    """The client was once disconnected at the moment when its last command had ended.

    To OpenSSH a disconnect is status 255, even when it arrives together with the exit status. Scripts took a success
    for a failure, and might have repeated the command. The relay here delivers all data of the server together.
    """
    console = stopped_console
    console.start()
    bad = asyncio.Event()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, late: bool) -> None:
        with closing(writer):
            while data := await reader.read(4096):
                if late and bad.is_set():
                    await asyncio.sleep(0.25)
                    with suppress(TimeoutError):
                        data += await asyncio.wait_for(reader.read(65536), 0.1)
                writer.write(data)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, questions = await asyncio.open_connection("127.0.0.1", console.port)
        await asyncio.gather(carry(reader, questions, late=False), carry(answers, writer, late=True))

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as line:
        port = {str(console.port): str(line.sockets[0].getsockname()[1])}
        words = [port.get(word, word) for word in [*console.ssh_words(), "sleep 2"]]
        client = await asyncio.create_subprocess_exec(*words, stdin=asyncio.subprocess.DEVNULL, stdout=-1, stderr=-1)
        running = "node/metrics | match commands_running"
        while "│2" not in await asyncio.to_thread(console.run, running):
            pass
        bad.set()
        assert console.process is not None
        console.process.terminate()
        said, complaint = await asyncio.wait_for(client.communicate(), 20)
    assert (client.returncode, b"exec at" in said, complaint) == (0, True, b"")
    assert console.stop() == 0


@pytest.mark.parametrize("early", ["signal", "break", "window-change"])
def test_a_request_before_the_shell_does_not_end_the_connection(console: ConsoleServer, early: str) -> None:
    """The session did not exist yet, and the error ended the whole connection."""
    with console.paramiko() as client:
        transport = client.get_transport()
        assert transport is not None
        channel = transport.open_session()
        request = paramiko.Message()
        request.add_byte(bytes([98]))  # SSH_MSG_CHANNEL_REQUEST
        request.add_int(channel.remote_chanid)
        request.add_string(early)
        request.add_boolean(b=False)
        if early == "signal":
            request.add_string("TERM")
        else:
            for _ in range(1 if early == "break" else 4):
                request.add_int(0)
        transport._send_user_message(request)  # type: ignore[attr-defined]  # noqa: SLF001  no client sends it so
        channel.invoke_shell()
        channel.sendall(b"whoami\nexit 4\n")
        assert "admin\n" in read_until_end(channel)
        assert channel.recv_exit_status() == 4


async def test_terminal_reports_and_pastes_bring_no_control_character_into_the_line(console: ConsoleServer) -> None:
    """A cursor report was once inserted into the line as text, with its escape, and echoed."""
    async with console.asyncssh(**PERSON) as connection:
        shell = await _person(connection)
        for keys in ("\x1b[5;5R", "\x1b[<0;10;10M", "\x1b[200~echo ", "a\x1b[201~"):
            shell.stdin.write(keys)
            await asyncio.sleep(0.1)
        shell.stdin.write("\r")
        said = await shell.stdout.readuntil(PROMPT)
        assert "echo a\r\na\r\n" in said
        assert "\x1b" not in said


async def test_ctrl_c_ends_a_command_of_several_lines(console: ConsoleServer) -> None:
    """The lines after the interrupted one once ran, and the status was that of the last line."""
    async with console.asyncssh() as connection:
        process = await connection.create_process("sleep 60\necho after", term_type="dumb", encoding="utf-8")
        await asyncio.to_thread(console.runs_a_command)
        process.stdin.write("\x03")
        done = await process.wait()
        assert (done.exit_status, done.stdout) == (130, "^C\r\n")


async def test_a_signal_at_a_question_interrupts_it_without_a_terminal_too(console: ConsoleServer) -> None:
    console.run("domain/declare biysk.local")
    async with console.asyncssh() as connection:
        process = await connection.create_process("domain/remove biysk.local", encoding="utf-8")
        await process.stdout.readuntil("yes/no ?> ")
        process.send_signal("INT")
        assert (await asyncio.wait_for(process.wait(), 5)).exit_status == 130
    assert "biysk.local" in console.run("domain/list")


async def test_a_leaving_client_gets_no_shutdown_message(console: ConsoleServer) -> None:
    async with console.asyncssh() as connection:
        shell = await connection.create_process(term_type="dumb", encoding="utf-8")
        await shell.stdout.readuntil(PROMPT)
        shell.send_signal("TERM")
        assert "stopping" not in str((await shell.wait()).stdout)


def test_non_ascii_letters_do_not_fold_into_a_domain_name(console: ConsoleServer) -> None:
    """KELVIN SIGN in lower case is k."""
    ran = console.ssh("domain/declare bi\u212a")
    assert ran.returncode == 2
    assert not re.search("bik", console.run("domain/list"))


@pytest.mark.parametrize("text", ["1_0", "' 0.01 '", "1e-3", "inf", "nan", "-0"])
def test_malformed_durations_are_argument_errors(shared_console: ConsoleServer, text: str) -> None:
    assert shared_console.ssh(f"sleep {text}").returncode == 2


async def test_found_by_fuzzing_audit_batches_prepare_few_statements(stopped_console: ConsoleServer) -> None:
    """Each batch length was once its own SQL statement. SQLite keeps 128 prepared ones: fifty megabytes."""
    key = (stopped_console.folder / "keys" / "storage.key").read_bytes()
    store = Store(await SqliteEngine.open(stopped_console.database), Vault(base64.b64decode(key)))
    statements: set[str] = set()
    expected: list[str] = []
    try:
        async with store.transaction() as query:

            async def noted(sql: str, *values: Value) -> list[Row]:
                statements.add(sql)
                return await query(sql, *values)

            async def noted_many(sql: str, rows: Sequence[Sequence[Value]]) -> None:
                for row in rows:
                    await noted(sql, *row)

            for length in range(1, 300, 7):
                names = [f"n{length}.{number}" for number in range(length)]
                expected += names
                query.audit.add(
                    *(Event(EventKind.LOGIN, "2021-02-16T08:00:00Z", "n", name, "s", "i") for name in names)
                )
                await query.audit.write(noted, noted_many)
        rows = await store.read("SELECT user_name FROM audit WHERE event = 'login' ORDER BY id")
    finally:
        await store.close()
    assert [name for (name,) in rows] == expected
    assert len(statements) < 10


async def _small_packets(port: int, count: int) -> None:
    """Send the smallest packets before any login, then one that ends the connection after them."""
    ignored, wrong = struct.pack(">IBBI6x", 12, 6, 2, 0), struct.pack(">IBB10x", 12, 10, 5)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"SSH-2.0-x\r\n" + ignored * count + wrong)
        await writer.drain()
        await reader.read()
    finally:
        writer.transport.abort()


def _cpu_seconds(process_id: int) -> float:
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="CPU time is read from /proc")
async def test_found_by_fuzzing_small_packets_before_login_do_not_delay_others(
    stopped_console: ConsoleServer,
) -> None:
    """All received packets of one client were once handled before any other session ran.

    Sixteen thousand packets took a tenth of a second, and an answer needs several turns of the loop.
    The test counts the wait in CPU time of the server, so that a busy machine does not matter.
    """
    console = stopped_console
    console.start(ECSS_CONSOLE_LIMITS__MAX_LOGIN_BYTES="1000000000")
    assert console.process is not None
    async with console.asyncssh() as connection:
        hostile = asyncio.create_task(_small_packets(console.port, 300_000))
        waited: list[float] = []
        await asyncio.sleep(0.1)
        while not hostile.done() and len(waited) < 30:
            before = _cpu_seconds(console.process.pid)
            await connection.run("whoami", check=True)
            waited.append(_cpu_seconds(console.process.pid) - before)
        hostile.cancel()
        with suppress(asyncio.CancelledError):
            await hostile
    assert statistics.median(waited) < 0.2


#: Serves normally, but the start fails after it listens, once a file exists.
_START_FAILS = """
import asyncio, os, sys
from server import app
from server.errors import StartError

async def fail(*_):
    while not os.path.exists("fail"):
        await asyncio.sleep(0.02)
    raise StartError("it cannot begin")

app.record_host = fail
from server.__main__ import main
sys.exit(main(["serve"]))
"""


async def test_a_login_during_a_failing_start_is_recorded_and_notified(stopped_console: ConsoleServer) -> None:
    """Such a client was once disconnected without a message, and left no audit record."""
    console = stopped_console
    console.launcher = (sys.executable, "-c", _START_FAILS)
    with socket.create_server(("127.0.0.1", 0)) as free:
        console.port = free.getsockname()[1]
    console.launch(ECSS_CONSOLE_LISTEN__PORT=str(console.port))
    assert console.process is not None
    deadline = time.monotonic() + 20
    while True:
        try:
            connection = await console.connected()
            break
        except OSError:
            assert time.monotonic() < deadline, "".join(console.log)
            await asyncio.sleep(0.05)
    async with connection:
        shell = await connection.create_process(encoding="utf-8")
        shell.stdin.write("whoami\n")
        await shell.stdout.readuntil("exec at")
        (console.folder / "fail").touch()
        assert "The console is stopping; log in again later." in await shell.stdout.read()
    assert await asyncio.to_thread(console.process.wait, 20) == 1
    with closing(sqlite3.connect(console.database)) as database:
        recorded = {row[0] for row in database.execute("SELECT event FROM audit")}
    assert {"login", "logout", "command"} <= recorded
