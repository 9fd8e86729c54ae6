"""Penalties of misbehaving sources, as in OpenSSH 9.8. Pure: the clock is passed in."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from server.model.refusals import DisconnectReason

#: The penalty of one connection, by the reason of its end. The values are those of OpenSSH 9.8, except the last.
PENALTY_SECONDS = {
    DisconnectReason.AUTH_FAILED: 5.0,
    DisconnectReason.NO_AUTH: 1.0,
    DisconnectReason.GRACE_EXCEEDED: 20.0,
    DisconnectReason.FLOODED: 20.0,
}
#: A source is refused when its penalty exceeds the first, and never for longer than the second.
ENFORCED_ABOVE_SECONDS = 15.0
MOST_SECONDS = 600.0
MOST_SOURCES = 65_536
_FORGOTTEN_AT_ONCE = 64
_SLACK = 64


@dataclass(slots=True)
class _Penalty:
    until: float
    enforced: bool


class Penalties:
    """The penalty of each source; it decays with time.

    Once enforced, a penalty is enforced until all of it has decayed. No more than `most_sources` are kept: in a flood
    from more sources, the penalties that end soonest are forgotten.
    """

    def __init__(self, most_sources: int = MOST_SOURCES) -> None:
        """Begin without penalties."""
        self._most_sources = most_sources
        self._penalties: dict[str, _Penalty] = {}
        #: The ends of penalties, soonest first. The entry of a penalty that has grown since is skipped.
        self._ends: list[tuple[float, str]] = []

    def __len__(self) -> int:
        """The number of sources with a penalty."""
        return len(self._penalties)

    def refused_seconds(self, source: str, now: float) -> float:
        """Return for how long the source is still refused; 0 when it is not."""
        penalty = self._penalties.get(source)
        return max(0.0, penalty.until - now) if penalty is not None and penalty.enforced else 0.0

    def penalise(self, source: str, reason: DisconnectReason, now: float) -> None:
        """Add the penalty of one connection."""
        self._forget_ended(now)
        penalty = self._penalties.get(source)
        if penalty is None:
            self._make_room()
            penalty = self._penalties[source] = _Penalty(now, enforced=False)
        elif penalty.until <= now:
            penalty.until, penalty.enforced = now, False
        penalty.until = min(penalty.until + PENALTY_SECONDS[reason], now + MOST_SECONDS)
        penalty.enforced = penalty.enforced or penalty.until - now > ENFORCED_ABOVE_SECONDS
        heapq.heappush(self._ends, (penalty.until, source))
        if len(self._ends) > 2 * len(self._penalties) + _SLACK:
            self._ends = [(kept.until, name) for name, kept in self._penalties.items()]
            heapq.heapify(self._ends)

    def _forget_ended(self, now: float) -> None:
        """Forget decayed penalties, a few at a time, so that the end of a flood does not block the event loop."""
        for _ in range(_FORGOTTEN_AT_ONCE):
            if not self._ends or self._ends[0][0] > now:
                return
            self._forget_soonest()

    def _make_room(self) -> None:
        while len(self._penalties) >= self._most_sources:
            self._forget_soonest()

    def _forget_soonest(self) -> None:
        until, source = heapq.heappop(self._ends)
        penalty = self._penalties.get(source)
        if penalty is not None and penalty.until == until:
            del self._penalties[source]
