"""Limits before and at the login: each refuses the right clients, is logged once, and spares others."""

from __future__ import annotations

import asyncio
import re
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import asyncssh
import paramiko
import pytest
from console import PASSWORD, ConsoleServer
from sources import (
    NOT_NOW,
    VERSION,
    knock,
    leave_without_a_try,
    log_in_and_leave,
    logged_in,
    refused_lines,
    start,
    state,
    wait_until_all_have_left,
)


def test_startup_limit_of_one_source_leaves_others_free(stopped_console: ConsoleServer) -> None:
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


def test_early_drop_hits_only_the_filling_source_until_the_limit_is_full(stopped_console: ConsoleServer) -> None:
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


async def test_connections_of_one_user_are_limited_with_a_reason(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    start(console, max_sessions_per_user=2)
    first, second = await logged_in(console, "127.0.0.2"), await logged_in(console, "127.0.0.3")
    for _ in range(8):  # a successful login gives no penalty
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


async def test_sessions_of_a_connection_are_limited(stopped_console: ConsoleServer) -> None:
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
    """Run a command once the server has noticed the close of a session."""
    for _ in range(500):
        with suppress(asyncssh.ChannelOpenError):
            return str((await connection.run(command, check=True)).stdout)
        await asyncio.sleep(0.02)
    message = "a closed session makes no room"
    raise AssertionError(message)


def _keys(number: int) -> list[asyncssh.SSHKey]:
    return [asyncssh.generate_private_key("ssh-ed25519") for _ in range(number)]


async def test_refused_keys_count_as_tries(console: ConsoleServer) -> None:
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
    """A client that tries many passwords, the right one last."""

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
    assert leave_without_a_try(console, "127.0.0.2") == NOT_NOW  # four penalties of 5 seconds
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


async def test_the_byte_limit_ends_with_the_login(console: ConsoleServer) -> None:
    async with console.asyncssh() as connection:
        line = "echo " + "x" * 50_000 + "\n"
        ran = await connection.run(input=line * 20, check=True)
        assert str(ran.stdout).count("x" * 50_000) == 20


def test_silent_clients_are_disconnected_after_the_grace_time_and_penalised(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    start(console, login_grace_time=3)
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
    await asyncio.sleep(3.5)
    said = str((await connection.run("whoami", check=True)).stdout)
    connection.close()
    await connection.wait_closed()
    return said


@pytest.mark.slow
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
    """Limit the open files of programs started within the block."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_open_file_limit_covers_the_connection_limit(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < 2100:
        pytest.skip(f"the hard limit of open files is {hard}")
    with _few_descriptors(256):
        start(console)
    assert console.process is not None
    assert resource.prlimit(console.process.pid, resource.RLIMIT_NOFILE)[0] >= 2000
    assert not [line for line in console.log if "WARNING" in line]
