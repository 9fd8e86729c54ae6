"""The SSH server: who may log in, with which algorithms, and how it ends without cutting anyone off."""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass, field

import asyncssh

from server.audit.journal import Journal, utc_now
from server.auth.keys import fingerprint
from server.auth.login import Doorkeeper
from server.commands.call import Console
from server.config import Config
from server.model.access import Operator, User
from server.model.events import Event, EventKind
from server.shell.options import split_login_name
from server.transport.channel import ConsoleChannel, Looks
from server.transport.quiet import quieten

#: `curve25519-sha256` first: dropbear guesses it, and is disconnected when the guess is wrong.
_KEX = ("curve25519-sha256", "curve25519-sha256@libssh.org", "mlkem768x25519-sha256")
#: chacha20-poly1305 costs twice the CPU here, but dropbear has no other AEAD: offered last.
_CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes256-ctr",
    "aes128-ctr",
    "chacha20-poly1305@openssh.com",
)
_MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")
_SIGNATURES = (
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
_BACKLOG = 1024
_STOPPING = "\nThe console is stopping; log in again later.\n"
#: Together with the journal's last batch these stay below the promised 5 seconds.
_DRAIN_SECONDS = 2.5
_INTERRUPT_SECONDS = 0.5
_CLOSE_SECONDS = 0.7
_MOST_LOGGED_CHARACTERS = 64

_log = logging.getLogger("ecss-console.login")


@dataclass
class _Shared:
    """What all connections share."""

    console: Console
    doorkeeper: Doorkeeper
    banner: str
    looks: Looks
    channels: set[ConsoleChannel] = field(default_factory=set)
    connections: set[asyncssh.SSHServerConnection] = field(default_factory=set)
    stopping: bool = False


class Listener:
    """The listening server; `start` it once, `stop` it once."""

    def __init__(self, console: Console, doorkeeper: Doorkeeper, config: Config) -> None:
        """Take what the sessions share."""
        looks = Looks(config.greeting.motd, config.prompt.colour)
        self._config = config
        self._shared = _Shared(console, doorkeeper, config.greeting.banner, looks)
        self._acceptor: asyncssh.SSHAcceptor | None = None

    async def start(self, host_key: asyncssh.SSHKey) -> int:
        """Listen; return the port, which is the configured one unless that is 0. Raises OSError."""
        quieten()
        config = self._config
        logging.getLogger("asyncssh").setLevel(logging.WARNING)
        self._acceptor = await asyncssh.create_server(
            lambda: _Connection(self._shared),
            config.listen.host,
            config.listen.port,
            server_host_keys=[host_key],
            server_version="ecss-console",
            encoding=None,
            line_editor=False,
            login_timeout=config.limits.login_grace_time,
            keepalive_interval=config.keepalive.interval_seconds,
            keepalive_count_max=config.keepalive.count,
            kex_algs=_KEX,
            encryption_algs=_CIPHERS,
            mac_algs=_MACS,
            signature_algs=_SIGNATURES,
            compression_algs=("none",),
            gss_host=None,
            host_based_auth=False,
            agent_forwarding=False,
            x11_forwarding=False,
            allow_scp=False,
            backlog=_BACKLOG,
        )
        return self._acceptor.get_port()

    def held(self) -> tuple[int, int]:
        """Return how many connections and how many sessions are open."""
        return len(self._shared.connections), len(self._shared.channels)

    async def stop(self) -> None:
        """Let nobody in, let what runs end, tell the sessions, close; takes less than 5 seconds."""
        self._shared.stopping = True
        if self._acceptor is not None:
            self._acceptor.close()
        await self._end_sessions(_DRAIN_SECONDS, now=False)
        await self._end_sessions(_INTERRUPT_SECONDS, now=True)
        connections = [*self._shared.connections]
        for connection in connections:
            connection.close()
        if connections:
            await asyncio.wait(
                [asyncio.ensure_future(connection.wait_closed()) for connection in connections],
                timeout=_CLOSE_SECONDS,
            )
        for connection in [*self._shared.connections]:
            connection.abort()

    async def _end_sessions(self, seconds: float, *, now: bool) -> None:
        for channel in [*self._shared.channels]:
            channel.stop(_STOPPING, now=now)
        waited = 0.0
        while self._shared.channels and waited < seconds:
            await asyncio.sleep(0.02)
            waited += 0.02


class _Connection(asyncssh.SSHServer):
    """One client, from its first byte to its last: proves who it is, then asks for channels."""

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared
        self._connection: asyncssh.SSHServerConnection
        self._proved: User | None = None
        self._operator: Operator | None = None
        self._login_options = ""
        self._method = ""
        self._source = ""
        self._greeted = False

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        address, port = conn.get_extra_info("peername")[:2]
        self._source = f"{address}:{port}"
        self._shared.connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._shared.connections.discard(self._connection)
        if self._operator is not None:
            self._record(EventKind.LOGOUT, self._operator.name)
            _log.info("%s from %s has left", self._operator.name, self._operator.source)

    def begin_auth(self, username: str) -> bool:  # noqa: ARG002  everybody proves who they are
        if self._shared.banner and not self._greeted:
            self._greeted = True
            self._connection.send_auth_banner(self._shared.banner.rstrip("\n") + "\n")
        return True

    def password_auth_supported(self) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    async def validate_password(self, username: str, password: str) -> bool:
        name, _ = split_login_name(username)
        self._proved = await self._shared.doorkeeper.by_password(name, password)
        self._method = "password"
        if self._proved is None:
            _log.warning("login of %s from %s failed by password", _safe(name), self._source)
            self._record(EventKind.LOGIN_FAILED, _safe(name), "password", status=1)
        return self._proved is not None

    async def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        name, _ = split_login_name(username)
        public_key = " ".join(key.export_public_key("openssh").decode().split()[:2])
        self._proved = await self._shared.doorkeeper.by_public_key(name, public_key)
        self._method = f"key {fingerprint(public_key)}"
        return self._proved is not None

    def auth_completed(self) -> None:
        name, self._login_options = split_login_name(str(self._connection.get_extra_info("username")))
        if self._proved is None or self._proved.name != name:  # a defect would be a way in: end it here
            self._connection.abort()
            return
        session_id = secrets.token_hex(4)
        self._operator = Operator(name, self._proved.role, self._source, session_id)
        self._record(EventKind.LOGIN, name, self._method)
        _log.info("%s from %s has logged in by %s", name, self._operator.source, self._method)

    def session_requested(self) -> ConsoleChannel | bool:
        if self._operator is None or self._shared.stopping:
            return False
        return ConsoleChannel(
            self._shared.console, self._operator, self._shared.channels, self._login_options, self._shared.looks
        )

    def _record(self, kind: EventKind, name: str, detail: str = "", *, status: int = 0) -> None:
        journal: Journal = self._shared.console.journal
        session_id = self._operator.session_id if self._operator else ""
        node = self._shared.console.node_name
        journal.record_soon(Event(kind, utc_now(), node, name, self._source, session_id, status=status, detail=detail))


def _safe(name: str) -> str:
    """Return a name that somebody made up, fit for a line of the log."""
    return ascii(name[:_MOST_LOGGED_CHARACTERS])[1:-1]
