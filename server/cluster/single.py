"""The cluster of a store that one node serves, as every store on SQLite: only the own node."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime

from server.cluster.questions import Answering
from server.config import Current
from server.model.nodes import Member, NodeState
from server.model.sessions import Sessions
from server.node import metrics
from server.node.metrics import Reading, single
from server.node.status import Node


class SingleNode:
    """Implements the `Cluster` of the commands. There is no other node to ask or to wait for."""

    def __init__(self, current: Current, node: Node, sessions: Sessions) -> None:
        """Take the parts that know the node's name, its addresses and its logins."""
        self._current = current
        self._node = node
        self._sessions = sessions

    #: Nothing takes this node away.
    why_away = ""

    async def start(self, answering: Answering, waits: Callable[[str], None]) -> bool:  # noqa: ARG002  as `ClusterNode`
        """Do nothing; return True."""
        return True

    async def stop(self) -> None:
        """Do nothing."""

    def readings(self) -> Iterator[Reading]:
        """Yield the metrics of a cluster of one node."""
        yield single(metrics.NODE_LEASE, 1)
        yield single(metrics.NODE_CLOCK_SKEW, 0)
        yield Reading(metrics.NODES, [((state.value,), int(state is NodeState.UP)) for state in NodeState])

    async def members(self) -> Sequence[Member]:
        """Return the own node."""
        named = self._current.config.node
        sessions = len(self._sessions.every())
        address = ", ".join(self._node.places)
        return [Member(named.name, named.version, NodeState.UP, sessions, address, datetime.now().astimezone())]

    async def ask(self, nodes: Collection[str], question: str) -> Mapping[str, str]:  # noqa: ARG002  as in the protocol
        """Return no answers."""
        return {}

    async def unconfirmed(self, change_number: int) -> Sequence[str]:  # noqa: ARG002  as in the protocol
        """Return no names."""
        return ()
