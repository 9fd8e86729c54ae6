"""A node among nodes: the part of the server that the other nodes on the same database see."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from secrets import token_hex

from server import __version__
from server.cluster.bell import Bell
from server.cluster.confirmations import Confirmations
from server.cluster.lease import Lease
from server.cluster.questions import Answering, Questions
from server.cluster.repeating import repeat
from server.config import Current
from server.errors import StartError, TemporaryError
from server.model.nodes import Member, NodeState
from server.model.sessions import Sessions
from server.node import metrics
from server.node.metrics import Reading, single
from server.node.status import Node
from server.storage.postgresql.engine import PostgresqlEngine
from server.storage.postgresql.nodes import ANSWERS, APPLIED, QUESTIONS, Identity, NodeTables
from server.storage.proof import NEVER
from server.storage.store import Store
from server.storage.temporary import Failures

BEAT_SECONDS = 2.0
_RELEASE_SECONDS = 1.0
#: Every so many beats, old rows are deleted.
_CLEAN_UP_EVERY = 30
_WILDCARDS = {"0.0.0.0", "::"}  # noqa: S104  compared with, not bound

_log = logging.getLogger("ecss-console.cluster")


class ClusterNode:
    """Implements the `Cluster` of the commands on PostgreSQL. Call `start` before the node serves, then `stop`."""

    def __init__(
        self,
        engine: PostgresqlEngine,
        store: Store,
        current: Current,
        node: Node,
        sessions: Sessions,
        end_shut_out: Callable[[], Awaitable[None]],
    ) -> None:
        """Take the parts that know the node's name, addresses and logins.

        `end_shut_out` ends the sessions of users who have lost access.
        """
        named = current.config.node
        self._engine = engine
        self._store = store
        self._current = current
        self._node = node
        self._sessions = sessions
        self._identity = Identity(named.name, token_hex(16), named.version, f"ecss-console {__version__}")
        self._tables = NodeTables(engine.control, Failures(engine.reason))
        self._lease = Lease(self._tables, self._identity)
        self._confirmations = Confirmations(store, self._tables, self._identity, end_shut_out)
        self._questions = Questions(store.vault, self._tables, self._identity, self._lease)
        self._known: Sequence[Member] = ()
        self._beats = 0
        self._tasks: list[asyncio.Task[None]] = []

    # ---- the life of the node

    async def start(self, answering: Answering, waits: Callable[[str], None]) -> bool:
        """Take the node's name, and answer other nodes with `answering`; return True.

        Waits for the end of the lease of a crashed console, and calls `waits` with the reason. Raises StartError when a
        live console has the name.
        """
        self._store.proof = NEVER
        await self._lease.take(self._address(), waits)
        self._engine.fence(self._identity.name, self._identity.boot)
        with suppress(TemporaryError):  # the next beat follows soon
            await self._beat()
        asked = self._tables.subscribe(QUESTIONS)

        async def answer() -> None:
            await asked.next(BEAT_SECONDS)
            if self._lease.held:  # another console with this name answers for itself
                await self._questions.answer_new(answering)

        lasting = (
            self._beat_on_time,
            self._confirmations.apply,
            answer,
            self._ringing(ANSWERS, self._questions.bell),
            self._ringing(APPLIED, self._confirmations.bell),
        )
        self._tasks = [asyncio.get_running_loop().create_task(repeat(work)) for work in lasting]
        return True

    async def stop(self) -> None:
        """Give the name back. Call it after the last write of this node."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._questions.end()
        with suppress(TemporaryError, StartError, TimeoutError):  # without the database the lease ends by itself
            async with asyncio.timeout(_RELEASE_SECONDS):
                await self._lease.release()

    # ---- the cluster, as the commands see it

    async def members(self) -> Sequence[Member]:
        """Return all nodes of the last seven days, sorted by name, with this one. Raises TemporaryError."""
        known = await self._tables.members()
        if any(self._is_own(each) for each in known):
            return known
        return sorted([*known, self._without_row()], key=lambda each: each.name)

    async def ask(self, nodes: Collection[str], question: str) -> Mapping[str, str]:
        """Ask other nodes, and return the answers that come within a second. Raises TemporaryError."""
        return await self._questions.ask(nodes, question)

    async def unconfirmed(self, change_number: int) -> Sequence[str]:
        """Wait up to a second until the other live nodes have applied a change; return the names of the rest.

        While the database is away these are all the nodes that were up at the last beat.
        """
        try:
            return await self._confirmations.unconfirmed(change_number)
        except (TemporaryError, StartError):
            return [each.name for each in self._known if each.state is NodeState.UP and not self._is_own(each)]

    # ---- the state of the node

    @property
    def why_away(self) -> str:
        """Why this node cannot serve; empty while it can."""
        return self._lease.why_lost

    def readings(self) -> Iterator[Reading]:
        """Yield the state of the lease, the skew of the clock and the numbers of nodes."""
        states = Counter(each.state for each in self._known)
        yield single(metrics.NODE_LEASE, int(self._lease.held and self._lease.proof.holds()))
        yield single(metrics.NODE_CLOCK_SKEW, self._lease.skew_seconds)
        yield Reading(metrics.NODES, [((state.value,), states[state]) for state in NodeState])

    # ---- the work in the background

    async def _beat_on_time(self) -> None:
        """Beat after two seconds, or at once when changes may have been missed."""
        missed = self._confirmations.missed
        with suppress(TimeoutError):
            async with asyncio.timeout(BEAT_SECONDS):
                await missed.wait()
        missed.clear()
        await self._beat()

    async def _beat(self) -> None:
        """Extend the lease; then compare the number of the latest change with those that were heard."""
        heard, had_name = self._confirmations.heard, self._lease.held
        number = await self._lease.beat(self._address(), len(self._sessions.every()))
        if number is not None:
            if not had_name:
                self._confirmations.forget()
            self._confirmations.catch_up(number, heard)
        # only now the caches are as new as the lease
        self._store.proof = self._lease.proof
        self._known = await self._tables.members()
        self._beats += 1
        if self._beats % _CLEAN_UP_EVERY == 0:
            await self._tables.clean_up()

    def _ringing(self, channel: str, bell: Bell) -> Callable[[], Awaitable[None]]:
        """Return the work that rings a bell for each notification of a channel."""
        subscription = self._tables.subscribe(channel)

        async def ring() -> None:
            if await subscription.next(BEAT_SECONDS):
                bell.ring()

        return ring

    def _address(self) -> str:
        """Return the addresses of this node; `0.0.0.0` would help nobody on another machine."""
        listen = self._current.config.listen
        places = self._node.places or [f"{listen.host} port {listen.port}"]
        return ", ".join(_reachable(place) for place in places)

    def _without_row(self) -> Member:
        """Return this node as it is when its row in the database is gone: until the next beat it has no lease."""
        named, sessions = self._identity, len(self._sessions.every())
        return Member(
            named.name,
            named.version,
            NodeState.LOST,
            sessions,
            self._address(),
            self._lease.database_time().astimezone(),
        )

    def _is_own(self, member: Member) -> bool:
        return member.name == self._identity.name


def _reachable(place: str) -> str:
    host, _, port = place.partition(" port ")
    return f"{socket.gethostname() if host in _WILDCARDS else host} port {port}"
