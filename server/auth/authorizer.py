"""The current rights of users: role, grants, and whether they may still work here.

Every line asks for them, so they are cached, together with the names of domains as they were declared. The store's feed
drops changed entries: at once for changes of this process, within a second for those of others. A node that may have
missed changes of other nodes reads the store instead.
"""

from __future__ import annotations

from dataclasses import replace

from server.audit.journal import utc_now
from server.model.access import Operator, User
from server.model.domains import folded
from server.storage import domains, users
from server.storage.engine import Read
from server.storage.feed import Changed, Topic
from server.storage.store import Store

_CACHED = {Topic.USERS, Topic.GRANTS, Topic.DOMAINS}


def no_more(name: str) -> str:
    """Return the message for a user whose access has ended."""
    return f"{name} may not work here any more"


class Authorizer:
    """Caches users and the names of domains until they change."""

    def __init__(self, store: Store) -> None:
        """Take the store, and subscribe to its changes of users, grants and domains."""
        self._store = store
        self._known: dict[str, User | None] = {}
        self._declared: dict[str, str] = {}
        self._changes = 0
        store.feed.subscribe(self._drop)

    async def current(self, operator: Operator, read: Read | None = None) -> Operator | None:
        """Return the operator with current rights; None when the user may not work here any more.

        Inside a change, pass its query as `read`, so that earlier changes of the same transaction count. Raises
        TemporaryError when the store is unavailable and the user is not cached.
        """
        if read is not None:
            user = await users.find(read, operator.name)
        else:
            cached = self._known.get(operator.name) if self._store.caches_proven() else None
            user = cached or await self._look_up(operator.name)
        if user is None or user.added_at != operator.added_at or user.shut_out(utc_now()):
            return None
        if (user.role, user.domains) == (operator.role, operator.domains):
            return operator
        return replace(operator, role=user.role, domains=user.domains)

    async def declared(self, domain: str) -> str:
        """Return a domain's name as it was declared; unchanged when the domain does not exist."""
        name = self._declared.get(folded(domain)) if self._store.caches_proven() else None
        if name is None:
            changes = self._changes
            name = await domains.declared_as(self._store.read, domain)
            if name is not None and changes == self._changes:
                self._declared[folded(domain)] = name
        return domain if name is None else name

    def _drop(self, changed: Changed) -> None:
        """Drop entries that may be outdated. A cached user contains the names of its domains."""
        if changed.topics & _CACHED:
            self._known.clear()
            self._declared.clear()
            self._changes += 1

    async def _look_up(self, name: str) -> User | None:
        changes = self._changes
        user = await users.find(self._store.read, name)
        if changes == self._changes:  # otherwise it may have been read before the change
            self._known[name] = user
        return user
