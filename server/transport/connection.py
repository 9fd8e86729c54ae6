"""The connection of one client: adapts asyncssh to `LoginAttempt` and `ServerState`."""

from __future__ import annotations

import asyncio
import errno
import secrets
from collections.abc import Sequence
from datetime import datetime
from time import monotonic
from typing import cast

import asyncssh

from server.auth.credentials import AuthResult, OfferedKey, Questions
from server.auth.login_attempt import LoginAttempt
from server.model.access import Operator
from server.model.integrations import without_keys
from server.model.refusals import DisconnectReason, Refusal
from server.model.sessions import OpenSession
from server.model.shutdown import Shutdown
from server.shell.options import split_login_name
from server.transport.asyncssh_overrides.connection import ServerConnection
from server.transport.certificate import Authorities, read_offered
from server.transport.channel import ConsoleChannel, ShellSettings
from server.transport.connection_log import ConnectionLog
from server.transport.pre_auth import PreAuthSocket, TooMuchBeforeLoginError, peer_address
from server.transport.server_state import ServerState
from server.transport.unsent import UnsentOutput

#: asyncssh's form of a keyboard-interactive step: title, instruction, language, and the questions, each with a flag for
#: echo. A bool instead ends the method: True accepts the login.
_Challenge = bool | tuple[str, str, str, Sequence[tuple[str, bool]]]
_MOST_LOGGED_ALGORITHMS, _MOST_LOGGED_LIST = 32, 400
#: The time between the notice that a session is ended and the end of its connection.
_LAST_WORDS_SECONDS = 0.5
_MUST_CHANGE = "Your password must be changed: log in with the method keyboard-interactive, which asks for a new one.\n"
_NO_FORWARDING = "nothing is forwarded here"
_NOT_LOGGED_IN = "the client has not logged in"
#: The logged reason when TCP keepalive has found a dead peer.
_TIMED_OUT = "the client did not answer any more"


