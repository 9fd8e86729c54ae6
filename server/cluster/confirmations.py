"""Changes act on every node before the reply: nodes apply them and confirm, and the node of the change waits.

A node confirms a change when its caches are dropped and the sessions of users who have lost access are ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from server.cluster.bell import Bell, rung
from server.storage.feed import EVERYTHING, Changed, Topic
from server.storage.postgresql.nodes import Identity, NodeTables
from server.storage.store import Store

_WAIT_SECONDS = 1.0


class Confirmations:
    """Confirms the changes of other nodes, and waits for theirs.

    `bell` rings when another node has confirmed, `missed` when notifications of changes may be lost.
    """

    def __init__(
        self, store: Store, tables: NodeTables, identity: Identity, end_shut_out: Callable[[], Awaitable[None]]
    ) -> None:
        """Take the store, whose feed is subscribed to; `end_shut_out` ends the sessions of users without access."""
        self._store = store
        self._tables = tables
        self._identity = identity
        self._end_shut_out = end_shut_out
        #: The feed has announced all changes up to this number.
        self._heard = -1
        self._applied = -1
        self._users_changed = False
        self._wake = asyncio.Event()
        self.bell = Bell()
        self.missed = asyncio.Event()
        store.feed.subscribe(self._notice)

    @property
    def heard(self) -> int:
        """The number of the latest change that the caches of this node know of."""
        return self._heard

    def catch_up(self, number: int, heard_before: int) -> None:
        """Compare with the number that a beat has returned, and drop all caches when changes were missed.

        `heard_before` is the value of `heard` when the beat was sent. A smaller number means that the database has
        lost changes, as at a failover to an asynchronous replica.
        """
        if number > self._heard or number < heard_before:
            self._applied = min(self._applied, number - 1)
            self._heard = number
            self._store.feed.announce(Changed(EVERYTHING, elsewhere=True, number=number))
        elif self._applied < self._heard:
            self._wake.set()

    def forget(self) -> None:
        """Begin anew after the name was lost: no other node has waited for this one meanwhile."""
        self._heard = self._applied = -1

    async def apply(self) -> None:
        """Wait for changes of other nodes, apply them and confirm. Raises TemporaryError; call it again then."""
        await self._wake.wait()
        self._wake.clear()
        number, check = self._heard, self._users_changed
        if number <= self._applied:
            return
        if check:
            self._users_changed = False
            try:
                await self._end_shut_out()
            except BaseException:
                self._users_changed = True
                self._wake.set()
                raise
        applied = await self._tables.mark_applied(self._identity, number)
        if applied is None:
            return
        self._applied = max(self._applied, min(applied, number))
        if applied < number:  # nobody knows what the notification with this number stood for
            self.catch_up(applied, number)

    async def unconfirmed(self, change_number: int) -> Sequence[str]:
        """Wait up to a second for the other live nodes; return the names of those that have not confirmed."""
        deadline = asyncio.get_running_loop().time() + _WAIT_SECONDS
        while True:
            ring = self.bell.next_ring
            behind = await self._tables.behind(self._identity.name, change_number)
            if not behind or not await rung(ring, deadline):
                return behind

    def _notice(self, changed: Changed) -> None:
        """Note a change of another node. The subscribers with caches were called before the task goes on."""
        if not changed.elsewhere:
            return
        self._users_changed |= Topic.USERS in changed.topics
        self._heard = max(self._heard, changed.number)
        if changed.number:
            self._wake.set()
        else:
            self.missed.set()
