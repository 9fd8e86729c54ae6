"""Logins and connections of real clients: each reported fault from the field, and its fix."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import paramiko
import pexpect
import pytest
from asyncssh.packet import String, UInt32
from authority import new_key
from console import PASSWORD, ConsoleServer, needs
from hostile import raw_channel, stranger
from sources import refused_lines, wait_until_all_have_left


def _records(console: ConsoleServer, event: str) -> list[dict[str, object]]:
    """Return the records of one kind after the pending batch is stored."""
    console.run("cocon/audit/list --last 1")
    return [each for each in console.audit() if each["event"] == event]


def _whoami(console: ConsoleServer, **more: object) -> str:
    with console.paramiko(**more) as client:
        return client.exec_command("whoami")[1].read().decode().split("\n")[0]


@pytest.fixture
def agent(console: ConsoleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An ssh-agent that offers a foreign key before the right one."""
    needs("ssh-agent")
    told = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
    given = dict(part.strip().split("=", 1) for part in told.replace("\n", "").split(";") if "=" in part)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    for key in (new_key(tmp_path, "foreign"), console.key):
        subprocess.run(["ssh-add", "-q", str(key)], check=True)
    yield
    os.kill(int(given["SSH_AGENT_PID"]), signal.SIGTERM)


def test_field_paramiko_tries_twice_on_one_connection(console: ConsoleServer, tmp_path: Path) -> None:
    """It repeats the service request before each method, and was once disconnected for it."""
    other = str(new_key(tmp_path, "other"))
    assert _whoami(console, password=None, key_filename=str(console.key)) == "admin"
    assert _whoami(console, password=None, key_filename=[other, str(console.key)]) == "admin"
    assert _whoami(console, password=PASSWORD, key_filename=other) == "admin"


@pytest.mark.usefixtures("agent")
def test_field_paramiko_with_an_agent_that_holds_a_foreign_key_first(console: ConsoleServer) -> None:
    with paramiko.SSHClient() as client:
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        client.connect("127.0.0.1", console.port, "admin", look_for_keys=False, timeout=30)
        assert client.exec_command("whoami")[1].read().startswith(b"admin\n")


def test_field_a_repeated_service_request_gives_no_more_tries(console: ConsoleServer, tmp_path: Path) -> None:
    others = [str(new_key(tmp_path, f"other{number}")) for number in range(6)]
    with pytest.raises((paramiko.SSHException, EOFError)), console.paramiko(password=PASSWORD, key_filename=others):
        pass
    assert refused_lines(console, "max_auth_tries")


async def test_field_no_other_service_is_given_before_the_login(console: ConsoleServer) -> None:
    for service in ("ssh-connection", "ssh-userauth@example.com", ""):
        async with stranger(console) as client:
            client.send_packet(5, String(service))
            await asyncio.wait_for(client.gone.wait(), 30)
            assert isinstance(client.ended_by, asyncssh.ServiceNotAvailable)


def test_field_a_password_that_must_be_changed_fails_plainly_where_it_cannot_be_asked_for(
    console: ConsoleServer,
) -> None:
    """The method `password` once asked for a new password: libssh hung, and paramiko raised its own error."""
    assert console.program("user", "add", "late", "--password-stdin", text="first\n").returncode == 0
    console.run("cocon/user/set late --change-password")
    with pytest.raises(paramiko.AuthenticationException), console.paramiko(username="late", password="first"):
        pass
    settings = ("PreferredAuthentications=password", "PubkeyAuthentication=no", "NumberOfPasswordPrompts=1")
    words = console.ssh_words(*(word for each in settings for word in ("-o", each)), user="late")
    words[words.index("LogLevel=ERROR")] = "LogLevel=INFO"  # shows the server's messages before the login
    client = pexpect.spawn(words[0], words[1:], timeout=20)
    client.expect("password: ")
    client.sendline("first")
    client.expect("must be changed: log in with the method keyboard-interactive")
    client.expect("Permission denied")
    client.expect(pexpect.EOF)
    assert [each["detail"] for each in _records(console, "login.failed")] == ["password: password must be changed"] * 2


