"""One client, from its first byte to its last: it proves who it is, then asks for channels."""

from __future__ import annotations

import asyncio
import errno
import logging
import secrets
from collections.abc import Sequence
from datetime import datetime
from time import monotonic
from typing import Any, cast

import asyncssh

from server.audit.journal import Journal, utc_now
from server.auth.tries import Tries
from server.log import about
from server.model.access import Operator
from server.model.events import Event, EventKind
from server.model.integrations import without_keys
from server.model.refusals import Parting, Refusal
from server.model.sessions import OpenSession
from server.model.shutdown import STOPPING, Shutdown
from server.shell.options import split_login_name
from server.transport.asyncssh_overrides.connection import ServerConnection
from server.transport.certificate import OfferedKey, read_offered
from server.transport.channel import ConsoleChannel, Looks
from server.transport.gate import Doorway, TooMuchBeforeLoginError, peer_address
from server.transport.offers import Offers, authority_of
from server.transport.proof import Challenge, Proof, Witness
from server.transport.shared import Shared
from server.transport.unsent import UnsentOutput

_MOST_LOGGED_CHARACTERS = 64
_MOST_LOGGED_ALGORITHMS, _MOST_LOGGED_LIST = 32, 400
#: What a session that is ended may take to say its parting words before its connection is closed.
_PARTING_SECONDS = 0.5
_MUST_CHANGE = "Your password must be changed: log in with the method keyboard-interactive, which asks for a new one.\n"
_NO_FORWARDING = "nothing is forwarded here"
#: The console's own reasons to end a connection are sentences; this one is the kernel's, for a peer that is gone.
_TIMED_OUT = "the client did not answer any more"

_log = logging.getLogger("ecss-console.login")


