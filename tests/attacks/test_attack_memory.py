"""An authenticated user cannot make the process keep unbounded memory or block its event loop."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncssh
import pytest
from asyncssh.constants import MSG_GLOBAL_REQUEST, MSG_REQUEST_FAILURE, MSG_REQUEST_SUCCESS
from asyncssh.packet import Boolean, String, UInt32
from console import ConsoleServer
from hostile import ask, cpu_seconds, raw_channel, resident_megabytes
from sources import start

from server.model.integrations import Integration, IntegrationType
from server.transport.asyncssh_overrides.channel import MOST_ENVIRONMENT_VARIABLES

_PROVE = "hostkeys-prove-00@openssh.com"


@asynccontextmanager
async def _asleep(connection: asyncssh.SSHClientConnection) -> AsyncIterator[None]:
    """Stop reading from the socket, whatever the SSH windows allow."""
    transport = connection._transport  # noqa: SLF001  asyncssh's client always reads
    assert transport is not None
    transport.pause_reading()
    yield
    transport.resume_reading()


async def _rows(console: ConsoleServer, count: int) -> None:
    rows = ((Integration(f"c{number:05}", IntegrationType.WIDGET), secrets.token_hex(32)) for number in range(count))
    await console.seed("big.local", rows)


async def test_attack_a_non_reading_client_with_a_window_of_four_gigabytes(
    stopped_console: ConsoleServer,
) -> None:
    """The process once kept 300 MB in 5 seconds for 376 bytes sent: only SSH windows were bounded."""
    await _rows(stopped_console, 5_000)
    stopped_console.start()
    async with stopped_console.asyncssh() as connection, stopped_console.asyncssh() as other:
        channel = await raw_channel(connection, window=2**32 - 1)
        assert await channel._make_request(b"shell")  # noqa: SLF001
        assert (await other.run("domain/big.local/integrations/list")).exit_status == 0
        before = resident_megabytes(stopped_console)
        async with _asleep(connection):
            channel.write(b"domain/big.local/integrations/list\n" * 200)  # a megabyte and more each
            for _ in range(100):  # while others are served, the list goes on as far as it can
                assert (await other.run("whoami")).exit_status == 0
            grown = resident_megabytes(stopped_console) - before
        assert grown < 40
        connection.abort()


async def test_attack_thousands_of_environment_variables(console: ConsoleServer) -> None:
    """All of them were once kept: 200 MB for one channel."""
    async with console.asyncssh() as connection:
        channel = await raw_channel(connection)
        before = resident_megabytes(console)
        accepted = [
            await channel._make_request(b"env", String(f"V{number}"), String("x" * 32_000))  # noqa: SLF001
            for number in range(1_000)
        ]
        assert accepted == [True] * MOST_ENVIRONMENT_VARIABLES + [False] * (1_000 - MOST_ENVIRONMENT_VARIABLES)
        assert resident_megabytes(console) - before < 15


async def test_attack_thousands_of_host_keys_in_one_request(console: ConsoleServer) -> None:
    """4,600 signatures for one packet took 0.3 seconds. Now a connection proves each key once."""
    key = asyncssh.read_public_key(console.folder / "keys" / "ssh_host_ed25519_key.pub").public_data
    async with console.asyncssh() as connection:
        assert (await ask(connection, _PROVE, String(key) * 4_600))[0] == MSG_REQUEST_FAILURE
        assert (await ask(connection, _PROVE, String(b"none")))[0] == MSG_REQUEST_FAILURE
        first, again = await asyncio.gather(*(ask(connection, _PROVE, String(key)) for _ in range(2)))
        assert first[0] == again[0] == MSG_REQUEST_SUCCESS
        before = cpu_seconds(console)
        await asyncio.gather(*(ask(connection, _PROVE, String(key)) for _ in range(2_000)))
        asked = cpu_seconds(console) - before
        before = cpu_seconds(console)
        await asyncio.gather(*(ask(connection, "keepalive@openssh.com") for _ in range(2_000)))
        assert asked < 3 * (cpu_seconds(console) - before) + 0.5


@pytest.mark.slow
@pytest.mark.parametrize("request_name", ["tcpip-forward", "streamlocal-forward@openssh.com"])
async def test_attack_requests_to_listen_come_faster_than_they_are_refused(
    console: ConsoleServer, request_name: str
) -> None:
    """A task refused each request and the queue behind it grew by 13 MB a second."""
    where = String("x" * 2_000) + (UInt32(80) if request_name == "tcpip-forward" else b"")
    async with console.asyncssh() as connection:
        before = resident_megabytes(console)
        for _ in range(200):
            for _ in range(100):
                connection.send_packet(MSG_GLOBAL_REQUEST, String(request_name), Boolean(False), where)  # noqa: FBT003
            await asyncio.sleep(0)
        console_answers = ask(connection, "keepalive@openssh.com")
        while not console_answers.done():
            assert resident_megabytes(console) - before < 15
            await asyncio.sleep(0.01)


def _unread_bytes(console: ConsoleServer, connection: asyncssh.SSHClientConnection) -> int:
    """Return how many bytes of a client the server has not read: in the client's buffer, and in the server's socket.

    Source of the columns: proc_net_tcp of the Linux kernel's documentation.
    """
    transport = connection._transport  # noqa: SLF001
    assert transport is not None
    ports = (console.port, connection.get_extra_info("sockname")[1])
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if tuple(int(each.partition(":")[2], 16) for each in (local, remote)) == ports:
            return transport.get_write_buffer_size() + int(queues.partition(":")[2], 16)
    raise AssertionError(ports)


@pytest.mark.slow
@pytest.mark.timeout(300)  # 120,000 replies: the test's own client needs most of the time
async def test_attack_requests_with_unread_replies(console: ConsoleServer) -> None:
    """Unread replies once accumulated. Now the client must read some before it may ask for more."""
    async with console.asyncssh() as connection, console.asyncssh() as other:
        # the kernel's buffers alone would hold the replies
        connection.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        before = resident_megabytes(console)
        async with _asleep(connection):
            waiting = [ask(connection, "keepalive@openssh.com") for _ in range(120_000)]
            sizes = [-1, _unread_bytes(console, connection)]
            while sizes[-1] != sizes[-20:][0] or len(sizes) < 20:  # the server reads no more
                assert (await other.run("whoami")).exit_status == 0
                sizes.append(_unread_bytes(console, connection))
            assert sizes[-1] > 0
            assert resident_megabytes(console) - before < 25
        answers = await asyncio.gather(*waiting)
        assert {kind for kind, _ in answers} == {MSG_REQUEST_SUCCESS}


async def test_attack_a_key_exchange_that_never_ends(console: ConsoleServer) -> None:
    """Packets wait for the end of a key exchange, and once there was no limit to them."""
    async with console.asyncssh() as connection:
        connection._send_kexinit()  # noqa: SLF001
        connection._process_kexinit = None  # type: ignore[method-assign,assignment]  # noqa: SLF001
        connection._packet_handlers = {20: lambda *_: None}  # noqa: SLF001
        connection._kex_complete = True  # noqa: SLF001  so that packets go out all the same
        for _ in range(3_000):
            ask(connection, "keepalive@openssh.com")
        assert await asyncio.to_thread(console.logs, "has left: Too many requests during a key exchange")


async def test_attack_packets_of_one_byte(console: ConsoleServer) -> None:
    """A reply of 30 KB became 30,000 packets, all made in one turn of the event loop."""
    async with console.asyncssh() as connection, console.asyncssh() as other:
        channel = await raw_channel(connection, packet_bytes=1)
        before = cpu_seconds(console)
        assert await channel._make_request(b"exec", String("echo " + "x" * 60_000))  # noqa: SLF001
        channel.resume_reading()
        assert (await other.run("whoami")).exit_status == 0
        await channel.wait_closed()
        assert cpu_seconds(console) - before < 1


async def test_attack_keys_without_a_line_end_with_unread_echo(console: ConsoleServer) -> None:
    """No session waits for the echo to drain, so the unread echo of a client once grew without limit."""
    async with console.asyncssh(username="admin+plain") as connection, console.asyncssh() as other:
        process = await connection.create_process(term_type="dumb", encoding=None)
        await process.stdout.readuntil(b"$ ")
        before = resident_megabytes(console)
        async with _asleep(connection):
            for _ in range(200):  # 12 MB, each letter with an echo of four
                process.stdin.write((b"x" * 100 + b"\x08" * 100) * 300)
                assert (await other.run("whoami")).exit_status == 0
            grown = resident_megabytes(console) - before
        assert grown < 40
        connection.abort()


async def test_attack_sessions_of_one_user_on_many_connections(stopped_console: ConsoleServer) -> None:
    """Sessions were limited for each connection only, and a user may have a thousand connections."""
    start(stopped_console, max_sessions_per_user=6, max_sessions=4)
    async with stopped_console.asyncssh() as one, stopped_console.asyncssh() as other:
        opened = [await connection.create_process(term_type="dumb") for connection in (one, other) for _ in range(3)]
        with pytest.raises(asyncssh.ChannelOpenError, match=r"of admin: 6 are allowed \(max_sessions_per_user\)"):
            await one.create_process(term_type="dumb")
        opened[0].stdin.write("exit\n")
        await opened[0].wait()
        assert await _run_when_there_is_room(other) == 0


async def _run_when_there_is_room(connection: asyncssh.SSHClientConnection) -> int | None:
    """Run a command once the server has noticed the close of a session."""
    while True:
        with suppress(asyncssh.ChannelOpenError):
            return (await connection.run("whoami")).exit_status
        await asyncio.sleep(0)
