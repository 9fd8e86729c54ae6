"""One client, from its first byte to its last: it proves who it is, then asks for channels."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic

import asyncssh

from server.audit.journal import Journal, utc_now
from server.auth.keys import fingerprint
from server.auth.login import Verdict
from server.commands.call import Console
from server.errors import TemporaryError
from server.model.access import Operator, User, UserKey
from server.model.events import Event, EventKind
from server.model.sessions import OpenSession
from server.shell.options import split_login_name
from server.transport.channel import ConsoleChannel, Looks
from server.transport.logins import Logins

#: Questions, each with whether the answer is echoed, below a title, a text and their language; or the verdict.
Challenge = bool | tuple[str, str, str, Sequence[tuple[str, bool]]]
_MOST_LOGGED_CHARACTERS = 64
#: What a session that is ended may take to say its parting words before its connection is closed.
_PARTING_SECONDS = 0.5
_MUST_CHANGE = "Your password must be changed. New password: "

_log = logging.getLogger("ecss-console.login")


@dataclass
class Shared:
    """What all connections share. Certificates by one of the `authorities` let in the users that they name."""

    console: Console
    logins: Logins
    banner: str
    looks: Looks
    authorities: tuple[UserKey, ...] = ()
    clients: set[Connection] = field(default_factory=set)
    stopping: bool = False

    @property
    def channels(self) -> list[ConsoleChannel]:
        """The channels that have a session."""
        return [channel for client in self.clients for channel in client.channels]


class Connection(asyncssh.SSHServer):
    """One client. `channels` are those that have a session now."""

    def __init__(self, shared: Shared) -> None:
        """Take what all connections share."""
        self.channels: set[ConsoleChannel] = set()
        self.ssh: asyncssh.SSHServerConnection
        self._shared = shared
        self._proved: User | None = None
        self._certified: User | None = None
        self._changing = ""
        self._operator: Operator | None = None
        self._login_options = ""
        self._method = ""
        self._address = self._source = ""
        self._greeted = False
        self._since = datetime.now().astimezone()
        self._began = self._asked = monotonic()

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """The client has connected."""
        self.ssh = conn
        self._address, port = conn.get_extra_info("peername")[:2]
        self._source = f"{self._address}:{port}"
        self._shared.clients.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The client is gone."""
        self._shared.clients.discard(self)
        if self._operator is not None:
            self._shared.logins.remove(self._operator.session_id)
            self._record(EventKind.LOGOUT, self._operator.name)
            _log.info("%s from %s has left", self._operator.name, self._operator.source)

    async def begin_auth(self, username: str) -> bool:
        """Everybody proves who they are; the banner comes first. Called anew when the client gives another name."""
        self._proved = self._certified = None
        if self._shared.banner and not self._greeted:
            self._greeted = True
            self.ssh.send_auth_banner(self._shared.banner.rstrip("\n") + "\n")
        if self._shared.authorities:
            self._certified = await self._shared.console.doorkeeper.known(split_login_name(username)[0])
            # the same work for a user that does not exist
            trusted = self._trusted(self._certified.name if self._certified else "nobody")
            self.ssh.set_authorized_keys(trusted if self._certified else None)
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
        verdict = await self._judged(username, password)
        if verdict.must_change:
            raise asyncssh.PasswordChangeRequired(_MUST_CHANGE)
        return verdict.user is not None

    async def change_password(self, username: str, old_password: str, new_password: str) -> bool:
        """Set the password that was asked for."""
        try:
            return await self._changed(username, old_password, new_password)
        except ValueError as wrong:
            prompt = f"{wrong}. {_MUST_CHANGE}"
            raise asyncssh.PasswordChangeRequired(prompt) from wrong

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> Challenge:  # noqa: ARG002
        """Ask for the password."""
        self._changing = ""
        return "", "", "", [("Password: ", False)]

    async def validate_kbdint_response(self, username: str, responses: Sequence[str]) -> Challenge:
        """Judge the password, and ask for another where one has to be set."""
        if self._changing:
            return await self._answered_change(username, responses)
        password = responses[0] if len(responses) == 1 else ""
        verdict = await self._judged(username, password)
        if not verdict.must_change:
            return verdict.user is not None
        self._changing = password
        return self._change_challenge("Your password must be changed.")

    async def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Tell whether the key opens; that the client holds it is checked by the protocol."""
        name, _ = split_login_name(username)
        public_key = " ".join(key.export_public_key("openssh").decode().split()[:2])
        verdict = await self._shared.console.doorkeeper.by_public_key(name, public_key, self._address)
        self._proved = verdict.user
        self._method = f"key {fingerprint(public_key)}"
        if verdict.reason not in {"", "unknown user", "unknown key"}:
            self._refused(name, self._method, verdict.reason)
        return verdict.user is not None

    def auth_completed(self) -> None:
        """Make the operator of whoever has proved who they are."""
        name, self._login_options = split_login_name(str(self.ssh.get_extra_info("username")))
        user = self._proved or self._certified
        if user is None or user.name != name:  # a defect would be a way in: end it here
            self.ssh.abort()
            return
        method = self._method if self._proved else "certificate"
        session_id = secrets.token_hex(4)
        self._operator = Operator(name, user.role, self._source, session_id, user.domains)
        self._shared.logins.add(session_id, self)
        self._record(EventKind.LOGIN, name, method)
        _log.info("%s from %s has logged in by %s", name, self._operator.source, method)

    def session_requested(self) -> ConsoleChannel | bool:
        """Give a channel, not while stopping."""
        if self._operator is None or self._shared.stopping:
            return False
        self._asked = monotonic()
        return ConsoleChannel(
            self._shared.console, self._operator, self.channels, self._login_options, self._shared.looks
        )

    def described(self) -> OpenSession:
        """Return what `session/list` shows of a client that has logged in."""
        if self._operator is None:
            message = "nobody has logged in"
            raise ValueError(message)
        idle = [channel.idle_seconds for channel in self.channels]
        busy = any(each is None for each in idle)
        quiet_seconds = min((each for each in idle if each is not None), default=monotonic() - self._asked)
        who = self._operator
        shown_idle = None if busy else quiet_seconds
        return OpenSession(who.session_id, who.name, who.role, who.source, self._since, shown_idle, len(self.channels))

    def open_seconds(self) -> float:
        """Return how long ago the client connected."""
        return monotonic() - self._began

    def tell(self, text: str) -> None:
        """Tell people at the prompts something."""
        for channel in self.channels:
            channel.tell(text)

    def end(self, why: str) -> None:
        """Interrupt what runs, tell the client why, and disconnect."""
        for channel in [*self.channels]:
            channel.stop(f"\n{why}\n", now=True)
        asyncio.get_running_loop().call_later(_PARTING_SECONDS, self.ssh.disconnect, asyncssh.DISC_BY_APPLICATION, why)

    async def _judged(self, username: str, password: str) -> Verdict:
        name, _ = split_login_name(username)
        verdict = await self._shared.console.doorkeeper.by_password(name, password)
        self._proved, self._method = verdict.user, "password"
        if verdict.user is None and not verdict.must_change:
            self._refused(name, "password", verdict.reason)
        return verdict

    async def _changed(self, username: str, old: str, new: str) -> bool:
        """Set another password; raises ValueError when it may not be set."""
        name, _ = split_login_name(username)
        try:
            verdict = await self._shared.console.doorkeeper.change_password(name, old, new, self._source)
        except TemporaryError as error:
            verdict = Verdict(None, error.message)
        self._proved, self._method = verdict.user, "password, changed"
        if verdict.user is None:
            self._refused(name, "change of password", verdict.reason)
        return verdict.user is not None

    async def _answered_change(self, username: str, responses: Sequence[str]) -> Challenge:
        if len(responses) != 2 or responses[0] != responses[1]:  # noqa: PLR2004  the new one, twice
            return self._change_challenge("The two passwords differ.")
        try:
            return await self._changed(username, self._changing, responses[0])
        except ValueError as wrong:
            return self._change_challenge(f"{wrong}.")

    def _change_challenge(self, why: str) -> Challenge:
        return "", why, "", [("New password: ", False), ("Once more: ", False)]

    def _trusted(self, name: str) -> asyncssh.SSHAuthorizedKeys:
        lines = [f'cert-authority,principals="{name}" {key.public_key}' for key in self._shared.authorities]
        return asyncssh.import_authorized_keys("\n".join(lines))

    def _refused(self, name: str, method: str, reason: str) -> None:
        _log.warning("login of %s from %s failed by %s: %s", _safe(name), self._source, method, reason)
        self._record(EventKind.LOGIN_FAILED, _safe(name), f"{method}: {reason}", status=1)

    def _record(self, kind: EventKind, name: str, detail: str = "", *, status: int = 0) -> None:
        journal: Journal = self._shared.console.journal
        session_id = self._operator.session_id if self._operator else ""
        node = self._shared.console.node_name
        journal.record_soon(Event(kind, utc_now(), node, name, self._source, session_id, status=status, detail=detail))


def _safe(name: str) -> str:
    """Return a name that somebody made up, fit for a line of the log."""
    return ascii(name[:_MOST_LOGGED_CHARACTERS])[1:-1]
