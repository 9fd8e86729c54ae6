"""How long caches may be used without another look into the store."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from time import monotonic, time


@dataclass(frozen=True, slots=True)
class CacheProof:
    """The time during which no change of another node can have been missed.

    It is bounded on two clocks: the monotonic one stops while a machine sleeps, the wall clock may be set.
    """

    until_seconds: float
    wall_from_seconds: float
    wall_until_seconds: float

    @classmethod
    def starting_now(cls, seconds: float) -> CacheProof:
        """Return a proof for a time that begins now."""
        wall = time()
        return cls(monotonic() + seconds, wall - seconds, wall + seconds)

    def holds(self) -> bool:
        """Whether caches may be used now."""
        return monotonic() < self.until_seconds and self.wall_from_seconds < time() < self.wall_until_seconds


#: A store without other nodes.
ALWAYS = CacheProof(inf, -inf, inf)
NEVER = CacheProof(-inf, inf, -inf)