def test_field_the_login_prompt_matches_automation_patterns(console: ConsoleServer) -> None:
    words = console.ssh_words("-o", "PreferredAuthentications=keyboard-interactive", "-o", "PubkeyAuthentication=no")
    client = pexpect.spawn(words[0], words[1:], encoding="utf-8", timeout=20)
    client.expect_exact("password: ")
    client.sendline(PASSWORD)
    client.expect_exact("$ ")
    client.close(force=True)


@pytest.mark.parametrize("where", ["password", "user name", "answer"])
async def test_field_bytes_that_are_not_utf8_are_a_wrong_login(console: ConsoleServer, where: str) -> None:
    """A CP1251 password once ended the connection with a Python error, no counted try and no record."""
    word = "привет".encode("cp1251")
    async with stranger(console) as client:
        if where == "password":
            client.give_password("admin", word)
        elif where == "answer":
            await client.answer("admin", word)
        else:
            client.give_password(word, PASSWORD)
        await client.refused()
        assert not client.gone.is_set()
    await asyncio.to_thread(wait_until_all_have_left, console)
    (failed,) = await asyncio.to_thread(_records, console, "login.failed")
    assert failed["user_name"] == ("\\ufffd" * 6 if where == "user name" else "admin")


def test_field_bytes_that_are_not_utf8_in_a_command_or_a_terminal_are_replaced(console: ConsoleServer) -> None:
    """The same bytes were replaced on standard input, refused in a command, and fatal as TERM."""
    word = "привет".encode("cp1251")
    expected = b"\xef\xbf\xbd" * len(word)
    assert expected in console.ssh(text=b"echo " + word + b"\n").stdout
    environment = {**os.environb, b"TERM": word}
    for command, terminal in ((b"echo " + word, []), (b"echo " + word, ["-tt"])):
        words = [os.fsencode(each) for each in [*console.ssh_words(*terminal)]]
        ran = subprocess.run([*words, command], capture_output=True, check=False, timeout=30, env=environment)
        assert ran.returncode == 0
        assert ran.stdout.startswith(expected)
        assert b"codec" not in ran.stdout + ran.stderr


async def test_field_invalid_text_in_a_request_keeps_the_connection(console: ConsoleServer) -> None:
    async with console.asyncssh() as connection:
        channel = await raw_channel(connection)
        # a tunnel to a host that is not UTF-8, from a channel number that the client does not know itself
        sender = UInt32(1000) + UInt32(65_536) + UInt32(32_768)
        asked_for = String(b"\xff\xfe") + UInt32(22) + String("127.0.0.1") + UInt32(1)
        connection._packet_handlers = {**connection._packet_handlers, 92: lambda *_: None}  # noqa: SLF001
        connection.send_packet(90, String("direct-tcpip") + sender + asked_for)
        for request in (b"subsystem", b"signal"):
            assert not await channel._make_request(request, String(b"\xff\xfe"))  # noqa: SLF001
        assert (await connection.run("whoami")).exit_status == 0


async def test_field_refused_tunnels_and_subsystems_are_recorded(console: ConsoleServer) -> None:
    """A user who tried the console as a jump host once left no record."""
    async with console.asyncssh() as connection:
        for attempt in (
            connection.open_connection("10.0.0.1", 22),
            connection.open_unix_connection("/var/run/docker.sock"),
        ):
            with pytest.raises(asyncssh.ChannelOpenError) as refused:
                await attempt
            assert refused.value.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED
        with pytest.raises(asyncssh.ChannelListenError):
            await connection.forward_remote_port("", 0, "127.0.0.1", 22)
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.start_sftp_client()
        assert (await connection.run("whoami")).exit_status == 0
    told = {
        str(each["detail"]): each["user_name"]
        for each in await asyncio.to_thread(_records, console, "connection.refused")
    }
    assert told == {
        "forwarding 1: direct-tcpip to 10.0.0.1:22": "admin",
        "subsystem 1: sftp": "admin",
    }
    assert console.logs("refused 127.0.0.1 as admin: forwarding: direct-tcpip to 10.0.0.1:22")


