"""One client, from its first byte to its last: it proves who it is, then asks for channels."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from dataclasses import dataclass, field

import asyncssh

from server.audit.journal import Journal, utc_now
from server.audit.refusals import Refusals
from server.auth.admission import Admission
from server.auth.keys import fingerprint
from server.auth.login import Doorkeeper
from server.auth.tries import Tries
from server.commands.call import Console
from server.config import Limits
from server.model.access import Operator, User
from server.model.events import Event, EventKind
from server.model.refusals import Parting, Refusal
from server.shell.options import split_login_name
from server.transport.channel import ConsoleChannel, Looks
from server.transport.gate import Doorway, TooMuchBeforeLoginError, peer_address

_MOST_LOGGED_CHARACTERS = 64

_log = logging.getLogger("ecss-console.login")


@dataclass
class Shared:
    """What all connections share."""

    console: Console
    doorkeeper: Doorkeeper
    banner: str
    looks: Looks
    limits: Limits
    admission: Admission
    refusals: Refusals
    doorways: dict[int, Doorway] = field(default_factory=dict)
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
        self._address = ""
        self._doorway: Doorway
        self._greeted = False
        self._tries = Tries(shared.limits.max_auth_tries)
        self._given_up = False
        self._parting: Parting | None = Parting.NO_AUTH
        self._grace: asyncio.TimerHandle | None = None
        self._open_channels = 0

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """The client has connected."""
        self._connection = conn
        peer = conn.get_extra_info("peername")
        self._address = peer_address(peer)
        self._source = f"{peer[0]}:{peer[1]}"
        self._doorway = self._shared.doorways.pop(conn.get_extra_info("socket").fileno())
        self._shared.connections.add(conn)
        grace_seconds = self._shared.limits.login_grace_time
        if grace_seconds:  # asyncssh's own timer does not tell us that it was the reason
            self._grace = asyncio.get_running_loop().call_later(grace_seconds, self._grace_exceeded)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        if isinstance(exc, TooMuchBeforeLoginError):
            self._parting = Parting.FLOODED
            self._shared.refusals.refuse(Refusal.LOGIN_BYTES, self._address)
        elif self._parting is Parting.NO_AUTH and self._tries.any_failed:
            self._parting = Parting.AUTH_FAILED
        self._shared.connections.discard(self._connection)
        self._end_grace()
        if self._operator is None:
            self._shared.admission.turn_away(self._address, self._parting, time.monotonic())
        else:
            self._shared.admission.leave(self._address, self._operator.name)
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
        if not self._begin_try():
            return False
        self._proved = await self._shared.doorkeeper.by_password(name, password)
        self._method = "password"
        if self._proved is None:
            _log.warning("login of %s from %s failed by password", _safe(name), self._source)
            self._record(EventKind.LOGIN_FAILED, _safe(name), "password", status=1)
            self._try_failed()
        return self._proved is not None

    async def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Tell whether the key opens; that the client holds it is checked by the protocol."""
        name, _ = split_login_name(username)
        if not self._begin_try():
            return False
        public_key = " ".join(key.export_public_key("openssh").decode().split()[:2])
        self._proved = await self._shared.doorkeeper.by_public_key(name, public_key)
        self._method = f"key {fingerprint(public_key)}"
        if self._proved is None or not self._tries.accept(public_key):
            self._try_failed()
        return self._proved is not None

    def auth_completed(self) -> None:
        """Make the operator of whoever has proved who they are."""
        name, self._login_options = split_login_name(str(self._connection.get_extra_info("username")))
        if self._proved is None or self._proved.name != name:  # a defect would be a way in: end it here
            self._connection.abort()
            return
        self._end_grace()
        refusal = self._shared.admission.log_in(self._address, name)
        if refusal is not None:
            self._parting = None
            self._shared.refusals.refuse(refusal, self._address, name)
            most = self._shared.limits.max_sessions_per_user
            message = f"Too many connections of {name}: {most} are allowed ({refusal.value})"
            self._connection.disconnect(asyncssh.DISC_TOO_MANY_CONNECTIONS, message)
            return
        self._doorway.open()
        session_id = secrets.token_hex(4)
        self._operator = Operator(name, self._proved.role, self._source, session_id)
        self._record(EventKind.LOGIN, name, self._method)
        _log.info("%s from %s has logged in by %s", name, self._operator.source, self._method)

    def session_requested(self) -> ConsoleChannel | bool:
        """Give a channel, not while stopping."""
        if self._operator is None or self._shared.stopping:
            return False
        most = self._shared.limits.max_sessions
        if self._open_channels >= most:
            self._shared.refusals.refuse(Refusal.CHANNELS, self._address, self._operator.name)
            message = f"too many sessions on this connection: {most} are allowed ({Refusal.CHANNELS.value})"
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, message)
        channel = ConsoleChannel(
            self._shared.console, self._operator, self._shared.channels, self._login_options, self._shared.looks
        )
        self._open_channels += 1
        channel.on_closed = self._channel_closed
        return channel

    def _channel_closed(self) -> None:
        self._open_channels -= 1

    def _begin_try(self) -> bool:
        """Count a try to log in; False when none is left: the client is on its way out."""
        begun = self._tries.begin()
        if not begun:
            self._try_failed()
        return begun

    def _try_failed(self) -> None:
        """Send the client away after its last try, as sshd does."""
        if self._tries.spent and not self._given_up:
            self._given_up = True
            self._shared.refusals.refuse(Refusal.AUTH_TRIES, self._address)
            self._connection.disconnect(asyncssh.DISC_PROTOCOL_ERROR, "Too many authentication failures")

    def _grace_exceeded(self) -> None:
        self._grace = None
        self._parting = Parting.GRACE_EXCEEDED
        self._shared.refusals.refuse(Refusal.GRACE_TIME, self._address)
        self._connection.abort()

    def _end_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def _record(self, kind: EventKind, name: str, detail: str = "", *, status: int = 0) -> None:
        journal: Journal = self._shared.console.journal
        session_id = self._operator.session_id if self._operator else ""
        node = self._shared.console.node_name
        journal.record_soon(Event(kind, utc_now(), node, name, self._source, session_id, status=status, detail=detail))


def _safe(name: str) -> str:
    """Return a name that somebody made up, fit for a line of the log."""
    return ascii(name[:_MOST_LOGGED_CHARACTERS])[1:-1]
