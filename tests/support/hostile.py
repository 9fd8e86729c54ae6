"""Clients that send hostile input before and after the login, and the server's cost for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
from asyncssh import auth
from asyncssh.constants import MSG_GLOBAL_REQUEST, MSG_USERAUTH_REQUEST
from asyncssh.packet import Boolean, SSHPacket, String, UInt32
from console import ConsoleServer


def cpu_seconds(console: ConsoleServer) -> float:
    """Return the CPU time that the server has used."""
    assert console.process is not None
    fields = Path(f"/proc/{console.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_megabytes(console: ConsoleServer) -> float:
    """Return the memory that the server holds."""
    assert console.process is not None
    pages = int(Path(f"/proc/{console.process.pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024**2


class Stranger(asyncssh.SSHClientConnection):
    """A client with session keys and no login method of its own: the test sends the packets.

    `failures` counts the refusals. `ready` is set when a login may begin, `gone` when the connection has ended.
    """

    def __init__(self, options: asyncssh.SSHClientConnectionOptions) -> None:
        """Take asyncssh's options."""
        super().__init__(asyncio.get_running_loop(), options)
        self.failures = 0
        self.failed = asyncio.Event()
        self.ready = asyncio.Event()
        self.gone = asyncio.Event()
        self.ended_by: Exception | None = None

    def try_next_auth(self, *, next_method: bool = False) -> None:  # noqa: ARG002  asyncssh's signature
        """Leave the next step to the test."""
        if self.ready.is_set():
            self.failures += 1
            self.failed.set()
        self.ready.set()

    def _process_userauth_failure(self, _type: int, _id: int, _packet: object) -> None:
        self.try_next_auth()

    _packet_handlers = {  # noqa: RUF012  asyncssh's table
        **asyncssh.SSHClientConnection._packet_handlers,  # noqa: SLF001
        51: _process_userauth_failure,
    }

    def _cleanup(self, exc: Exception | None) -> None:
        self.ended_by = exc
        self.ready.set()
        self.failed.set()
        self.gone.set()
        super()._cleanup(exc)

    def log_in(self, name: str | bytes, method: str, *fields: bytes) -> None:
        """Send one authentication request."""
        self.send_packet(MSG_USERAUTH_REQUEST, String(name), String("ssh-connection"), String(method), b"".join(fields))

    def give_password(self, name: str | bytes, password: str | bytes) -> None:
        """Send one password."""
        self.log_in(name, "password", Boolean(False), String(password))  # noqa: FBT003  as the protocol has it

    def offer(self, name: str, algorithm: str, key: bytes) -> None:
        """Offer one key or certificate, without a signature."""
        self.log_in(name, "publickey", Boolean(False), String(algorithm), String(key))  # noqa: FBT003

    async def answer(self, name: str, answer: bytes) -> None:
        """Answer the keyboard-interactive question once the server has asked it."""
        questions = _Questions(self)
        self._auth = questions
        self.log_in(name, "keyboard-interactive", String(""), String(""))
        await asyncio.wait_for(questions.asked.wait(), 60)
        self.send_packet(61, UInt32(1), String(answer))

    async def refused(self) -> None:
        """Wait for the next refusal."""
        self.failed.clear()
        await asyncio.wait_for(self.failed.wait(), 60)


class _Questions(auth.ClientAuth):
    """Replaces an authentication method, and reports when the server has asked a question."""

    def __init__(self, client: Stranger) -> None:
        self.asked = asyncio.Event()
        super().__init__(client, b"keyboard-interactive")

    async def _start(self) -> None:
        """Leave the request to the test."""

    def process_packet(self, pkttype: int, pktid: int, packet: SSHPacket) -> bool:  # noqa: ARG002
        self.asked.set()
        return True


@asynccontextmanager
async def stranger(console: ConsoleServer, source: str = "127.0.0.2", **more: object) -> AsyncIterator[Stranger]:
    """Give a connection before the login; `more` are options of asyncssh."""
    options = asyncssh.SSHClientConnectionOptions(
        username="nobody", client_keys=None, known_hosts=None, agent_path=None, config=None, **more
    )
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(
        lambda: Stranger(options), "127.0.0.1", console.port, local_addr=(source, 0)
    )
    try:
        await asyncio.wait_for(client.ready.wait(), 60)
        yield client
    finally:
        client.abort()


async def raw_channel(
    connection: asyncssh.SSHClientConnection, window: int = 2**21, packet_bytes: int = 32768
) -> asyncssh.SSHClientChannel[bytes]:
    """Open a session channel without a request."""
    channel: asyncssh.SSHClientChannel[bytes] = asyncssh.SSHClientChannel(
        connection, asyncio.get_running_loop(), "strict", None, "strict", window, packet_bytes
    )
    session: asyncssh.SSHClientSession[bytes] = asyncssh.SSHClientSession()
    await channel._open(b"session")  # noqa: SLF001  what a client's session does first
    channel._session = session  # noqa: SLF001
    return channel


def ask(connection: asyncssh.SSHClientConnection, request: str, *fields: bytes) -> asyncio.Future[tuple[int, object]]:
    """Send a global request; return a future of its reply."""
    reply: asyncio.Future[tuple[int, object]] = asyncio.get_running_loop().create_future()
    connection._global_request_waiters.append(reply)  # type: ignore[arg-type]  # noqa: SLF001
    connection.send_packet(MSG_GLOBAL_REQUEST, String(request), Boolean(True), *fields)  # noqa: FBT003
    return reply
