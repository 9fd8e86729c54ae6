"""How users stand now: role, grants, and whether they may still work here; asked at every line, so kept at hand.

So are the names of domains, as they were declared.

The store's feed says what has changed: by this process at once, by another program within a second.
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
    """Return what is said of somebody who may not work here any more."""
    return f"{name} may not work here any more"


class Authorizer:
    """The users, and the names of domains, that were asked for since the last change."""

    def __init__(self, store: Store) -> None:
        """Take the store, and subscribe to its changes of users, grants and domains."""
        self._store = store
        self._known: dict[str, User | None] = {}
        self._declared: dict[str, str] = {}
        self._changes = 0
        store.feed.subscribe(self._drop)

    async def current(self, operator: Operator, read: Read | None = None) -> Operator | None:
        """Return the operator as it stands now, None when it may not work here any more.

        Inside a change give its query as `read`: what changes before it in the same transaction have done counts.
        Raises TemporaryError when the store is away and nothing is known.
        """
        if read is not None:
            user = await users.find(read, operator.name)
        else:
            user = self._known.get(operator.name) or await self._looked_up(operator.name)
        if user is None or user.added_at != operator.added_at or user.shut_out(utc_now()):
            return None
        if (user.role, user.domains) == (operator.role, operator.domains):
            return operator
        return replace(operator, role=user.role, domains=user.domains)

    async def declared(self, domain: str) -> str:
        """Return a domain's name as it was declared; as it is given where there is no such domain."""
        name = self._declared.get(folded(domain))
        if name is None:
            changes = self._changes
            name = await domains.declared_as(self._store.read, domain)
            if name is not None and changes == self._changes:
                self._declared[folded(domain)] = name
        return domain if name is None else name

    def _drop(self, changed: Changed) -> None:
        """Drop what may be wrong. A user has the names of the granted domains in it."""
        if changed.topics & _CACHED:
            self._known.clear()
            self._declared.clear()
            self._changes += 1

    async def _looked_up(self, name: str) -> User | None:
        changes = self._changes
        user = await users.find(self._store.read, name)
        if changes == self._changes:  # else it may have been read before the change
            self._known[name] = user
        return user
