"""The choice of the cluster: the nodes on one PostgreSQL, or a single node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from server.cluster.node import ClusterNode
from server.cluster.single import SingleNode
from server.config import Current
from server.model.sessions import Sessions
from server.node.status import Node
from server.storage.postgresql.engine import PostgresqlEngine
from server.storage.store import Store


def cluster_of(
    store: Store, current: Current, node: Node, sessions: Sessions, end_shut_out: Callable[[], Awaitable[None]]
) -> ClusterNode | SingleNode:
    """Return the cluster of the store. `end_shut_out` ends the sessions of users who have lost access."""
    if isinstance(store.engine, PostgresqlEngine):
        return ClusterNode(store.engine, store, current, node, sessions, end_shut_out)
    return SingleNode(current, node, sessions)
