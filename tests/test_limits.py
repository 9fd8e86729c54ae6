"""Limits before and at the login, over the wire: each refuses whom it should, is told once, and leaves others alone."""

from __future__ import annotations

import asyncio
import re
import resource
import signal
import socket
import sqlite3
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import asyncssh
import paramiko
import pytest
from console import PASSWORD, PROMPT, ConsoleServer

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
    """Return the log's lines about a refusal."""
    return [line for line in console.log if "refused" in line and line.rstrip().endswith(f": {reason}")]


def wait_until_all_have_left(console: ConsoleServer) -> None:
    """Wait until the server has noticed that its clients are gone."""
    deadline = time.monotonic() + 20
    while state(console)[0]:
        assert time.monotonic() < deadline, "connections stay"
        time.sleep(0.02)


@contextmanager
def knock(console: ConsoleServer, source: str) -> Iterator[tuple[socket.socket, bytes]]:
    """Connect from an address and say nothing; give the socket and the first line that comes."""
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


def test_one_source_keeps_a_few_places_and_others_log_in(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    start(console, per_source_max_startups=3)
    with ExitStack() as held:
        for _ in range(3):
            assert held.enter_context(knock(console, "127.0.0.2"))[1] == VERSION
        assert leave_without_a_try(console, "127.0.0.2") == NOT_NOW
        asyncio.run(log_in_and_leave(console, "127.0.0.3"))
    wait_until_all_have_left(console)
    assert leave_without_a_try(console, "127.0.0.2") == VERSION
    assert state(console)[2] == {"per_source_max_startups": 1}
    assert "refused 127.0.0.2: per_source_max_startups" in refused_lines(console, "per_source_max_startups")[0]


def test_places_that_one_source_fills_are_refused_to_it_alone_up_to_full(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    start(console, max_startups="4:100:6")
    with ExitStack() as held:
        for _ in range(4):
            assert held.enter_context(knock(console, "127.0.0.2"))[1] == VERSION
        assert leave_without_a_try(console, "127.0.0.2") == NOT_NOW
        asyncio.run(log_in_and_leave(console, "127.0.0.3"))
        for source in ("127.0.0.3", "127.0.0.4"):
            assert held.enter_context(knock(console, source))[1] == VERSION
        assert leave_without_a_try(console, "127.0.0.5") == NOT_NOW
    wait_until_all_have_left(console)
    asyncio.run(log_in_and_leave(console, "127.0.0.5"))
    assert state(console)[2] == {"max_startups": 2}


async def test_connections_are_limited_in_all_and_for_each_source(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    start(console, max_connections=3, per_source_max_connections=2)
    connections = [await logged_in(console, source) for source in ("127.0.0.2", "127.0.0.2", "127.0.0.3")]
    assert leave_without_a_try(console, "127.0.0.4") == NOT_NOW
    connections[2].close()
    await connections[2].wait_closed()
    await asyncio.to_thread(_until_connections, console, 2)
    assert leave_without_a_try(console, "127.0.0.2") == NOT_NOW
    await log_in_and_leave(console, "127.0.0.4")
    for connection in connections:
        connection.abort()
    assert state(console)[2] == {"max_connections": 1, "per_source_max_connections": 1}


def _until_connections(console: ConsoleServer, number: int) -> None:
    deadline = time.monotonic() + 20
    while state(console)[0] != number:
        assert time.monotonic() < deadline, state(console)
        time.sleep(0.02)


async def test_a_user_is_logged_in_so_often_and_reads_why_not_more(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    start(console, max_sessions_per_user=2)
    first, second = await logged_in(console, "127.0.0.2"), await logged_in(console, "127.0.0.3")
    for _ in range(8):  # nobody is penalised for a login that was right
        ran = await asyncio.to_thread(console.ssh, "whoami", options=["-o", "BindAddress=127.0.0.4"])
        assert ran.returncode == 255
        assert b"Too many connections of admin: 2 are allowed (max_sessions_per_user)" in ran.stderr
    first.close()
    await first.wait_closed()
    await asyncio.to_thread(_until_connections, console, 1)
    third = await logged_in(console, "127.0.0.4")
    assert "admin" in str((await third.run("whoami", check=True)).stdout)
    for connection in (second, third):
        connection.abort()
    assert "127.0.0.4 as admin: max_sessions_per_user" in refused_lines(console, "max_sessions_per_user")[0]


async def test_sessions_of_a_connection_are_limited_and_a_closed_one_makes_room(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    start(console, max_sessions=2)
    async with console.asyncssh() as connection:
        shells = [await connection.create_process(term_type="xterm") for _ in range(2)]
        for _ in range(3):
            with pytest.raises(asyncssh.ChannelOpenError, match="too many sessions on this connection: 2 are allowed"):
                await connection.create_process()
        shells[0].stdin.write("exit\n")
        await shells[0].wait()
        assert "admin" in await _run_when_there_is_room(connection, "whoami")
        shells[1].stdin.write("whoami\n")
        await shells[1].stdout.readuntil("admin\r\n")
    assert state(console)[2]["max_sessions"] >= 3
    assert len(refused_lines(console, "max_sessions")) == 1


async def _run_when_there_is_room(connection: asyncssh.SSHClientConnection, command: str) -> str:
    """Run a command as soon as the server has noticed that a session is closed."""
    for _ in range(500):
        with suppress(asyncssh.ChannelOpenError):
            return str((await connection.run(command, check=True)).stdout)
        await asyncio.sleep(0.02)
    message = "a closed session makes no room"
    raise AssertionError(message)


def _keys(number: int) -> list[asyncssh.SSHKey]:
    return [asyncssh.generate_private_key("ssh-ed25519") for _ in range(number)]


async def test_keys_offered_in_vain_are_tries(console: ConsoleServer) -> None:
    right = asyncssh.read_private_key(console.key)
    strangers = _keys(6)
    await log_in_and_leave(console, "127.0.0.2", client_keys=[*strangers[:5], right])
    with pytest.raises(asyncssh.ProtocolError, match="Too many authentication failures"):
        await logged_in(console, "127.0.0.2", client_keys=[*strangers, right])
    assert "refused 127.0.0.2: max_auth_tries" in refused_lines(console, "max_auth_tries")[0]


def test_openssh_says_that_it_offered_too_many_keys(console: ConsoleServer) -> None:
    words = ["-o", "PasswordAuthentication=no", "-o", "LogLevel=INFO"]
    for number, key in enumerate(_keys(6)):
        path = console.folder / f"stranger{number}"
        key.write_private_key(str(path))
        path.chmod(0o600)
        words += ["-i", str(path)]
    console.key.rename(console.folder / "away")
    ran = console.ssh("whoami", options=words)
    assert ran.returncode == 255
    assert b"Too many authentication failures" in ran.stderr


class _Guesser(asyncssh.SSHClient):
    """Knows many passwords, the right one last."""

    def __init__(self, wrong: int) -> None:
        self._left = [PASSWORD, *("wrong" for _ in range(wrong))]

    def password_auth_requested(self) -> str | None:
        return self._left.pop() if self._left else None


async def _guess(console: ConsoleServer, source: str, wrong: int) -> None:
    await log_in_and_leave(console, source, client_factory=lambda: _Guesser(wrong), client_keys=None)


async def test_the_sixth_wrong_password_ends_the_connection_and_penalties_follow(console: ConsoleServer) -> None:
    await _guess(console, "127.0.0.2", wrong=5)
    for _ in range(4):
        with pytest.raises(asyncssh.ProtocolError, match="Too many authentication failures"):
            await _guess(console, "127.0.0.2", wrong=6)
    await asyncio.to_thread(wait_until_all_have_left, console)
    assert leave_without_a_try(console, "127.0.0.2") == NOT_NOW  # 4 times 5 seconds
    await log_in_and_leave(console, "127.0.0.3", client_keys=None, password=PASSWORD)
    assert state(console)[2] == {"max_auth_tries": 4, "per_source_penalties": 1}
    assert len([line for line in console.log if "failed by password" in line]) == 5 + 4 * 6


def _password_request(password: str) -> paramiko.Message:
    message = paramiko.Message()
    message.add_byte(b"\x32")  # SSH_MSG_USERAUTH_REQUEST
    for text in ("admin", "ssh-connection", "password"):
        message.add_string(text)
    message.add_boolean(False)  # noqa: FBT003  as the protocol has it
    message.add_string(password)
    return message


def test_a_thousand_passwords_sent_without_waiting_are_not_a_thousand_tries(console: ConsoleServer) -> None:
    with socket.create_connection(("127.0.0.1", console.port), source_address=("127.0.0.2", 0)) as client:
        transport = paramiko.Transport(client)
        transport.start_client(timeout=30)
        with suppress(paramiko.SSHException):
            transport.auth_none("admin")
        with suppress(OSError, EOFError):
            for number in range(1000):
                transport._send_message(_password_request(f"wrong {number}"))  # type: ignore[attr-defined]  # noqa: SLF001
            transport._send_message(_password_request(PASSWORD))  # type: ignore[attr-defined]  # noqa: SLF001
        transport.join(30)
        assert not transport.is_alive()
        assert not transport.is_authenticated()
    assert state(console)[2]["max_auth_tries"] == 1
    assert not [line for line in console.log if "has logged in" in line]
    assert len([line for line in console.log if "failed by password" in line]) <= 6


async def test_forged_signatures_of_a_known_key_are_tries(console: ConsoleServer) -> None:
    forgers = asyncssh.load_keypairs(_keys(9))
    for forger in forgers:
        forger.public_data = asyncssh.read_public_key(f"{console.key}.pub").public_data
    with pytest.raises(asyncssh.ProtocolError, match="Too many authentication failures"):
        await logged_in(console, "127.0.0.2", client_keys=forgers)
    assert state(console)[2] == {"max_auth_tries": 1}


async def _flood(console: ConsoleServer) -> int:
    """Send empty SSH packets as fast as they are taken, for as long as they are; return how many bytes were."""
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


async def test_megabytes_of_empty_packets_before_the_login_hold_nobody_up(console: ConsoleServer) -> None:
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


async def test_after_the_login_any_amount_is_taken(console: ConsoleServer) -> None:
    async with console.asyncssh() as connection:
        line = "echo " + "x" * 50_000 + "\n"
        ran = await connection.run(input=line * 20, check=True)
        assert str(ran.stdout).count("x" * 50_000) == 20


async def test_logins_beside_connections_that_are_reset(stopped_console: ConsoleServer) -> None:
    """A reset connection's descriptor is another's at once; that one's login once ended with the first one's end."""
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


def test_silent_clients_are_sent_away_after_the_grace_time_and_penalised(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    start(console, login_grace_time=1)
    with ExitStack() as held:
        silent = [held.enter_context(knock(console, "127.0.0.2"))[0] for _ in range(5)]
        stayed = asyncio.run(_stay_longer_than_the_grace_time(console))
        for client in silent:
            assert client.recv(100) == b""
    assert "admin" in stayed
    assert leave_without_a_try(console, "127.0.0.2") == NOT_NOW
    assert leave_without_a_try(console, "127.0.0.3") == VERSION
    assert state(console)[2] == {"login_grace_time": 5, "per_source_penalties": 1}
    assert len(refused_lines(console, "login_grace_time")) == 1


async def _stay_longer_than_the_grace_time(console: ConsoleServer) -> str:
    connection = await logged_in(console, "127.0.0.2")
    await asyncio.sleep(1.5)
    said = str((await connection.run("whoami", check=True)).stdout)
    connection.close()
    await connection.wait_closed()
    return said


def test_a_penalty_grows_with_each_connection_and_passes_with_time(console: ConsoleServer) -> None:
    knocks = 0
    while leave_without_a_try(console, "127.0.0.2") == VERSION:
        knocks += 1
        assert knocks < 1000
    assert knocks >= 16  # of one second each; more than fifteen at once are enforced
    asyncio.run(log_in_and_leave(console, "127.0.0.3"))
    deadline = time.monotonic() + 60
    while leave_without_a_try(console, "127.0.0.2") != VERSION:
        assert time.monotonic() < deadline, "the penalty does not pass"
        time.sleep(0.5)
    asyncio.run(log_in_and_leave(console, "127.0.0.2"))
    lines = refused_lines(console, "per_source_penalties")
    assert "refused 127.0.0.2: " in lines[0]
    assert all(re.search(r"refused [\d,]+ more from 127\.0\.0\.2: ", line) for line in lines[1:])
    assert len(lines) <= 8


def test_exempt_sources_and_penalties_that_are_off(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    start(console, per_source_penalty_exempt_list="[127.0.0.4, 127.0.1.0/24]")
    for source in ("127.0.0.4", "127.0.1.9"):
        assert {leave_without_a_try(console, source) for _ in range(60)} == {VERSION}
    assert NOT_NOW in {leave_without_a_try(console, "127.0.0.5") for _ in range(60)}
    assert console.stop() == 0
    start(console, per_source_penalties="false")
    assert {leave_without_a_try(console, "127.0.0.5") for _ in range(60)} == {VERSION}


def test_sources_of_one_network_are_refused_as_one(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    start(console, per_source_net_block_size="24:64", per_source_max_startups=2)
    with knock(console, "127.0.2.1"), knock(console, "127.0.2.2"):
        assert leave_without_a_try(console, "127.0.2.3") == NOT_NOW
        assert leave_without_a_try(console, "127.0.3.1") == VERSION


async def test_sixteen_logins_at_once_from_one_address(console: ConsoleServer) -> None:
    for _ in range(10):
        await asyncio.gather(*(log_in_and_leave(console, "127.0.0.2") for _ in range(16)))
    passwords = {"client_keys": None, "password": PASSWORD}
    await asyncio.gather(*(log_in_and_leave(console, "127.0.0.2", **passwords) for _ in range(16)))
    assert state(console)[2] == {}


@contextmanager
def _few_descriptors(soft: int) -> Iterator[None]:
    """Limit the open files of programs that are started meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_as_many_files_may_be_open_as_there_may_be_connections(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < 2100:
        pytest.skip(f"the hard limit of open files is {hard}")
    with _few_descriptors(256):
        start(console)
    assert console.process is not None
    assert resource.prlimit(console.process.pid, resource.RLIMIT_NOFILE)[0] >= 2000
    assert not [line for line in console.log if "WARNING" in line]


HOSTILE = "127.0.0.9"


class Attack:
    """Hostile connections from one source, some dozens at a time, of four kinds in turn."""

    def __init__(self, console: ConsoleServer) -> None:
        self._console = console
        self._gate = asyncio.Semaphore(40)
        self.made = 0

    async def run(self, number: int) -> None:
        """Make so many connections."""
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
    """Log in from elsewhere again and again, four at once, each way in turn; every login is to succeed."""
    ways: list[dict[str, object]] = [{}, {"client_keys": None, "password": PASSWORD}]
    number = 0
    while not over.is_set() or number < 40:
        await asyncio.gather(*(log_in_and_leave(console, "127.0.0.1", **ways[each % 2]) for each in range(4)))
        number += 4
    return number


async def _besieged(console: ConsoleServer, connections: int) -> tuple[int, int]:
    """Attack while others log in and one session goes on; return how many logins and answers there were."""
    attack, over, answers = Attack(console), asyncio.Event(), 0
    with ExitStack() as held:
        for _ in range(20):  # some of the places stay taken by silent ones
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
    await asyncio.sleep(1)  # the journal's last batch
    refused = state(console)[2]
    assert _open_files(console) <= files + 1
    assert state(console)[1] <= tasks
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
