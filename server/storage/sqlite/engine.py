"""One SQLite file with a writing and a reading connection, each in its own thread.

With `synchronous=FULL` a write is on the disk before it is acknowledged, so it survives a SIGKILL and a power cut.
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
from server.storage.feed import EVERYTHING, Changed, Topic
from server.storage.sqlite.errors import is_busy, is_failed_sync, open_reason
from server.storage.temporary import Failures
from server.storage.uncut import uncut

_STATEMENT_SECONDS = 0.2
_RETRY_SECONDS = 0.02
#: The interval between two looks for other programs' commits.
_POLL_SECONDS = 1.0
_MOST_CHANGES = 256
#: SQLite's syntax for the functions of the shared SQL: see `server.storage.engine`.
_TRANSLATIONS = (
    (re.compile(r"AS_BYTES\((\w+)\)"), r"CAST(\1 AS BLOB)"),
    (re.compile(r"IS_(TEXT|INTEGER)\((\w+)\)"), lambda found: f"typeof({found[2]}) = '{found[1].lower()}'"),
    (re.compile(r"BYTE_LENGTH\((\w+)\)"), r"LENGTH(CAST(\1 AS BLOB))"),
    (re.compile(r"CONTAINS\((.+?), \?\)"), r"instr(\1, ?) > 0"),
    (re.compile(r"FOLD_ASCII\((\w+)\)"), r"lower(\1)"),
)

_log = logging.getLogger("ecss-console.storage")


@lru_cache(maxsize=512)
def translated(sql: str) -> str:
    """Translate the shared SQL to SQLite's."""
    for pattern, replacement in _TRANSLATIONS:
        sql = pattern.sub(replacement, sql)
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
        """Open a database that `prepare` has checked. Raises TemporaryError when it cannot be reached.

        A program that runs beside a server sets `checkpoints=False`: SQLite before 3.51.3 may damage a database when
        two connections make a checkpoint at the same time. The last connection still makes one when it closes.
        """
        with Failures(open_reason).raised_as_temporary():
            writer = await _connect(path)
            try:
                if not checkpoints:
                    await writer.execute_fetchall("PRAGMA wal_autocheckpoint = 0")
                return cls(writer, await _connect(path), path)
            except BaseException:
                await writer.close()
                raise

    @property
    def most_changes(self) -> int:
        """The most changes of one transaction; more would delay the first of them."""
        return _MOST_CHANGES

    @property
    def in_transaction(self) -> bool:
        """Whether the transaction is still open: SQLite rolls it back by itself when the disk is full."""
        return self._writer.in_transaction

    async def begin(self, deadline: float) -> None:
        """Begin a transaction as soon as no other program writes.

        Waits in the event loop and not in SQLite, so that Ctrl-C and SIGTERM work meanwhile.
        """
        while True:
            try:
                return await self._run_to_end("BEGIN IMMEDIATE")
            except asyncio.CancelledError:
                await self.rollback()
                raise
            except sqlite3.OperationalError as error:
                if not is_busy(error) or asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(_RETRY_SECONDS)

    async def savepoint(self) -> None:
        """Set the savepoint; `rollback_to` goes back to the newest one of this name."""
        await self._run_to_end("SAVEPOINT change")

    async def rollback_to(self) -> None:
        """Undo all writes since the savepoint."""
        await self._run_to_end("ROLLBACK TO change")

    async def commit(self, shared: frozenset[Topic]) -> int:  # noqa: ARG002  the other programs poll
        """Commit to the disk. After a failed sync, overwrite the commit in the write-ahead log."""
        try:
            await self.run("COMMIT")
        except sqlite3.Error as error:
            if is_failed_sync(error):  # other failures leave nothing, because the commit mark is written last
                await self._overwrite_failed_commit(error)
            raise
        return 0

    async def rollback(self) -> None:
        """Roll back the transaction if there is one."""
        if self.in_transaction:
            with suppress(sqlite3.Error):
                await self._run_to_end("ROLLBACK")

    async def run(self, sql: str, *values: Value) -> list[Row]:
        """Run a statement inside the transaction: one hop to the thread."""
        return _rows(await self._writer.execute_fetchall(translated(sql), values))

    async def run_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> None:
        """Run one prepared statement for every row."""
        async with self._writer.executemany(translated(sql), rows):
            pass

    async def read(self, sql: str, *values: Value) -> list[Row]:
        """Run a SELECT over committed data."""
        return _rows(await self._reader.execute_fetchall(translated(sql), values))

    def reason(self, error: BaseException) -> Reason | None:
        """Return why an error is temporary. Damage that SQLite reports of an open store counts too."""
        return open_reason(error)

    async def changed_elsewhere(self) -> Changed:
        """Look once a second for commits of other programs; SQLite does not tell what they changed."""
        while True:
            if self._version is not None:
                await asyncio.sleep(_POLL_SECONDS)
            ((version,),) = await self.run("PRAGMA data_version")  # does not count this connection's own commits
            before, self._version = self._version, version
            if version != before:
                return Changed(EVERYTHING, elsewhere=True)

    def sizes_bytes(self) -> tuple[int, int]:
        """Return the sizes of the database and of its write-ahead log."""
        return _size(self._path), _size(self._path.with_name(self._path.name + "-wal"))

    async def close(self) -> None:
        """Close both connections.

        A thread that is left running would call a closed event loop, or keep the process alive.
        """
        await uncut(self._close())

    async def _close(self) -> None:
        await self._writer.close()
        await self._reader.close()

    async def _overwrite_failed_commit(self, error: sqlite3.Error) -> None:
        """Overwrite the rest of a commit in the write-ahead log when only its sync has failed.

        Otherwise the commit would be in force after a restart, although its clients were told that nothing was changed.
        Any write begins at the same place in the log; this one changes nothing. Raises TemporaryError when it fails
        too.
        """
        await self.rollback()
        try:
            await self._run_to_end("PRAGMA user_version = 0")
        except sqlite3.Error as again:
            if not is_failed_sync(again):
                _log.error("a commit has failed and cannot be taken off the disk: %s", error)
                what = "the disk does not answer, the change is not in force but may be after a restart"
                message = f"{what}; look before you try again"
                raise TemporaryError(message) from again

    async def _run_to_end(self, sql: str) -> None:
        """Run a statement to its end, even if the caller is cancelled meanwhile."""
        await uncut(self.run(sql))


def _rows(rows: Any) -> list[Row]:  # noqa: ANN401  aiosqlite types them as sqlite3.Row
    return rows if isinstance(rows, list) else list(rows)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


async def _wait_until_open(connection: aiosqlite.Connection) -> None:
    await connection


async def _connect(path: Path) -> aiosqlite.Connection:
    connection = aiosqlite.connect(path, isolation_level=None, timeout=_STATEMENT_SECONDS)
    try:
        await uncut(_wait_until_open(connection))
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