class Connection(asyncssh.SSHServer):
    """One client. `channels` are those that have a session now."""

    def __init__(self, shared: Shared) -> None:
        """Take what all connections share."""
        self.channels: set[ConsoleChannel] = set()
        self.ssh: ServerConnection
        self._shared = shared
        tries = Tries(shared.limits.max_auth_tries)
        told = Witness(self._failed, self._give_up)
        self._offers = Offers()
        self._proof = Proof(shared.console.doorkeeper, shared.authorities, tries, told, self._offers)
        self._operator: Operator | None = None
        self._login_options = ""
        self._address = self._source = ""
        self._doorway: Doorway
        self._greeted = self._given_up = self._told_to_change = False
        self._admitted: bytes | None = None
        self._ended_by: Shutdown | None = None
        self._refused = False
        #: Why it is going when it has not logged in, if that is a reason for a penalty and known already.
        self._parting: Parting | None = Parting.NO_AUTH
        self._grace: asyncio.TimerHandle | None = None
        self._open_channels = 0
        self._since = datetime.now().astimezone()
        self._began = self._asked = monotonic()

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """The client has connected."""
        self.ssh = cast("ServerConnection", conn)
        peer = conn.get_extra_info("peername")
        self._address = peer_address(peer)
        self._source = f"{peer[0]}:{peer[1]}"
        self._doorway = self._shared.doorways.pop(conn.get_extra_info("socket").fileno())
        self._shared.clients.add(self)
        grace_seconds = self._shared.limits.login_grace_time
        if grace_seconds:  # asyncssh's own timer does not tell us that it was the reason
            self._grace = asyncio.get_running_loop().call_later(grace_seconds, self._grace_exceeded)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._shared.clients.discard(self)
        self._end_grace()
        if self._operator is None:
            self._tell_in_vain()
            self._shared.admission.turn_away(self._address, self._parted(exc), monotonic())
            return
        self._shared.admission.leave(self._address, self._operator.name)
        self._shared.logins.remove(self._operator.session_id)
        why = self._why_left(exc)
        self._record(EventKind.LOGOUT, self._operator.name, why)
        told, about_it = f": {why}" if why else "", self._about("logout", why=why)
        _log.info("%s from %s has left%s", self._operator.name, self._source, told, extra=about_it)

    async def begin_auth(self, username: str) -> bool:  # noqa: ARG002  asyncssh's signature
        """Everybody authenticates; the banner comes first. Called anew when the client gives another name."""
        banner = self._shared.current.config.greeting.banner
        if banner and not self._greeted:
            self._greeted = True
            self.ssh.send_auth_banner(banner.rstrip("\n") + "\n")
        self._proof.begin()
        return True

    def password_auth_supported(self) -> bool:
        """Passwords are one way."""
        return True

    def kbdint_auth_supported(self) -> bool:
        """Questions are asked too, as many clients prefer them, and a password can be changed so."""
        return True

    def public_key_auth_supported(self) -> bool:
        """Public keys are another way."""
        return True

    async def validate_password(self, username: str, password: str) -> bool:
        """Let in whoever knows the password, unless another one has to be set first."""
        verdict = await self._proof.password(split_login_name(username)[0], password, self._source)
        if verdict.must_change and not self._told_to_change:
            self._told_to_change = True
            self.ssh.send_auth_banner(_MUST_CHANGE)
        return verdict.user is not None

    async def change_password(self, username: str, old_password: str, new_password: str) -> bool:  # noqa: ARG002
        """Refuse: libssh hangs and paramiko breaks where the method `password` asks for another one."""
        self._proof.refuse_change(split_login_name(username)[0])
        return False

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> Challenge:  # noqa: ARG002
        """Ask for the password."""
        return self._proof.ask()

    async def validate_kbdint_response(self, username: str, responses: Sequence[str]) -> Challenge:
        """Judge the password, and ask for another where one has to be set."""
        return await self._proof.answer(split_login_name(username)[0], responses, self._source)

    async def admits_key(self, username: str, key_data: bytes) -> bool:
        """Tell whether asyncssh may decode a key or certificate. What no user or authority here has, it never sees."""
        self._admitted = None
        self.ssh.set_authorized_keys(None)
        name, offered = split_login_name(username)[0], read_offered(key_data)
        if offered is None:
            self._proof.no_key()
            return False
        if offered.authority is not None:
            return await self._admits_certificate(name, offered)
        if not await self._proof.public_key(name, offered.public_key, self._address):
            return False
        self._admitted = key_data
        return True

    async def _admits_certificate(self, name: str, offered: OfferedKey) -> bool:
        compared = await self._proof.certificate(name, offered)
        self.ssh.set_authorized_keys(compared)
        return compared is not None

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002  asyncssh's signature
        """Tell whether this is the key that was admitted; that the client holds it is checked by the protocol."""
        return self._admitted is not None and self._admitted == key.public_data

    def auth_completed(self) -> None:
        """Make the operator of whoever has proved who they are."""
        name, self._login_options = split_login_name(str(self.ssh.get_extra_info("username")))
        certified = bool(self.ssh.get_key_option("principals"))
        proved = self._proof.proved(name, authority_of(self.ssh) if certified else None)
        if proved is None:  # a defect would be a way in: end it here
            self.ssh.abort()
            return
        user, way = proved
        self._end_grace()
        self._offers.proved(name)
        self._tell_in_vain()
        if self._shared.stopping:  # it was on its way in when the end began
            self._parting = None
            self.ssh.disconnect(asyncssh.DISC_SERVICE_NOT_AVAILABLE, STOPPING.sentence)
            return
        refusal = self._shared.admission.log_in(self._address, name)
        if refusal is not None:
            self._parting = None
            self._shared.refusals.refuse(refusal, self._address, name)
            most = self._shared.limits.max_sessions_per_user
            message = f"Too many connections of {name}: {most} are allowed ({refusal.value})"
            self.ssh.disconnect(asyncssh.DISC_TOO_MANY_CONNECTIONS, message)
            return
        self._doorway.open()
        session_id = secrets.token_hex(4)
        self._operator = Operator(name, user.role, self._source, session_id, added_at=user.added_at)
        self.ssh.payer = name
        self.ssh.unsent = self._shared.unsent.setdefault(name, UnsentOutput())
        self._shared.logins.add(session_id, self)
        self._record(EventKind.LOGIN, name, way)
        self._shared.console.node.logins["accepted", _method(way)] += 1
        _log.info("%s from %s has logged in by %s", name, self._source, way, extra=self._about("login", method=way))

    def session_requested(self) -> ConsoleChannel | bool:
        """Give a channel, not while stopping."""
        shutdown = self._shutdown()
        if self._operator is None or shutdown is not None:
            message = shutdown.sentence if shutdown is not None else "nobody has logged in"
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, message)
        self._refuse_one_session_more(self._operator.name)
        config = self._shared.current.config
        looks = Looks(config.greeting.motd, config.prompt.colour)
        channel = ConsoleChannel(self._shared.console, self._operator, self.channels, self._login_options, looks)
        channel.on_subsystem = self._refuse_subsystem
        self._asked = monotonic()
        self._open_channels += 1
        self._shared.sessions[self._operator.name] += 1
        channel.on_closed, channel.shutdown = self._channel_closed, self._shutdown
        return channel

    def _refuse_one_session_more(self, name: str) -> None:
        """Raise ChannelOpenError where this connection, or its user, has as many sessions as are allowed."""
        limits, open_of_user = self._shared.limits, self._shared.sessions[name]
        if self._open_channels >= limits.max_sessions:
            refusal, where, most = Refusal.CHANNELS, "on this connection", limits.max_sessions
        elif open_of_user >= limits.max_sessions_per_user:
            refusal, where, most = Refusal.USER_SESSIONS, f"of {name}", limits.max_sessions_per_user
        else:
            return
        self._shared.refusals.refuse(refusal, self._address, name)
        message = f"too many sessions {where}: {most} are allowed ({refusal.value})"
        raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, message)

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:  # noqa: ARG002
        """Forward nothing."""
        return self._refuse_forwarding(f"direct-tcpip to {dest_host}:{dest_port}")

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        """Listen for nobody."""
        self._note_forwarding(f"tcpip-forward of {listen_host or 'all addresses'}:{listen_port}")
        return False

    def unix_connection_requested(self, dest_path: str) -> bool:
        """Forward nothing."""
        return self._refuse_forwarding(f"direct-streamlocal to {dest_path}")

    def unix_server_requested(self, listen_path: str) -> bool:
        """Listen for nobody."""
        self._note_forwarding(f"streamlocal-forward of {listen_path}")
        return False

    def tun_requested(self, unit: int | None) -> bool:
        """Tunnel nothing."""
        return self._refuse_forwarding(f"tunnel of IP packets, unit {unit}")

    def tap_requested(self, unit: int | None) -> bool:
        """Tunnel nothing."""
        return self._refuse_forwarding(f"tunnel of Ethernet frames, unit {unit}")

    def negotiation_failed(self, kind: str, ours: Sequence[bytes], theirs: Sequence[bytes]) -> None:
        """Tell that this client and the console have no algorithm of a kind in common."""
        lists = [_listed(each) for each in (theirs, ours)]
        what = "no common {} algorithm; the client has {}; the console has {}".format(kind, *lists)
        self._refused = True
        self._shared.refusals.refuse(Refusal.NEGOTIATION, self._address, what=what)

    def _refuse_forwarding(self, what: str) -> bool:
        self._note_forwarding(what)
        raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, _NO_FORWARDING)

    def _note_forwarding(self, what: str) -> None:
        self._shared.refusals.refuse(Refusal.FORWARDING, self._address, self.operator.name, without_keys(what))

    def _refuse_subsystem(self, name: str) -> None:
        self._shared.refusals.refuse(Refusal.SUBSYSTEM, self._address, self.operator.name, without_keys(name))

    @property
    def logged_in(self) -> bool:
        """Whether somebody has proved who they are."""
        return self._operator is not None

    @property
    def operator(self) -> Operator:
        """Who has logged in; raises ValueError before somebody has."""
        if self._operator is None:
            message = "nobody has logged in"
            raise ValueError(message)
        return self._operator

    def described(self) -> OpenSession:
        """Return what `session/list` shows of a client that has logged in."""
        idle = [channel.idle_seconds for channel in self.channels]
        busy = any(each is None for each in idle)
        quiet_seconds = min((each for each in idle if each is not None), default=monotonic() - self._asked)
        who = self.operator
        shown_idle = None if busy else quiet_seconds
        return OpenSession(who.session_id, who.name, who.role, who.source, self._since, shown_idle, len(self.channels))

    def open_seconds(self) -> float:
        """Return how long ago the client connected."""
        return monotonic() - self._began

    def tell(self, text: str) -> None:
        """Tell people at the prompts something."""
        for channel in self.channels:
            channel.tell(text)

    def end(self, shutdown: Shutdown) -> None:
        """Interrupt the running commands, tell the client why, and disconnect."""
        if self._ended_by is not None:
            return
        self._ended_by = shutdown
        self._record(EventKind.SESSION_KILLED, self.operator.name, shutdown.sentence)
        for channel in [*self.channels]:
            channel.stop(shutdown, now=True)
        disconnect, sentence = self.ssh.disconnect, shutdown.sentence
        asyncio.get_running_loop().call_later(_PARTING_SECONDS, disconnect, asyncssh.DISC_BY_APPLICATION, sentence)

    def _shutdown(self) -> Shutdown | None:
        """Return why no command may begin any more, not even on an open channel; None while commands may begin."""
        return self._ended_by or (STOPPING if self._shared.stopping else None)

    def _parted(self, exc: Exception | None) -> Parting | None:
        """Return how a client that has not logged in has ended."""
        if isinstance(exc, TooMuchBeforeLoginError):
            self._shared.refusals.refuse(Refusal.LOGIN_BYTES, self._address)
            return Parting.FLOODED
        if self.ssh.ended_because and not (self._refused or self._given_up) and self._parting is not None:
            self._shared.refusals.refuse(Refusal.PROTOCOL, self._address, what=self.ssh.ended_because)
        in_vain = self._parting is Parting.NO_AUTH and self._proof.any_failed
        return Parting.AUTH_FAILED if in_vain else self._parting

    def _why_left(self, exc: Exception | None) -> str:
        """Return why the console has ended the connection; empty when the client did."""
        shutdown = self._shutdown()
        if shutdown is not None:
            return shutdown.sentence
        if isinstance(exc, OSError) and exc.errno == errno.ETIMEDOUT:
            return _TIMED_OUT
        return self.ssh.ended_because

    def _channel_closed(self) -> None:
        self._open_channels -= 1
        self._shared.sessions[self.operator.name] -= 1
        self._asked = monotonic()

    def _give_up(self) -> None:
        """Send the client away after its last try, as sshd does."""
        if not self._given_up:
            self._given_up = True
            self._shared.refusals.refuse(Refusal.AUTH_TRIES, self._address)
            self.ssh.disconnect(asyncssh.DISC_PROTOCOL_ERROR, "Too many authentication failures")

    def _grace_exceeded(self) -> None:
        self._grace = None
        self._parting = Parting.GRACE_EXCEEDED
        self._shared.refusals.refuse(Refusal.GRACE_TIME, self._address)
        self.ssh.abort()

    def _end_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def _tell_in_vain(self) -> None:
        """Record whose keys and certificates were offered and did not open, once for each name."""
        for name, way, reason in self._offers.in_vain():
            self._failed(name, way, reason)

    def _failed(self, name: str, way: str, reason: str) -> None:
        self._offers.failed(name)
        self._shared.console.node.logins["failed", _method(way)] += 1
        told = about("login.failed", user=_safe(name), source=self._source, method=way, reason=reason)
        _log.warning("login of %s from %s failed by %s: %s", _safe(name), self._source, way, reason, extra=told)
        self._record(EventKind.LOGIN_FAILED, _safe(name), f"{way}: {reason}", status=1)

    def _about(self, event: str, **fields: object) -> dict[str, Any]:
        who = self.operator
        return about(event, user=who.name, source=who.source, session=who.session_id, **fields)

    def _record(self, kind: EventKind, name: str, detail: str = "", *, status: int = 0) -> None:
        journal: Journal = self._shared.console.journal
        session_id = self._operator.session_id if self._operator else ""
        node = self._shared.console.node_name
        journal.record_soon(Event(kind, utc_now(), node, name, self._source, session_id, status=status, detail=detail))


def _listed(algorithms: Sequence[bytes]) -> str:
    """Return a list of algorithms as text, short enough for a line of the log."""
    text = b",".join(algorithms[:_MOST_LOGGED_ALGORITHMS]).decode("ascii", "replace")
    return text[:_MOST_LOGGED_LIST] or "none"


def _method(way: str) -> str:
    """Return the first word of how somebody proved who they are: password, key or certificate."""
    return way.split(maxsplit=1)[0].rstrip(",")


def _safe(name: str) -> str:
    """Return a name that somebody made up, fit for a line of the log; an API key in its place is not kept."""
    return ascii(without_keys(name)[:_MOST_LOGGED_CHARACTERS])[1:-1]
