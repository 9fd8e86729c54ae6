"""One SQLite file behind one writer and one reader connection, each with its thread.

Writes go to disk with `synchronous=FULL` before they are acknowledged: what was survives a SIGKILL and a power cut.
A cancelled transaction ends whole or not at all before the cancellation goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiosqlite

from server.node import metrics
from server.node.measures import Durations
from server.node.metrics import Reading
from server.storage.temporary import Trouble
from server.storage.turn import Rank
from server.storage.vault import Vault
from server.storage.writer import Query, Row, Value, Writer

#: Runs one SELECT with `?` placeholders, over what is committed or inside a transaction.
Read = Callable[..., Awaitable[list[Row]]]

#: How long a change waits for its turn and for other programs before it is refused as temporary.
PATIENCE_SECONDS = 5.0
_STATEMENT_SECONDS = 0.2


class Store:
    """The open store. Make one with `Store.open`; `close` it, or its threads keep the process alive."""

    def __init__(
        self, writer: Writer, reader: aiosqlite.Connection, vault: Vault, path: Path, trouble: Trouble
    ) -> None:
        """Take two open connections to one file, and the trouble that the writer tells of too."""
        self._writer = writer
        self._trouble = trouble
        self._reader = reader
        self.vault = vault
        self._path = path
        self._reads = Durations()

    @classmethod
    async def open(cls, path: Path, vault: Vault, *, checkpoints: bool = True) -> Store:
        """Open a database that `storage.files` has prepared. Raises TemporaryError when it is away.

        Beside a server, a program opens it without `checkpoints`: SQLite before 3.51.3 may damage a database where
        two connections make them at the same time. Whoever closes it as the last one makes one alone.
        """
        trouble = Trouble()
        with trouble.passing_as_temporary():
            writer = await _connected(path)
            try:
                if not checkpoints:
                    await writer.execute_fetchall("PRAGMA wal_autocheckpoint = 0")
                return cls(Writer(writer, vault.audit, trouble), await _connected(path), vault, path, trouble)
            except BaseException:
                await writer.close()
                raise

    async def close(self) -> None:
        """Wait for what is running and close both connections; safe to call twice."""
        await _whole(self._close())

    async def _close(self) -> None:
        await self._writer.close()
        await self._reader.close()

    async def foreign_version(self) -> int:
        """Return a number that is another one when another program has committed something since."""
        return await self._writer.foreign_version()

    async def read(self, sql: str, *values: Value) -> list[Row]:
        """Run one SELECT over what is committed. Raises TemporaryError while the store is busy or away."""
        with self._trouble.passing_as_temporary(), self._reads.timed():
            rows: Any = await self._reader.execute_fetchall(sql, values)  # aiosqlite types them as sqlite3.Row
            return rows if isinstance(rows, list) else list(rows)

    def readings(self) -> Iterator[Reading]:
        """Yield how long the store took, and its size."""
        writer = self._writer
        timed = [(("read",), self._reads), (("change",), writer.changes), (("commit",), writer.commits)]
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

    def transaction(
        self, patience_seconds: float = PATIENCE_SECONDS, rank: Rank = Rank.ORDINARY
    ) -> AbstractAsyncContextManager[Query]:
        """Give a `query` for one change; it is stored whole when the block has ended well, else not at all.

        Where several wait, `rank` decides which goes first.

        Raises TemporaryError when the store is away, or busy for longer than `patience_seconds`; nothing is changed
        then.
        """
        return self._writer.transaction(patience_seconds, rank)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


async def first_and_last(
    store: Store, names: str, values: tuple[Value, ...], column: str, beginning: str, most: int
) -> list[str]:
    """Return the `most` first names whose `column` begins so, sorted by it, and the last one.

    `names` is what to select, as in `name FROM users WHERE 1 = 1`. Tab needs only these of ten thousand names: the
    names between share the prefix of the first and the last.
    """
    select = f"SELECT {names} AND {column} >= ? AND {column} < ? ORDER BY {column}"
    bounds = (*values, beginning, beginning + "\U0010ffff")
    found = [name for (name,) in await store.read(f"{select} LIMIT ?", *bounds, most)]
    if len(found) == most:
        ((last,),) = await store.read(f"{select} DESC LIMIT 1", *bounds)
        found += [last] if last != found[-1] else []
    return found


async def _whole(work: Coroutine[object, object, None]) -> None:
    """Do the work to its end, also when cancelled in its midst, and be cancelled only then.

    A thread that was left behind answers to a loop that is closed, or keeps the program from ending.
    """
    task = asyncio.get_running_loop().create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _open(connection: aiosqlite.Connection) -> None:
    await connection


async def _connected(path: Path) -> aiosqlite.Connection:
    connection = aiosqlite.connect(path, isolation_level=None, timeout=_STATEMENT_SECONDS)
    try:
        await _whole(_open(connection))
    except asyncio.CancelledError:
        await connection.close()
        raise
    try:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
            await connection.execute_fetchall(f"PRAGMA {pragma}")
    except BaseException:
        await connection.close()
        raise
    return connection