async def test_field_a_failed_negotiation_is_logged_and_recorded(console: ConsoleServer) -> None:
    """A client without a common algorithm once left no trace on either side."""
    for more in (
        {"kex_algs": ["diffie-hellman-group14-sha1"]},
        {"encryption_algs": ["aes256-cbc"]},
        {"server_host_key_algs": ["rsa-sha2-256"]},
    ):
        with pytest.raises((asyncssh.KeyExchangeFailed, asyncssh.ConnectionLost)):
            await console.connected(local_addr=(f"127.0.0.{10 + len(more)}", 0), **more)
    for kind, theirs in (("key exchange", "diffie-hellman-group14-sha1"),):
        assert await asyncio.to_thread(console.logs, f"no common {kind} algorithm; the client has {theirs}")
    records = await asyncio.to_thread(_records, console, "negotiation.failed")
    assert records
    assert "the console has curve25519-sha256" in str(records[0]["detail"])
    metrics = await asyncio.to_thread(console.run, "node/metrics | match ssh.policy")
    assert "ecss_console_refusals_total" in metrics


async def test_field_data_after_a_channel_close_keeps_the_connection(console: ConsoleServer) -> None:
    """After a rekey, paramiko's end of input arrived after the close and ended its transport."""
    async with console.asyncssh() as connection:
        for late in (b"", b"typed"):
            channel = await raw_channel(connection)
            assert await channel._make_request(b"shell")  # noqa: SLF001
            number = channel._send_chan  # noqa: SLF001
            assert number is not None
            for message in (97, 98 if late else 96):  # the close; then a request, or the end of input
                connection.send_packet(message, UInt32(number))
            connection.send_packet(94, UInt32(number), String(late))
            assert (await connection.run("whoami")).exit_status == 0
            connection.send_packet(96, UInt32(number))  # the server has forgotten the channel by now
            assert (await connection.run("whoami")).exit_status == 0
        connection.send_packet(96, UInt32(1000))
        await connection.wait_closed()
    assert await asyncio.to_thread(console.logs, "has left: Invalid channel number 1000 received")


def test_field_an_idle_client_without_a_thread_is_not_cut_off(console: ConsoleServer) -> None:
    """Clients of libssh and libssh2 answer a keepalive only when called. TCP keepalive needs no client."""
    shown = console.program("config", "check").stdout
    assert '"interval_seconds": 0' in shown
    with subprocess.Popen(console.ssh_words(), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.read(1) == b"a"
        listed = subprocess.run(
            ["ss", "-tno", f"sport = :{console.port}"], capture_output=True, text=True, check=False
        ).stdout
        assert "timer:(keepalive," in listed
        client.kill()


async def test_field_the_logout_says_why_the_console_ended_a_connection(console: ConsoleServer) -> None:
    """An administrator could not distinguish a client's own exit from a disconnect by the server."""
    console.add_user("vera", "viewer")
    leaving, killed, broken = [await console.connected(username=name) for name in ("admin", "vera", "admin")]
    (row,) = [
        each for each in (await asyncio.to_thread(console.run, "cocon/session/list")).split("\n") if "vera" in each
    ]
    await asyncio.to_thread(console.run, f"cocon/session/kill {row.split('│')[1].strip()}")
    broken.send_packet(94, b"\xff\xff\xff\xff" + String("data"))  # for a channel that does not exist
    for connection in (killed, broken):
        await connection.wait_closed()
    leaving.close()
    await leaving.wait_closed()
    assert await asyncio.to_thread(console.logs, "vera from", "has left: This session was ended")
    assert await asyncio.to_thread(console.logs, "admin from", "has left: Invalid channel number")
    await asyncio.to_thread(wait_until_all_have_left, console)
    reasons = {str(each["detail"]) for each in await asyncio.to_thread(_records, console, "logout")}
    assert "" in reasons
    assert any(each.startswith("This session was ended") for each in reasons)
