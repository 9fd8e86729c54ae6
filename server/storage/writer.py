"""The only writer of the store: changes run one after another and are committed in groups.

A commit waits for the disk. So the first change of a group commits after all changes that queued while it ran, and one
commit answers them all (group commit, as in PostgreSQL and MySQL). Each change runs in a savepoint: a failed change
undoes only its own writes. The audit records of all changes are written just before the commit. If they cannot be
written, the whole group is rolled back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.errors import TemporaryError
from server.node.measures import Durations
from server.storage.audit_chain import AuditChain
from server.storage.engine import Engine, Row, Value
from server.storage.feed import Changed, ChangeFeed, Topic, shared_topics_of, topics_of
from server.storage.temporary import BUSY, Failures, temporary
from server.storage.turn import Rank, Turn
from server.storage.uncut import awaited

#: The least patience of an urgent change, because at most one long change may run before it.
_FIRST_PATIENCE_SECONDS = 5.0
_ROLLED_BACK = "the store rolled back the transaction"


class Query:
    """Runs statements with `?` placeholders inside one write transaction and returns their rows.

    `audit` takes the audit records of the change; `topics` are its changes so far, and `shared_topics` those that other
    nodes may have cached. After the commit, `change_number` is the number that other nodes confirm, or 0.
    """

    def __init__(self, engine: Engine, audit: AuditChain) -> None:
        """Take the engine, whose transaction stays open while the query is used."""
        self._engine = engine
        self.audit = audit
        self.topics: frozenset[Topic] = frozenset()
        self.shared_topics: frozenset[Topic] = frozenset()
        self.change_number = 0

    async def __call__(self, sql: str, *values: Value) -> list[Row]:
        """Run one statement."""
        self.topics |= topics_of(sql)
        self.shared_topics |= shared_topics_of(sql)
        return await self._engine.run(sql, *values)


class _Group:
    """Changes that are committed together. `outcome` has their number when they are stored, or the error."""

    def __init__(self) -> None:
        self.changes = 0
        self.topics: frozenset[Topic] = frozenset()
        self.shared_topics: frozenset[Topic] = frozenset()
        self.outcome: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.commit_rank: Rank | None = None
        self.committing: list[asyncio.Task[None]] = []


class Writer:
    """Group commit on top of an engine. `changes` and `commits` are the durations of both."""

    def __init__(self, engine: Engine, audit: AuditChain, failures: Failures, feed: ChangeFeed) -> None:
        """Take an engine that has no other writer."""
        self._engine = engine
        self._audit = audit
        self._failures = failures
        self._feed = feed
        self._turn = Turn()
        self._group: _Group | None = None
        self.changes, self.commits = Durations(), Durations()

    async def close(self) -> None:
        """Wait for running changes and close the engine; safe to call twice."""
        async with self._turn.held(Rank.LONG):
            group = self._group
        if group is not None:
            await asyncio.wait({group.outcome})
        async with self._turn.held(Rank.LONG):
            await self._engine.close()

    @asynccontextmanager
    async def transaction(self, patience_seconds: float, rank: Rank = Rank.ORDINARY) -> AsyncIterator[Query]:
        """Give a `query` for one change. An error in the block undoes all of the change.

        `rank` decides which of several waiting changes goes first.

        Raises TemporaryError when the store is unavailable, or busy for longer than `patience_seconds`. Then nothing is
        changed.
        """
        deadline = asyncio.get_running_loop().time() + patience_seconds
        with self._failures.raised_as_temporary(), self.changes.timed():
            await self._take_turn(rank, deadline)
            try:
                group = await self._join_group(deadline)
                query, recorded = Query(self._engine, self._audit), self._audit.waiting
                try:
                    yield query
                except BaseException as error:
                    self._audit.drop_after(recorded)
                    await self._undo(group, error)
                    raise
                group.changes += 1
                group.topics |= query.topics
                group.shared_topics |= query.shared_topics
                self._commit_soon(group, rank)
            finally:
                self._turn.release()
            query.change_number = await awaited(group.outcome, commits=True)

    async def _take_turn(self, rank: Rank, deadline: float) -> None:
        if rank is Rank.FIRST:
            deadline = max(deadline, asyncio.get_running_loop().time() + _FIRST_PATIENCE_SECONDS)
        try:
            async with asyncio.timeout_at(deadline):
                await self._turn.acquire(rank)
        except TimeoutError:
            raise temporary(BUSY) from None

    async def _join_group(self, deadline: float) -> _Group:
        """Return the open group with a new savepoint, or a new group in a new transaction."""
        if self._group is not None and not self._engine.in_transaction:
            # the transaction is gone, so a savepoint would begin another one; the old changes would count as committed
            # with it
            await self._fail(self._group, temporary(_ROLLED_BACK))
        if self._group is not None and self._group.changes >= self._engine.most_changes:
            # not cut, because a stored group must not be reported as rolled back
            await awaited(asyncio.ensure_future(self._commit_now(self._group)))
        if self._group is None:
            await self._engine.begin(deadline)
            self._group = _Group()
        else:
            await self._engine.savepoint()
        return self._group

    async def _undo(self, group: _Group, error: BaseException) -> None:
        """Undo the failed change. If it cannot be undone alone, the whole group fails."""
        if not (group.changes and self._engine.in_transaction):
            await self._fail(group, error if self._is_store_failure(error) else temporary(_ROLLED_BACK))
            return
        undoing = asyncio.ensure_future(self._engine.rollback_to())
        try:
            await awaited(undoing)
        except (Exception, asyncio.CancelledError) as ended:
            if failure := undoing.exception():  # also if a cancellation came first
                await self._fail(group, failure)
            if isinstance(ended, asyncio.CancelledError):
                raise

    def _is_store_failure(self, error: BaseException) -> bool:
        return isinstance(error, TemporaryError) or self._failures.reason(error) is not None

    def _commit_soon(self, group: _Group, rank: Rank) -> None:
        """Schedule the commit of the group after all changes that wait now, except long ones.

        These changes join the group. The commit of an urgent change waits only for other urgent ones.
        """
        rank = min(rank, Rank.ORDINARY)
        if group.commit_rank is None or rank < group.commit_rank:
            group.commit_rank = rank
            group.committing.append(asyncio.create_task(self._commit(group, rank)))

    async def _commit(self, group: _Group, rank: Rank) -> None:
        async with self._turn.held(rank):
            if self._group is group:  # otherwise it has failed or is committed
                await self._commit_now(group)

    async def _commit_now(self, group: _Group) -> None:
        """Commit the group in this turn. Raises no error: the changes of the group get it."""
        if not self._engine.in_transaction:
            await self._fail(group, temporary(_ROLLED_BACK))
            return
        query = Query(self._engine, self._audit)
        try:
            await self._audit.write(query, self._engine.run_many)
            with self.commits.timed():
                number = await self._engine.commit(group.shared_topics | query.shared_topics)
        except BaseException as error:  # noqa: BLE001  whatever the error is, no change may wait for ever
            await self._fail(group, error)
            return
        finally:  # after a failed commit the outcome may be unknown, so caches must be dropped too
            self._feed.announce(Changed(group.topics | query.topics))
        self._audit.committed()
        self._group = None
        group.outcome.set_result(number)

    async def _fail(self, group: _Group, error: BaseException) -> None:
        """Roll back, and raise the error in all changes of the group that had succeeded."""
        self._audit.rolled_back()
        self._group = None
        try:
            await self._engine.rollback()
        finally:
            group.outcome.set_exception(error if isinstance(error, Exception) else temporary(_ROLLED_BACK))
            group.outcome.exception()  # mark as retrieved: nothing awaits it when the group's only change failed
