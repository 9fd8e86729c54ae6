"""One SQLite file behind one writer and one reader connection, each with its thread.

Every write is one `BEGIN IMMEDIATE` transaction with `synchronous=FULL`: what was acknowledged survives a SIGKILL.
A cancelled transaction ends whole or not at all before the cancellation goes on.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiosqlite

from server.errors import TemporaryError
from server.node import metrics
from server.node.measures import Durations
from server.node.metrics import Reading
from server.storage.chain import Head, Sealer
from server.storage.vault import Vault

Value = str | int | None
Row = tuple[Any, ...]

#: Runs one SELECT with `?` placeholders, over what is committed or inside a transaction.
Read = Callable[..., Awaitable[list[Row]]]


class CommittedError(asyncio.CancelledError):
    """The caller was cancelled while its transaction was committed: it is, and the cancellation goes on."""


class Query:
    """Runs statements with `?` placeholders inside one write transaction and returns their rows.

    `audit` seals what goes to the audit; `heads` are its heads by node as they were last seen, which another program
    may have moved on since.
    """

    def __init__(self, run: Callable[..., Awaitable[list[Row]]], audit: Sealer) -> None:
        """Take what runs a statement."""
        self._run = run
        self.audit = audit
        self.heads: dict[str, tuple[Head, str]] = {}

    async def __call__(self, sql: str, *values: Value) -> list[Row]:
        """Run one statement."""
        return await self._run(sql, *values)


#: How long a change waits for its turn and for other programs before it is refused as temporary.
PATIENCE_SECONDS = 5.0
_RETRY_SECONDS = 0.02
_STATEMENT_SECONDS = 0.2
#: SQLite's primary result codes that pass or can be mended from outside: try again later.
_PASSING = {
    sqlite3.SQLITE_BUSY: "the store is busy",
    sqlite3.SQLITE_LOCKED: "the store is busy",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk does not answer",
    sqlite3.SQLITE_READONLY: "the store can only be read",
    sqlite3.SQLITE_CANTOPEN: "the store cannot be opened",
    sqlite3.SQLITE_NOMEM: "the machine is out of memory",
}
_NOTHING_CHANGED = "nothing was changed; try again"


class Store:
    """The open store. Make one with `Store.open`; `close` it, or its threads keep the process alive."""

    def __init__(self, writer: aiosqlite.Connection, reader: aiosqlite.Connection, vault: Vault, path: Path) -> None:
        """Take two open connections to one file."""
        self._writer = writer
        self._reader = reader
        self._turn = asyncio.Lock()
        self._query = Query(self._run, vault.audit)
        self.vault = vault
        self._path = path
        self._reads, self._changes, self._commits = Durations(), Durations(), Durations()

    @classmethod
    async def open(cls, path: Path, vault: Vault) -> Store:
        """Open a database that `storage.files` has prepared. Raises TemporaryError when it is away."""
        with _passing_as_temporary():
            writer = await _connected(path)
            try:
                return cls(writer, await _connected(path), vault, path)
            except BaseException:
                await writer.close()
                raise

    async def close(self) -> None:
        """Wait for what is running and close both connections; safe to call twice."""
        async with self._turn:
            await self._reader.close()
            await self._writer.close()

    async def foreign_version(self) -> int:
        """Return a number that is another one when another program has committed something since."""
        with _passing_as_temporary():
            ((version,),) = _rows(await self._writer.execute_fetchall("PRAGMA data_version"))
        return int(version)

    async def read(self, sql: str, *values: Value) -> list[Row]:
        """Run one SELECT over what is committed. Raises TemporaryError while the store is busy or away."""
        with _passing_as_temporary(), self._reads.timed():
            return _rows(await self._reader.execute_fetchall(sql, values))

    def readings(self) -> Iterator[Reading]:
        """Yield how long the store took, and its size."""
        timed = [(("read",), self._reads), (("change",), self._changes), (("commit",), self._commits)]
        yield Reading(metrics.STORE_SECONDS, timed)
        database, wal = self.sizes_bytes()
        yield Reading(metrics.STORE_BYTES, [(("database",), database), (("wal",), wal)])

    def sizes_bytes(self) -> tuple[int, int]:
        """Return the size of the database, and of the file beside it that has what was committed last."""
        return _size(self._path), _size(self._path.with_name(self._path.name + "-wal"))

    async def schema(self) -> str:
        """Return the number of the schema; whoever asks knows that the store answers."""
        ((number,),) = await self.read("SELECT value FROM store WHERE name = 'schema'")
        return str(number)

    @asynccontextmanager
    async def transaction(self, patience_seconds: float = PATIENCE_SECONDS) -> AsyncIterator[Query]:
        """Give a `query` inside one immediate write transaction; it commits when the block ends, else rolls back.

        Raises TemporaryError when the store is away, or busy for longer than `patience_seconds`; nothing is changed
        then.
        """
        deadline = asyncio.get_running_loop().time() + patience_seconds
        with _passing_as_temporary(), self._changes.timed():
            await self._take_turn(deadline)
            try:
                await self._begin(deadline)
                yield self._query
                with self._commits.timed():
                    await self._finish("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    with suppress(sqlite3.Error):
                        await self._finish("ROLLBACK")
                raise
            finally:
                self._turn.release()

    async def _take_turn(self, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await self._turn.acquire()
        except TimeoutError:
            message = f"{_PASSING[sqlite3.SQLITE_BUSY]}, {_NOTHING_CHANGED}"
            raise TemporaryError(message) from None

    async def _begin(self, deadline: float) -> None:
        """Begin as soon as no other program writes. Waits here and not in SQLite, so that Ctrl-C and SIGTERM pass."""
        while True:
            try:
                return await self._finish("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(_RETRY_SECONDS)

    async def _run(self, sql: str, *values: Value) -> list[Row]:
        return _rows(await self._writer.execute_fetchall(sql, values))

    async def _finish(self, sql: str) -> None:
        """Run a statement to its end, even when the caller is cancelled meanwhile; the cancellation follows."""
        running = asyncio.ensure_future(self._writer.execute_fetchall(sql))
        cancelled: asyncio.CancelledError | None = None
        while not running.done():
            try:
                await asyncio.wait({running})
            except asyncio.CancelledError as asked:
                cancelled = asked
        failed = running.exception()
        if cancelled is None:
            running.result()
        elif failed is None and sql == "COMMIT":
            raise CommittedError from cancelled
        else:
            raise cancelled


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


async def first_and_last(
    store: Store, column: str, rows: str, values: tuple[Value, ...], beginning: str, most: int
) -> list[str]:
    """Return the `most` first of the names in `rows` that begin so, sorted, and the last one.

    What these begin with, all that lie between begin with: that is what Tab needs of ten thousand names.
    """
    where = f"FROM {rows} AND {column} >= ? AND {column} < ?"
    bounds = (*values, beginning, beginning + "\U0010ffff")
    found = [name for (name,) in await store.read(f"SELECT {column} {where} ORDER BY {column} LIMIT ?", *bounds, most)]
    if len(found) == most:
        ((last,),) = await store.read(f"SELECT max({column}) {where}", *bounds)
        found += [last] if last > found[-1] else []
    return found


async def _connected(path: Path) -> aiosqlite.Connection:
    connection = await aiosqlite.connect(path, isolation_level=None, timeout=_STATEMENT_SECONDS)
    try:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
            await connection.execute_fetchall(f"PRAGMA {pragma}")
    except BaseException:
        await connection.close()
        raise
    return connection


def _rows(rows: Any) -> list[Row]:  # noqa: ANN401  aiosqlite types rows as Iterable[sqlite3.Row]
    return rows if isinstance(rows, list) else list(rows)


@contextmanager
def _passing_as_temporary() -> Iterator[None]:
    """Turn errors of SQLite that pass into TemporaryError; the others are defects and go on."""
    try:
        yield
    except sqlite3.Error as error:
        reason = passing_reason(error)
        if reason is None:
            raise
        message = f"{reason}, {_NOTHING_CHANGED}"
        raise TemporaryError(message) from error


def passing_reason(error: sqlite3.Error) -> str | None:
    """Return what is wrong in plain words when it passes or can be mended from outside, else None."""
    return _PASSING.get(getattr(error, "sqlite_errorcode", -1) & 0xFF)
