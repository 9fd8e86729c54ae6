"""One client, from its first byte to its last: it proves who it is, then asks for channels."""

from __future__ import annotations

import logging
import secrets
import socket
from contextlib import suppress
from dataclasses import dataclass, field

import asyncssh

from server.audit.journal import Journal, utc_now
from server.auth.keys import fingerprint
from server.auth.login import Doorkeeper
from server.commands.call import Console
from server.model.access import Operator, User
from server.model.events import Event, EventKind
from server.shell.options import split_login_name
from server.transport.channel import ConsoleChannel, Looks

_MOST_LOGGED_CHARACTERS = 64
#: asyncssh works through all that it has received before it turns to anybody else, and copies what is left for every
#: packet: a quarter of a megabyte of the smallest packets, before any login, stopped everybody for a tenth of a second
#: and more, again and again. So the kernel hands over little at a time: enough for a login, later for what is pasted.
_RECEIVED_BEFORE_LOGIN_BYTES = 8 * 1024
_RECEIVED_AFTER_LOGIN_BYTES = 32 * 1024

_log = logging.getLogger("ecss-console.login")


@dataclass
class Shared:
    """What all connections share."""

    console: Console
    doorkeeper: Doorkeeper
    banner: str
    looks: Looks
    channels: set[ConsoleChannel] = field(default_factory=set)
    connections: set[asyncssh.SSHServerConnection] = field(default_factory=set)
    stopping: bool = False


class Connection(asyncssh.SSHServer):
    """One client, from its first byte to its last: proves who it is, then asks for channels."""

    def __init__(self, shared: Shared) -> None:
        """Take what all connections share."""
        self._shared = shared
        self._connection: asyncssh.SSHServerConnection
        self._proved: User | None = None
        self._operator: Operator | None = None
        self._login_options = ""
        self._method = ""
        self._source = ""
        self._greeted = False

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """The client has connected."""
        self._connection = conn
        _receive_at_most(conn, _RECEIVED_BEFORE_LOGIN_BYTES)
        address, port = conn.get_extra_info("peername")[:2]
        self._source = f"{address}:{port}"
        self._shared.connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The client is gone."""
        self._shared.connections.discard(self._connection)
        if self._operator is not None:
            self._record(EventKind.LOGOUT, self._operator.name)
            _log.info("%s from %s has left", self._operator.name, self._operator.source)

    def begin_auth(self, username: str) -> bool:  # noqa: ARG002
        """Everybody proves who they are; the banner comes first."""
        if self._shared.banner and not self._greeted:
            self._greeted = True
            self._connection.send_auth_banner(self._shared.banner.rstrip("\n") + "\n")
        return True

    def password_auth_supported(self) -> bool:
        """Passwords are one way."""
        return True

    def public_key_auth_supported(self) -> bool:
        """Public keys are another."""
        return True

    async def validate_password(self, username: str, password: str) -> bool:
        """Let in whoever knows the password."""
        name, _ = split_login_name(username)
        self._proved = await self._shared.doorkeeper.by_password(name, password)
        self._method = "password"
        if self._proved is None:
            _log.warning("login of %s from %s failed by password", _safe(name), self._source)
            self._record(EventKind.LOGIN_FAILED, _safe(name), "password", status=1)
        return self._proved is not None

    async def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Tell whether the key opens; that the client holds it is checked by the protocol."""
        name, _ = split_login_name(username)
        public_key = " ".join(key.export_public_key("openssh").decode().split()[:2])
        self._proved = await self._shared.doorkeeper.by_public_key(name, public_key)
        self._method = f"key {fingerprint(public_key)}"
        return self._proved is not None

    def auth_completed(self) -> None:
        """Make the operator of whoever has proved who they are."""
        name, self._login_options = split_login_name(str(self._connection.get_extra_info("username")))
        if self._proved is None or self._proved.name != name:  # a defect would be a way in: end it here
            self._connection.abort()
            return
        _receive_at_most(self._connection, _RECEIVED_AFTER_LOGIN_BYTES)
        session_id = secrets.token_hex(4)
        self._operator = Operator(name, self._proved.role, self._source, session_id)
        self._record(EventKind.LOGIN, name, self._method)
        _log.info("%s from %s has logged in by %s", name, self._operator.source, self._method)

    def session_requested(self) -> ConsoleChannel | bool:
        """Give a channel, not while stopping."""
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


def _receive_at_most(connection: asyncssh.SSHServerConnection, count: int) -> None:
    """Have the kernel keep and hand over about so many bytes at a time; it is not told to a client that is gone."""
    with suppress(OSError):
        connection.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, count)


def _safe(name: str) -> str:
    """Return a name that somebody made up, fit for a line of the log."""
    return ascii(name[:_MOST_LOGGED_CHARACTERS])[1:-1]
