"""Limits of connections by address and by user. Pure: the clock is passed in.

`arrive` counts a connection, `log_in` assigns it to a user, and `leave` or `turn_away` releases it: each exactly once.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable

from server.auth.penalties import Penalties
from server.auth.sources import Sources
from server.config import Limits
from server.model.refusals import DisconnectReason, Refusal

_ALL_PERCENT = 100


class Admission:
    """The open connections and the current penalties. Keeps no more than `max_connections` sources."""

    def __init__(self, limits: Limits, draw: Callable[[int], int] = secrets.randbelow) -> None:
        """Take the limits; `draw(n)` returns a random number below n."""
        self._draw = draw
        self.use(limits)
        self._penalties = Penalties()
        self._connections: Counter[str] = Counter()
        self._startups: Counter[str] = Counter()
        self._users: Counter[str] = Counter()
        self.connections = 0
        self.startups = 0

    def use(self, limits: Limits) -> None:
        """Use other limits from now on, with networks of the same length; counts and penalties stay."""
        self._limits = limits
        self._max_startups = limits.startups
        self._sources = Sources(limits.block_lengths, limits.per_source_penalty_exempt_list)

    def arrive(self, address: str, now: float) -> Refusal | None:
        """Count a connection from `address`, or return why it is refused."""
        source = self._sources.source(address)
        refusal = self._refusal(address, source, now)
        if refusal is None:
            self._connections[source] += 1
            self._startups[source] += 1
            self.connections += 1
            self.startups += 1
        return refusal

    def log_in(self, address: str, user_name: str) -> Refusal | None:
        """Assign the connection to the user, or return why not; then it still counts as not logged in."""
        if self._users[user_name] >= self._limits.max_sessions_per_user:
            return Refusal.USER_SESSIONS
        self._users[user_name] += 1
        self.startups -= 1
        _take_one(self._startups, self._sources.source(address))
        return None

    def leave(self, address: str, user_name: str) -> None:
        """Release a connection on which the user had logged in."""
        _take_one(self._users, user_name)
        self.connections -= 1
        _take_one(self._connections, self._sources.source(address))

    def turn_away(self, address: str, reason: DisconnectReason | None, now: float) -> None:
        """Release a connection without a login; a `reason` penalises its source."""
        source = self._sources.source(address)
        self.connections -= 1
        self.startups -= 1
        _take_one(self._connections, source)
        _take_one(self._startups, source)
        if reason is not None and self._limits.per_source_penalties and not self._sources.is_exempt(address):
            self._penalties.penalise(source, reason, now)

    def _refusal(self, address: str, source: str, now: float) -> Refusal | None:
        limits = self._limits
        penalised = limits.per_source_penalties and self._penalties.refused_seconds(source, now)
        if penalised and not self._sources.is_exempt(address):
            return Refusal.PENALTY
        if self.connections >= limits.max_connections:
            return Refusal.CONNECTIONS
        if self._connections[source] >= limits.per_source_max_connections:
            return Refusal.SOURCE_CONNECTIONS
        if self._startups[source] >= limits.per_source_max_startups:
            return Refusal.SOURCE_STARTUPS
        if self._drops_early(source):
            return Refusal.STARTUPS
        return None

    def _drops_early(self, source: str) -> bool:
        """Drop at random between start and full, as sshd does, but only sources with an even share or more.

        Otherwise one source with many connections would make logins from other sources fail.
        """
        start, rate, full = self._max_startups
        if self.startups >= full:
            return True
        if self.startups < start or self._startups[source] * len(self._startups) < self.startups:
            return False
        percent = rate + (_ALL_PERCENT - rate) * (self.startups - start) // (full - start)
        return self._draw(_ALL_PERCENT) < percent


def _take_one(counter: Counter[str], name: str) -> None:
    """Count one less; forget a name whose count is zero."""
    counter[name] -= 1
    if not counter[name]:
        del counter[name]