class Connection(asyncssh.SSHServer):
    """One client's connection. `channels` are the channels that have a session now."""

    def __init__(self, state: ServerState) -> None:
        """Take the state of the server. asyncssh calls `connection_made` next."""
        self.channels: set[ConsoleChannel] = set()
        self.ssh: ServerConnection
        self._state = state
        self._socket: PreAuthSocket
        self._attempt: LoginAttempt
        self._log: ConnectionLog
        self._operator: Operator | None = None
        self._login_options = ""
        self._address = self._source = ""
        self._banner_sent = self._told_to_change = False
        self._admitted_key: bytes | None = None
        self._ended: Shutdown | None = None
        self._refused = self._too_many_tries = False
        #: The reason for a penalty if the client leaves before the login; None for no penalty.
        self._disconnect_reason: DisconnectReason | None = DisconnectReason.NO_AUTH
        self._grace: asyncio.TimerHandle | None = None
        self._open_channels = 0
        self._since = datetime.now().astimezone()
        self._began = self._last_request = monotonic()

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """Start the login: its time limit and its limit of attempts."""
        self.ssh = cast("ServerConnection", conn)
        state, peer = self._state, conn.get_extra_info("peername")
        self._address = peer_address(peer)
        self._source = f"{peer[0]}:{peer[1]}"
        self._socket = state.pre_auth.pop(conn.get_extra_info("socket").fileno())
        self._log = ConnectionLog(state.services, self._source)
        self._attempt = LoginAttempt(
            state.services.authenticator, state.authorities, self._source, state.limits.max_auth_tries
        )
        state.connections.add(self)
        grace_seconds = state.limits.login_grace_time
        if grace_seconds:  # asyncssh's own timer does not report a timeout
            self._grace = asyncio.get_running_loop().call_later(grace_seconds, self._grace_exceeded)

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the resources of the connection, and record its end."""
        self._state.connections.discard(self)
        self._end_grace()
        if self._operator is None:
            self._record_rejected()
            self._state.admission.turn_away(self._address, self._reason_before_login(exc), monotonic())
            return
        self._state.admission.leave(self._address, self._operator.name)
        self._state.logins.remove(self._operator.session_id)
        self._log.logged_out(self._operator, self._why_left(exc))

    # ---- the login: asyncssh calls these methods, and the LoginAttempt decides

    async def begin_auth(self, username: str) -> bool:  # noqa: ARG002  asyncssh's signature
        """Send the banner, and require a login. asyncssh calls this again when the client gives another name."""
        banner = self._state.current.config.greeting.banner
        if banner and not self._banner_sent:
            self._banner_sent = True
            self.ssh.send_auth_banner(banner.rstrip("\n") + "\n")
        self._attempt.begin()
        return True

    def password_auth_supported(self) -> bool:
        """Offer the method `password`."""
        return True

    def kbdint_auth_supported(self) -> bool:
        """Offer `keyboard-interactive`: many clients prefer it, and it can change a password."""
        return True

    def public_key_auth_supported(self) -> bool:
        """Offer the method `publickey`."""
        return True

    async def validate_password(self, username: str, password: str) -> bool:
        """Check a password. A password that must be changed is not accepted by this method."""
        result = await self._attempt.password(split_login_name(username)[0], password)
        if result.must_change and not self._told_to_change:
            self._told_to_change = True
            self.ssh.send_auth_banner(_MUST_CHANGE)
        return self._accepts(result)

    async def change_password(self, username: str, old_password: str, new_password: str) -> bool:  # noqa: ARG002
        """Refuse to change a password in the method `password`, because libssh hangs and paramiko fails there."""
        return self._accepts(self._attempt.refuse_password_change(split_login_name(username)[0]))

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> _Challenge:  # noqa: ARG002
        """Ask for the password."""
        return _challenge(self._attempt.ask())

    async def validate_kbdint_response(self, username: str, responses: Sequence[str]) -> _Challenge:
        """Check the password, and ask for a new one if it must be changed."""
        reply = await self._attempt.answer(split_login_name(username)[0], responses)
        if isinstance(reply, Questions):
            self._end_exhausted()
            return _challenge(reply)
        return self._accepts(reply)

    async def admits_key(self, username: str, key_data: bytes) -> bool:
        """Tell whether asyncssh may decode a key or certificate.

        asyncssh never sees an unknown key, or a certificate of an unknown authority.
        """
        self._admitted_key = None
        self.ssh.set_authorized_keys(None)
        name, offered = split_login_name(username)[0], read_offered(key_data)
        if offered is None:
            self._attempt.refuse_unreadable_key()
            self._end_exhausted()
            return False
        if offered.authority is not None:
            return await self._admits_certificate(name, offered)
        if not self._accepts(await self._attempt.public_key(name, offered.public_key)):
            return False
        self._admitted_key = key_data
        return True

    async def _admits_certificate(self, name: str, offered: OfferedKey) -> bool:
        claimed = await self._attempt.certificate(name, offered)
        self._end_exhausted()
        self.ssh.set_authorized_keys(None if claimed is None else Authorities(self._attempt, claimed))
        return claimed is not None

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002  asyncssh's signature
        """Tell whether `admits_key` has admitted this key. asyncssh verifies the client's signature itself."""
        return self._admitted_key is not None and self._admitted_key == key.public_data

    def auth_completed(self) -> None:
        """Log the user in, unless a limit is reached or the server is stopping."""
        name, self._login_options = split_login_name(str(self.ssh.get_extra_info("username")))
        result = self._attempt.authenticated(name, certified=bool(self.ssh.get_key_option("principals")))
        if result is None or result.user is None:  # a defect must not log anyone in
            self.ssh.abort()
            return
        self._end_grace()
        self._record_rejected()
        state = self._state
        if state.shutdown is not None:  # the login began before the shutdown
            self._disconnect_reason = None
            self.ssh.disconnect(asyncssh.DISC_SERVICE_NOT_AVAILABLE, state.shutdown.sentence)
            return
        refusal = state.admission.log_in(self._address, name)
        if refusal is not None:
            self._disconnect_reason = None
            state.refusals.refuse(refusal, self._address, name)
            most = state.limits.max_sessions_per_user
            message = f"Too many connections of {name}: {most} are allowed ({refusal.value})"
            self.ssh.disconnect(asyncssh.DISC_TOO_MANY_CONNECTIONS, message)
            return
        self._socket.open()
        session_id = secrets.token_hex(4)
        self._operator = Operator(name, result.user.role, self._source, session_id, added_at=result.user.added_at)
        self.ssh.payer = name
        self.ssh.unsent = state.unsent.setdefault(name, UnsentOutput())
        state.logins.add(session_id, self)
        self._log.logged_in(self._operator, result)

    def _accepts(self, result: AuthResult) -> bool:
        """Record a failure, and tell whether the user may log in."""
        if result.recorded_at_once:
            self._log.login_failed(result)
        self._end_exhausted()
        return result.user is not None

    def _end_exhausted(self) -> None:
        """Disconnect after the last allowed attempt, as sshd does, and when the store does not answer."""
        why = self._attempt.why_not_checked
        if why and self._disconnect_reason is not None:
            self._disconnect_reason = None  # no penalty: a failover of the database is not the client's fault
            self.ssh.disconnect(asyncssh.DISC_SERVICE_NOT_AVAILABLE, f"temporary locked: {why}")
            return
        if self._attempt.exhausted and not self._too_many_tries:
            self._too_many_tries = True
            self._state.refusals.refuse(Refusal.AUTH_TRIES, self._address)
            self.ssh.disconnect(asyncssh.DISC_PROTOCOL_ERROR, "Too many authentication failures")

    def _record_rejected(self) -> None:
        for result in self._attempt.rejected.take():
            self._log.login_failed(result)

    def _grace_exceeded(self) -> None:
        self._grace = None
        self._disconnect_reason = DisconnectReason.GRACE_EXCEEDED
        self._state.refusals.refuse(Refusal.GRACE_TIME, self._address)
        self.ssh.abort()

    def _end_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    # ---- channels

    def session_requested(self) -> ConsoleChannel | bool:
        """Open a channel, unless the server is stopping or a limit is reached. Raises ChannelOpenError."""
        shutdown = self.shutdown
        if self._operator is None or shutdown is not None:
            message = _NOT_LOGGED_IN if shutdown is None else shutdown.sentence
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, message)
        self._check_session_limits(self._operator.name)
        config = self._state.current.config
        settings = ShellSettings(config.greeting.motd, config.prompt.colour)
        channel = ConsoleChannel(self, self._state.services, self._operator, self._login_options, settings)
        self._last_request = monotonic()
        self._open_channels += 1
        self._state.sessions[self._operator.name] += 1
        return channel

    def _check_session_limits(self, name: str) -> None:
        """Raise ChannelOpenError when this connection or its user has as many sessions as allowed."""
        limits, open_of_user = self._state.limits, self._state.sessions[name]
        if self._open_channels >= limits.max_sessions:
            refusal, where, most = Refusal.CHANNELS, "on this connection", limits.max_sessions
        elif open_of_user >= limits.max_sessions_per_user:
            refusal, where, most = Refusal.USER_SESSIONS, f"of {name}", limits.max_sessions_per_user
        else:
            return
        self._state.refusals.refuse(refusal, self._address, name)
        message = f"too many sessions {where}: {most} are allowed ({refusal.value})"
        raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, message)

    def channel_closed(self) -> None:
        """Count a channel as closed."""
        self._open_channels -= 1
        self._state.sessions[self.operator.name] -= 1
        self._last_request = monotonic()

    def subsystem_refused(self, name: str) -> None:
        """Record the request for a subsystem."""
        self._note_refusal(Refusal.SUBSYSTEM, name)

    @property
    def shutdown(self) -> Shutdown | None:
        """The reason why no session may begin, even on an open channel; None while sessions may begin."""
        return self._ended or self._state.shutdown

    # ---- refused requests

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:  # noqa: ARG002
        """Refuse to forward a connection."""
        return self._refuse_forwarding(f"direct-tcpip to {dest_host}:{dest_port}")

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        """Refuse to listen for the client."""
        self._note_refusal(Refusal.FORWARDING, f"tcpip-forward of {listen_host or 'all addresses'}:{listen_port}")
        return False

    def unix_connection_requested(self, dest_path: str) -> bool:
        """Refuse to forward a connection to a socket."""
        return self._refuse_forwarding(f"direct-streamlocal to {dest_path}")

    def unix_server_requested(self, listen_path: str) -> bool:
        """Refuse to listen for the client."""
        self._note_refusal(Refusal.FORWARDING, f"streamlocal-forward of {listen_path}")
        return False

    def tun_requested(self, unit: int | None) -> bool:
        """Refuse a tunnel."""
        return self._refuse_forwarding(f"tunnel of IP packets, unit {unit}")

    def tap_requested(self, unit: int | None) -> bool:
        """Refuse a tunnel."""
        return self._refuse_forwarding(f"tunnel of Ethernet frames, unit {unit}")

    def _refuse_forwarding(self, what: str) -> bool:
        self._note_refusal(Refusal.FORWARDING, what)
        raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, _NO_FORWARDING)

    def _note_refusal(self, refusal: Refusal, what: str) -> None:
        self._state.refusals.refuse(refusal, self._address, self.operator.name, without_keys(what))

    def negotiation_failed(self, kind: str, ours: Sequence[bytes], theirs: Sequence[bytes]) -> None:
        """Record that client and server have no common algorithm of one kind."""
        lists = [_listed(each) for each in (theirs, ours)]
        what = "no common {} algorithm; the client has {}; the console has {}".format(kind, *lists)
        self._refused = True
        self._state.refusals.refuse(Refusal.NEGOTIATION, self._address, what=what)

    # ---- the open login: see the protocol `Login`

    @property
    def logged_in(self) -> bool:
        """Whether the client has logged in."""
        return self._operator is not None

    @property
    def operator(self) -> Operator:
        """The user who has logged in. Raises ValueError before the login."""
        if self._operator is None:
            raise ValueError(_NOT_LOGGED_IN)
        return self._operator

    def described(self) -> OpenSession:
        """Return the row of `session/list` for this login."""
        idle = [channel.idle_seconds for channel in self.channels]
        busy = any(each is None for each in idle)
        quiet_seconds = min((each for each in idle if each is not None), default=monotonic() - self._last_request)
        who = self.operator
        shown_idle = None if busy else quiet_seconds
        return OpenSession(who.session_id, who.name, who.role, who.source, self._since, shown_idle, len(self.channels))

    def open_seconds(self) -> float:
        """Return how long ago the client connected."""
        return monotonic() - self._began

    def tell(self, text: str) -> None:
        """Show a line to people at the prompt."""
        for channel in self.channels:
            channel.tell(text)

    def end(self, shutdown: Shutdown) -> None:
        """Interrupt the running commands, show the client the reason, and disconnect."""
        if self._ended is not None:
            return
        self._ended = shutdown
        self._log.killed(self.operator, shutdown.sentence)
        for channel in [*self.channels]:
            channel.stop(shutdown, now=True)
        asyncio.get_running_loop().call_later(
            _LAST_WORDS_SECONDS, self.ssh.disconnect, asyncssh.DISC_BY_APPLICATION, shutdown.sentence
        )

    # ---- the reason of the end

    def _reason_before_login(self, exc: Exception | None) -> DisconnectReason | None:
        """Return the reason of a disconnect before the login, or None for no penalty."""
        if isinstance(exc, TooMuchBeforeLoginError):
            self._state.refusals.refuse(Refusal.LOGIN_BYTES, self._address)
            return DisconnectReason.FLOODED
        reason = self._disconnect_reason
        if self.ssh.ended_because and not (self._refused or self._too_many_tries) and reason is not None:
            self._state.refusals.refuse(Refusal.PROTOCOL, self._address, what=self.ssh.ended_because)
        if reason is DisconnectReason.NO_AUTH and self._attempt.any_failed:
            return DisconnectReason.AUTH_FAILED
        return reason

    def _why_left(self, exc: Exception | None) -> str:
        """Return why the console ended the connection, or an empty text when the client ended it."""
        if self.shutdown is not None:
            return self.shutdown.sentence
        if isinstance(exc, OSError) and exc.errno == errno.ETIMEDOUT:
            return _TIMED_OUT
        return self.ssh.ended_because


def _challenge(asked: Questions) -> _Challenge:
    return "", asked.instruction, "", [(question, False) for question in asked.questions]


def _listed(algorithms: Sequence[bytes]) -> str:
    """Return a list of algorithms as text, shortened for a log line."""
    text = b",".join(algorithms[:_MOST_LOGGED_ALGORITHMS]).decode("ascii", "replace")
    return text[:_MOST_LOGGED_LIST] or "none"
