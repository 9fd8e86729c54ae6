"""The open logins.

`watch` ends logins that are idle or open for too long, and logins of users who have lost access. It checks once a
second, and at once when another program has changed users.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from server.auth.authorizer import Authorizer, no_more
from server.config import Current
from server.errors import TemporaryError
from server.log import about
from server.model.access import Operator
from server.model.sessions import OpenSession
from server.model.shutdown import Shutdown
from server.storage.feed import Changed, Topic

_LOOK_SECONDS = 1.0
_WARNING_SECONDS = 60.0

_log = logging.getLogger("ecss-console.login")


class Login(Protocol):
    """One open login."""

    @property
    def operator(self) -> Operator:
        """The user who has logged in."""

    def described(self) -> OpenSession:
        """Return the row of `session/list`."""

    def open_seconds(self) -> float:
        """Return how long ago it began."""

    def tell(self, text: str) -> None:
        """Show a line to people at the prompt; scripts do not get it."""

    def end(self, shutdown: Shutdown) -> None:
        """End its sessions, show the client the reason, and disconnect."""


@dataclass(frozen=True, slots=True)
class Ends:
    """The limits after which a login ends, in seconds; 0 is no limit."""

    idle_seconds: float
    longest_seconds: float

    def left_seconds(self, idle_seconds: float | None, open_seconds: float) -> tuple[float, str] | None:
        """Return the remaining time of a login and the reason of its end, or None without a limit."""
        left = []
        if self.idle_seconds and idle_seconds is not None:
            left.append((self.idle_seconds - idle_seconds, "it was idle for too long"))
        if self.longest_seconds:
            left.append((self.longest_seconds - open_seconds, "it has lasted as long as it may"))
        return min(left, default=None)


class Logins:
    """The open logins by session id. Implements the `Sessions` of the commands."""

    def __init__(self, current: Current) -> None:
        """Take the configuration, whose section `sessions` has the time limits."""
        self._current = current
        self._open: dict[str, Login] = {}
        self._warned: set[str] = set()
        self._ended: set[str] = set()
        self._users_changed = asyncio.Event()

    def add(self, session_id: str, login: Login) -> None:
        """Add a login."""
        self._open[session_id] = login

    def remove(self, session_id: str) -> None:
        """Remove a login that has ended."""
        self._open.pop(session_id, None)
        self._warned.discard(session_id)
        self._ended.discard(session_id)

    def every(self) -> Sequence[OpenSession]:
        """Return the open logins, the oldest first."""
        return [login.described() for login in self._open.values()]

    def end(self, session_id: str, why: str) -> bool:
        """End a login. Returns False for an unknown id."""
        login = self._open.get(session_id)
        if login is None:
            return False
        if session_id in self._ended:  # its client has not left yet
            return True
        self._ended.add(session_id)
        user = login.operator.name
        extra = about("session.ended", session=session_id, user=user, why=why)
        _log.info("session %s of %s ends: %s", session_id, user, why, extra=extra)
        login.end(Shutdown(why, f"This session was ended: {why}."))
        return True

    def end_overdue(self) -> None:
        """End overdue logins. Warn logins with a minute left, once until their next input."""
        ends = Ends(self._current.config.sessions.idle_seconds, self._current.config.sessions.longest_seconds)
        if not (ends.idle_seconds or ends.longest_seconds):
            return
        for session_id, login in [*self._open.items()]:
            found = ends.left_seconds(login.described().idle_seconds, login.open_seconds())
            if found is None or found[0] > _WARNING_SECONDS:
                self._warned.discard(session_id)
            elif found[0] <= 0:
                self.end(session_id, found[1])
            elif session_id not in self._warned:
                self._warned.add(session_id)
                login.tell(f"This session ends in {max(1, round(found[0]))} seconds: {found[1]}.")

    def notice(self, changed: Changed) -> None:
        """Check the logins at once when another program has changed users.

        A change by this process waits for the next check, so that the session that made it can send its reply first.
        """
        if changed.elsewhere and Topic.USERS in changed.topics:
            self._users_changed.set()

    async def watch(self, authorizer: Authorizer) -> None:
        """Check all logins once a second, for ever."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._users_changed.wait()
            self._users_changed.clear()
            try:
                self.end_overdue()
                await self.end_shut_out(authorizer)
            except TemporaryError as error:
                _log.warning("users cannot be looked up: %s", error.message)
            except Exception:  # noqa: BLE001  the next check must follow
                _log.exception("the open logins could not be looked at")

    async def end_shut_out(self, authorizer: Authorizer) -> None:
        """End the logins of users who have lost access, and of those whose rights cannot be read."""
        for session_id, login in [*self._open.items()]:
            try:
                may_work = await authorizer.current(login.operator) is not None
            except TemporaryError:
                raise
            except Exception as error:  # noqa: BLE001  one damaged row must not keep other users in
                _log.error("the rights of %s cannot be read: %r", login.operator.name, error)
                may_work = False
            if not may_work:
                self.end(session_id, no_more(login.operator.name))
