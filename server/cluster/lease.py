"""The lease of this node's name: one live process has it, by the clock of the database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import monotonic, time

from server.cluster.repeating import Seldom
from server.errors import StartError, TemporaryError
from server.log import about
from server.storage.postgresql.nodes import LEASE_SECONDS, Holder, Identity, NodeTables
from server.storage.proof import NEVER, CacheProof

#: The caches of this node are out of use before its lease ends on any clock.
_MARGIN_SECONDS = 0.5
#: The pause between two tries to take a name at the start.
_RETRY_SECONDS = 0.25
_MOST_SKEW_SECONDS = 2.0

_log = logging.getLogger("ecss-console.cluster")


class Lease:
    """Takes the name, keeps it with a beat every two seconds, and takes it again when it was lost.

    `proof` says how long the caches of this node are covered: while the lease lasts, other nodes wait for this one.
    """

    def __init__(self, tables: NodeTables, identity: Identity) -> None:
        """Take the tables and the node's name; nothing is claimed yet."""
        self._tables = tables
        self._identity = identity
        self._held = False
        self._database_clock: tuple[float, datetime] = (monotonic(), datetime.now(UTC))
        self._warned = Seldom()
        #: How far the clock of this node is ahead of the database's.
        self.skew_seconds = 0.0
        self.proof: CacheProof = NEVER

    @property
    def held(self) -> bool:
        """Whether this node has its name, as far as it knows."""
        return self._held

    @property
    def why_lost(self) -> str:
        """Why this node may not write; empty while it has its name."""
        return "" if self._held else f"another console has the name {self._identity.name} of this node"

    def database_time(self) -> datetime:
        """Return the database's time, as the last beat tells it."""
        at_seconds, at = self._database_clock
        return at + timedelta(seconds=monotonic() - at_seconds)

    async def take(self, address: str, waits: Callable[[str], None]) -> None:
        """Take the name. The lease of a crashed console ends within ten seconds, and this waits for it.

        `waits` is called with the reason. Raises StartError when a live console has the name.
        """
        first: Holder | None = None
        while not self._held:
            holder = await self._try(address)
            if first is None and holder is not None:
                first = holder
                reason = f"waits for the end of the lease of a console that has the name {self._identity.name}"
                _log.info("%s: %s (%s)", reason, holder.address, holder.program, extra=about("node.waits"))
                waits(reason)
            elif first is not None and holder is not None and _is_alive(first, holder):
                raise StartError(_in_use(self._identity.name, holder))
            if not self._held:
                await asyncio.sleep(_RETRY_SECONDS)

    async def beat(self, address: str, sessions: int) -> int | None:
        """Extend the lease and return the number of the latest shared change.

        Returns None while another console has the name; a free name is taken again. Raises TemporaryError.
        """
        sent_wall_seconds, sent = time(), CacheProof.starting_now(LEASE_SECONDS - _MARGIN_SECONDS)
        if not self._held and not await self._tables.claim(self._identity, address):
            return None
        beat = await self._tables.beat(self._identity, address, sessions)
        if beat is None:
            self._lose()
            return None
        if not self._held:
            self._held = True
            extra = about("node.name_regained", node=self._identity.name)
            _log.info("this node has its name %s again and serves", self._identity.name, extra=extra)
        self._database_clock = (monotonic(), beat.at)
        self._measure_skew(beat.at.timestamp(), sent_wall_seconds)
        self.proof = sent
        return beat.change_number

    async def release(self) -> None:
        """Give the name back, also after an interrupted `take`. Raises TemporaryError."""
        self._held, self.proof = False, NEVER
        await self._tables.release(self._identity)

    async def _try(self, address: str) -> Holder | None:
        """Claim the name once; return the console that has it. Returns None, too, while the database is away."""
        try:
            self._held = await self._tables.claim(self._identity, address)
            return None if self._held else await self._tables.holder(self._identity.name)
        except TemporaryError:  # logged where it was raised
            return None

    def _lose(self) -> None:
        if self._held:
            message = "another console has taken the name %s of this node: it changes nothing until the name is free"
            _log.error(message, self._identity.name, extra=about("node.name_lost", node=self._identity.name))
        self._held, self.proof = False, NEVER

    def _measure_skew(self, database_seconds: float, sent_seconds: float) -> None:
        """Compare the clocks. The database read its clock between the beat and its answer."""
        received_seconds = time()
        self.skew_seconds = max(0.0, sent_seconds - database_seconds) + min(0.0, received_seconds - database_seconds)
        if abs(self.skew_seconds) > _MOST_SKEW_SECONDS and self._warned.due():
            ahead = "ahead of" if self.skew_seconds > 0 else "behind"
            message = "the clock of this node is %.1f seconds %s the database's; set both with NTP"
            extra = about("node.clock_skew", seconds=round(self.skew_seconds, 3))
            _log.warning(message, abs(self.skew_seconds), ahead, extra=extra)


def _is_alive(before: Holder, now: Holder) -> bool:
    """Whether a console has beaten between two looks."""
    return (before.boot, before.lease_until) != (now.boot, now.lease_until)


def _in_use(name: str, holder: Holder) -> str:
    return (
        f"another console has the name {name}: it listens on {holder.address} ({holder.program}); "
        "give this one another node.name, or stop that one"
    )
