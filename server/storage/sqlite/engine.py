"""One SQLite file behind a writing and a reading connection, each with its thread.

Writes go to disk with `synchronous=FULL` before they are acknowledged: what was survives a SIGKILL and a power cut.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import aiosqlite

from server.errors import TemporaryError
from server.storage.engine import Reason, Row, Value
from server.storage.feed import EVERYTHING, Topic
from server.storage.sqlite.errors import is_busy, is_failed_sync, open_reason
from server.storage.temporary import Failures
from server.storage.uncut import uncut

_STATEMENT_SECONDS = 0.2
_RETRY_SECONDS = 0.02
#: How often another program's commits are looked for.
_LOOK_SECONDS = 1.0
#: What the shared text leaves to the engine: see `server.storage.engine`.
_WORDS = (
    (re.compile(r"AS_BYTES\((\w+)\)"), r"CAST(\1 AS BLOB)"),
    (re.compile(r"IS_(TEXT|INTEGER)\((\w+)\)"), lambda found: f"typeof({found[2]}) = '{found[1].lower()}'"),
    (re.compile(r"BYTE_LENGTH\((\w+)\)"), r"LENGTH(CAST(\1 AS BLOB))"),
    (re.compile(r"CONTAINS\((.+?), \?\)"), r"instr(\1, ?) > 0"),
    (re.compile(r"FOLD_ASCII\((\w+)\)"), r"lower(\1)"),
)

_log = logging.getLogger("ecss-console.storage")


@lru_cache(maxsize=512)
def translated(sql: str) -> str:
    """Return the shared text in SQLite's words."""
    for word, own in _WORDS:
        sql = word.sub(own, sql)
    return sql


class SqliteEngine:
    """An `Engine`. Make one with `SqliteEngine.open`; `close` it, or its threads keep the process alive."""

    def __init__(self, writer: aiosqlite.Connection, reader: aiosqlite.Connection, path: Path) -> None:
        """Take two open connections to one file."""
        self._writer = writer
        self._reader = reader
        self._path = path
        self._version: int | None = None

    @classmethod
    async def open(cls, path: Path, *, checkpoints: bool = True) -> SqliteEngine:
        """Open a database that `prepare` has checked. Raises TemporaryError when it is away.

        Beside a server, a program opens it without `checkpoints`: SQLite before 3.51.3 may damage a database where
        two connections make them at the same time. The last one that closes it makes one alone.
        """
        with Failures(open_reason).passing_as_temporary():
            writer = await _connected(path)
            try:
                if not checkpoints:
                    await writer.execute_fetchall("PRAGMA wal_autocheckpoint = 0")
                return cls(writer, await _connected(path), path)
            except BaseException:
                await writer.close()
                raise

    @property
    def in_transaction(self) -> bool:
        """Whether the transaction still stands: SQLite takes it back by itself when the disk is full."""
        return self._writer.in_transaction

    async def begin(self, deadline: float) -> None:
        """Begin as soon as no other program writes. Waits here and not in SQLite, so that Ctrl-C and SIGTERM pass."""
        while True:
            try:
                return await self._whole("BEGIN IMMEDIATE")
            except asyncio.CancelledError:
                await self.rollback()
                raise
            except sqlite3.OperationalError as error:
                if not is_busy(error) or asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(_RETRY_SECONDS)

    async def savepoint(self) -> None:
        """Set the savepoint; `rollback_to` takes the newest one of this name."""
        await self._whole("SAVEPOINT change")

    async def rollback_to(self) -> None:
        """Take back what was written since the savepoint."""
        await self._whole("ROLLBACK TO change")

    async def commit(self) -> None:
        """Commit down to the disk; a commit whose sync has failed is written over."""
        try:
            await self.run("COMMIT")
        except sqlite3.Error as error:
            if is_failed_sync(error):  # of any other failure nothing is left: the mark of a commit is written last
                await self._write_over(error)
            raise

    async def rollback(self) -> None:
        """Take the transaction back if there is one."""
        if self.in_transaction:
            with suppress(sqlite3.Error):
                await self._whole("ROLLBACK")

    async def run(self, sql: str, *values: Value) -> list[Row]:
        """Run a statement inside the transaction: one hop to the thread."""
        return _rows(await self._writer.execute_fetchall(translated(sql), values))

    async def run_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> None:
        """Run a statement for every row; one prepared statement serves any number of them."""
        async with self._writer.executemany(translated(sql), rows):
            pass

    async def read(self, sql: str, *values: Value) -> list[Row]:
        """Run a SELECT over what is committed."""
        return _rows(await self._reader.execute_fetchall(translated(sql), values))

    def reason(self, error: BaseException) -> Reason | None:
        """Return why an error passes; also one that says of an open store that it is damaged."""
        return open_reason(error)

    async def changed_elsewhere(self) -> frozenset[Topic]:
        """Look once a second whether another program has committed; SQLite does not tell what it was."""
        while True:
            if self._version is not None:
                await asyncio.sleep(_LOOK_SECONDS)
            ((version,),) = await self.run("PRAGMA data_version")  # commits of this connection do not change it
            before, self._version = self._version, version
            if version != before:
                return EVERYTHING

    def sizes_bytes(self) -> tuple[int, int]:
        """Return the size of the database, and of the write-ahead log beside it."""
        return _size(self._path), _size(self._path.with_name(self._path.name + "-wal"))

    async def close(self) -> None:
        """Close both connections.

        A thread that was left behind answers to a loop that is closed, or keeps the program from ending.
        """
        await uncut(self._close())

    async def _close(self) -> None:
        await self._writer.close()
        await self._reader.close()

    async def _write_over(self, error: sqlite3.Error) -> None:
        """Write over what a commit has left in the write-ahead log whose sync alone has failed.

        It would be in force after a restart, although its clients were told that nothing was changed. Any write begins
        at the same place; this one changes nothing. Raises TemporaryError where it fails too.
        """
        await self.rollback()
        try:
            await self._whole("PRAGMA user_version = 0")
        except sqlite3.Error as again:
            if not is_failed_sync(again):
                _log.error("a commit has failed and cannot be taken off the disk: %s", error)
                what = "the disk does not answer, the change is not in force but may be after a restart"
                message = f"{what}; look before you try again"
                raise TemporaryError(message) from again

    async def _whole(self, sql: str) -> None:
        """Run a statement to its end, also when the caller is cancelled meanwhile."""
        await uncut(self.run(sql))


def _rows(rows: Any) -> list[Row]:  # noqa: ANN401  aiosqlite types them as sqlite3.Row
    return rows if isinstance(rows, list) else list(rows)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


async def _opened(connection: aiosqlite.Connection) -> None:
    await connection


async def _connected(path: Path) -> aiosqlite.Connection:
    connection = aiosqlite.connect(path, isolation_level=None, timeout=_STATEMENT_SECONDS)
    try:
        await uncut(_opened(connection))
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
