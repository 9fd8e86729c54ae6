"""The change feed: after each commit the store announces which topics have changed.

A cache subscribes and drops its entries of these topics. The topics come from the SQL itself, so the caller of a change
need not know the caches, and none is forgotten.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

_log = logging.getLogger("ecss-console.storage")


class Topic(Enum):
    """A kind of stored thing that caches keep. `NODES` is the list of the nodes that write audit records."""

    USERS = "users"
    GRANTS = "grants"
    DOMAINS = "domains"
    INTEGRATIONS = "integrations"
    NODES = "nodes"


EVERYTHING = frozenset(Topic)

#: The topics that a write to a table changes. History and audit have none, because nothing caches them.
_TOPICS = {
    "users": {Topic.USERS},
    "user_keys": {Topic.USERS},
    "grants": {Topic.GRANTS},
    "domains": {Topic.DOMAINS},
    "integrations": {Topic.INTEGRATIONS},
    "store": {Topic.NODES},
}
#: The topics of rows that ON DELETE CASCADE deletes too.
_CASCADES = {"users": {Topic.GRANTS}, "domains": {Topic.GRANTS, Topic.INTEGRATIONS}}
_WRITE = re.compile(r"\s*(INSERT INTO|UPDATE|DELETE FROM)\s+(\w+)")


@lru_cache(maxsize=512)
def topics_of(sql: str) -> frozenset[Topic]:
    """Return the topics that a statement may change."""
    found = _WRITE.match(sql)
    if found is None:
        return frozenset()
    verb, table = found.groups()
    cascades = _CASCADES.get(table, set()) if verb == "DELETE FROM" else set()
    return frozenset(_TOPICS.get(table, set()) | cascades)


@lru_cache(maxsize=512)
def shared_topics_of(sql: str) -> frozenset[Topic]:
    """Return the topics of a statement that the caches of other nodes may hold.

    A new domain or integration is in no cache. A new grant is part of a cached user.
    """
    found = _WRITE.match(sql)
    is_new = found is not None and found[1] == "INSERT INTO" and found[2] in {"domains", "integrations", "store"}
    return frozenset() if is_new else topics_of(sql)


@dataclass(frozen=True, slots=True)
class Changed:
    """The topics that a commit may have changed; `elsewhere` means a commit of another program.

    `number` counts the commits that other nodes confirm; 0 when the number is not known.
    """

    topics: frozenset[Topic]
    elsewhere: bool = False
    number: int = 0


class ChangeFeed:
    """Calls subscribers in the event loop, before the caller of the change goes on; they must not block."""

    def __init__(self) -> None:
        """Start without subscribers."""
        self._subscribers: list[Callable[[Changed], None]] = []

    def subscribe(self, subscriber: Callable[[Changed], None]) -> None:
        """Call `subscriber` after every commit that has a topic, for as long as the store is open."""
        self._subscribers.append(subscriber)

    def announce(self, changed: Changed) -> None:
        """Call the subscribers. A subscriber that raises is logged; the others and the commit go on."""
        if not changed.topics:
            return
        for subscriber in self._subscribers:
            try:
                subscriber(changed)
            except Exception:  # noqa: BLE001  whatever it is, the change is committed
                _log.exception("a subscriber of changes has failed")
