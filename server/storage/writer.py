"""The one writer of the store: changes run one after another, and those that wait together are committed together.

A commit waits for the disk. So the first change of a group commits behind all that waited while it ran, and every one
of them is answered by the one commit (group commit, as PostgreSQL and MySQL do it). Inside, each change is a savepoint:
one that fails takes back what it did itself and nothing else.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiosqlite

from server.errors import TemporaryError
from server.node.measures import Durations
from server.storage.chain import Head, Sealer
from server.storage.temporary import BUSY, Trouble, temporary, unsure
from server.storage.turn import Rank, Turn

Value = str | int | None
Row = tuple[Any, ...]

_RETRY_SECONDS = 0.02
#: A change that goes first waits at least so long for its turn: one long change may be ahead of it, not more.
_FIRST_PATIENCE_SECONDS = 5.0
_TAKEN_BACK = "the store took back what was to be stored with it"


class CommittedError(asyncio.CancelledError):
    """The caller was cancelled while its transaction was committed: it is, and the cancellation goes on."""


class Query:
    """Runs statements with `?` placeholders inside one write transaction and returns their rows.

    `audit` seals what goes to the audit; `heads` are its heads by node as they were last seen, signed for the list
    `nodes`, which another program may have moved on since. `committed` are the newest of them that are known to be
    stored for good: a store whose head is behind has lost records.
    """

    def __init__(self, run: Callable[..., Awaitable[list[Row]]], audit: Sealer) -> None:
        """Take what runs a statement."""
        self._run = run
        self.audit = audit
        self.heads: dict[str, tuple[Head, str]] = {}
        self.nodes: tuple[str, ...] = ()
        self.committed: dict[str, Head] = {}

    def taken_back(self) -> None:
        """Forget heads that may stand for records that were taken back."""
        self.heads.clear()

    def stored(self) -> None:
        """Keep in mind what was committed."""
        self.committed.update({node: head for node, (head, _) in self.heads.items()})

    async def __call__(self, sql: str, *values: Value) -> list[Row]:
        """Run one statement."""
        return await self._run(sql, *values)


class _Group:
    """Changes that are committed together; `outcome` is set when they are stored, or to what kept them from it."""

    def __init__(self) -> None:
        self.changes = 0
        self.outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.commit_rank: Rank | None = None
        self.committing: list[asyncio.Task[None]] = []


class Writer:
    """The connection that writes. `changes` and `commits` tell how long those took."""

    def __init__(self, connection: aiosqlite.Connection, audit: Sealer, trouble: Trouble) -> None:
        """Take an open connection that nobody else writes with."""
        self._trouble = trouble
        self._connection = connection
        self._query = Query(self._run, audit)
        self._turn = Turn()
        self._group: _Group | None = None
        self.changes, self.commits = Durations(), Durations()

    async def close(self) -> None:
        """Wait for what is running and close the connection; safe to call twice."""
        async with self._turn.held(Rank.LONG):
            group = self._group
        if group is not None:
            await asyncio.wait({group.outcome})
        async with self._turn.held(Rank.LONG):
            await self._connection.close()

    async def foreign_version(self) -> int:
        """Return a number that is another one when another program has committed something since."""
        with self._trouble.passing_as_temporary():
            ((version,),) = await self._run("PRAGMA data_version")
        return int(version)

    @asynccontextmanager
    async def transaction(self, patience_seconds: float, rank: Rank = Rank.ORDINARY) -> AsyncIterator[Query]:
        """Give a `query` for one change; it is stored whole when the block has ended well, else not at all.

        Where several wait, `rank` decides which goes first.

        Raises TemporaryError when the store is away, or busy for longer than `patience_seconds`; nothing is changed
        then.
        """
        deadline = asyncio.get_running_loop().time() + patience_seconds
        with self._trouble.passing_as_temporary(), self.changes.timed():
            await self._take_turn(rank, deadline)
            try:
                group = await self._joined(deadline)
                try:
                    yield self._query
                except BaseException as error:
                    await self._taken_back(group, error)
                    raise
                group.changes += 1
                self._commit_soon(group, rank)
            finally:
                self._turn.release()
            await _ended(group.outcome)

    async def _take_turn(self, rank: Rank, deadline: float) -> None:
        if rank is Rank.FIRST:
            deadline = max(deadline, asyncio.get_running_loop().time() + _FIRST_PATIENCE_SECONDS)
        try:
            async with asyncio.timeout_at(deadline):
                await self._turn.acquire(rank)
        except TimeoutError:
            raise temporary(BUSY) from None

    async def _joined(self, deadline: float) -> _Group:
        """Return the group that is open, behind a savepoint, or a new one, begun."""
        if self._group is not None and not self._connection.in_transaction:
            # a savepoint would begin another transaction, whose commit would be told to those who were in this one
            await self._fail(self._group, temporary(_TAKEN_BACK))
        if self._group is None:
            await self._begin(deadline)
            self._group = _Group()
        else:
            await self._whole("SAVEPOINT change")
        return self._group

    async def _begin(self, deadline: float) -> None:
        """Begin as soon as no other program writes. Waits here and not in SQLite, so that Ctrl-C and SIGTERM pass."""
        while True:
            try:
                return await self._whole("BEGIN IMMEDIATE")
            except asyncio.CancelledError:
                await self._roll_back()
                raise
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(_RETRY_SECONDS)

    async def _taken_back(self, group: _Group, error: BaseException) -> None:
        """Take back the change that failed. Where that cannot be done alone, the whole group fails with it."""
        self._query.taken_back()
        if not (group.changes and self._connection.in_transaction):
            await self._fail(group, error)
            return
        taking_back = asyncio.ensure_future(self._run("ROLLBACK TO change"))
        try:
            await _ended(taking_back, stores=False)
        except (sqlite3.Error, asyncio.CancelledError) as ended:
            if broken := taking_back.exception():  # also where a cancellation has come before it
                await self._fail(group, broken)
            if isinstance(ended, asyncio.CancelledError):
                raise

    def _commit_soon(self, group: _Group, rank: Rank) -> None:
        """Commit behind those that wait for their turn now, which join the group, but not behind long changes.

        A change that goes first waits only for others that do.
        """
        rank = min(rank, Rank.ORDINARY)
        if group.commit_rank is None or rank < group.commit_rank:
            group.commit_rank = rank
            group.committing.append(asyncio.create_task(self._commit(group, rank)))

    async def _commit(self, group: _Group, rank: Rank) -> None:
        async with self._turn.held(rank):
            if self._group is not group:
                return  # it has failed, or is committed already
            if not self._connection.in_transaction:
                await self._fail(group, temporary(_TAKEN_BACK))
                return
            try:
                with self.commits.timed():
                    await self._run("COMMIT")
            except BaseException as error:  # noqa: BLE001  whatever it is, nobody may wait for ever
                await self._fail(group, await self._off_the_disk(error))
                return
            self._query.stored()
            self._group = None
            group.outcome.set_result(None)

    async def _fail(self, group: _Group, error: BaseException) -> None:
        """Roll back, and tell those whose changes had gone well before."""
        self._query.taken_back()
        self._group = None
        try:
            await self._roll_back()
        finally:
            told = error if isinstance(error, sqlite3.Error | TemporaryError) else temporary(_TAKEN_BACK)
            group.outcome.set_exception(told)
            group.outcome.exception()  # seen, also where its only change was the one that failed

    async def _roll_back(self) -> None:
        if self._connection.in_transaction:
            with suppress(sqlite3.Error):
                await self._whole("ROLLBACK")

    async def _off_the_disk(self, error: BaseException) -> BaseException:
        """Write over what a commit has left in the write-ahead log whose sync alone has failed; return what to tell.

        It would be in force after a restart, although its clients were told that nothing was changed. Any write begins
        at the same place; this one changes nothing.
        """
        if _code(error) != sqlite3.SQLITE_IOERR_FSYNC:
            return error  # what makes it a commit is written last, and was not
        await self._roll_back()
        try:
            await self._whole("PRAGMA user_version = 0")
        except sqlite3.Error as again:
            if _code(again) != sqlite3.SQLITE_IOERR_FSYNC:
                return unsure(error)
        return error

    async def _run(self, sql: str, *values: Value) -> list[Row]:
        rows: Any = await self._connection.execute_fetchall(sql, values)  # aiosqlite types them as sqlite3.Row
        return rows if isinstance(rows, list) else list(rows)

    async def _whole(self, sql: str) -> None:
        """Run a statement to its end, even when the caller is cancelled meanwhile; the cancellation follows."""
        await _ended(asyncio.ensure_future(self._run(sql)), stores=False)


def _code(error: BaseException) -> int | None:
    return getattr(error, "sqlite_errorcode", None)


async def _ended(running: asyncio.Future[Any], *, stores: bool = True) -> None:
    """Wait for the end of something that cancelling must not cut, then go on with what it came to.

    A cancellation meanwhile follows, as CommittedError where `stores` and the change is stored.
    """
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait({running})
        except asyncio.CancelledError as asked:
            cancelled = asked
    failed = running.exception()
    if cancelled is None:
        running.result()
    elif failed is None and stores:
        raise CommittedError from cancelled
    else:
        raise cancelled
