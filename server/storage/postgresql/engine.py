"""One PostgreSQL database, which several nodes share.

One advisory lock allows one write transaction at a time in the whole cluster, as `BEGIN IMMEDIATE` does for a SQLite
file. Without it, nodes would lose updates, and records would become visible in another order than their ids.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import asyncpg

from server.errors import TemporaryError
from server.storage.engine import Reason, Row, Value
from server.storage.feed import EVERYTHING, Changed, Topic
from server.storage.postgresql import schema
from server.storage.postgresql.connection import Address, Connection
from server.storage.postgresql.control import LOST, Control, Subscription
from server.storage.postgresql.errors import is_lost, reason
from server.storage.postgresql.lost_commit import find_outcome
from server.storage.postgresql.schema import WRITE_LOCK
from server.storage.postgresql.translation import storable, translated
from server.storage.temporary import temporary

CHANGES_CHANNEL = "ecss_changes"
#: More subtransactions than this would make the snapshots of all sessions slow (source: PostgreSQL, subxact overflow).
_MOST_CHANGES = 64
_READERS = 2
#: How long a read waits for the database, as a change does.
_PATIENCE_SECONDS = 5.0
_LEAST_WAIT_SECONDS = 0.05
_RETRY_SECONDS = 0.05
#: A commit that takes longer is looked up on another connection.
_COMMIT_SECONDS = 5.0
_POLL_SECONDS = 2.0
_CLOSE_SECONDS = 1.0
#: The answer of the server comes this much later than its own limit, at most.
_SLACK_SECONDS = 1.0
#: The token tells later whether this transaction is committed. A taken name stops the writes of its former node. A new
#: number of the schema means that a restore has replaced the store, perhaps by one with another storage key. A node
#: that froze until its lease ended may find a store that a newer version has upgraded.
_FIRST_STATEMENT = """
INSERT INTO commit_tokens (writer, token, at) VALUES ($1, $2, clock_timestamp())
ON CONFLICT (writer) DO UPDATE SET token = excluded.token, at = excluded.at
RETURNING pg_current_xact_id()::text, (SELECT count(*) FROM nodes WHERE name = $3 AND boot = $4),
    (SELECT relnamespace::bigint FROM pg_class WHERE oid = commit_tokens.tableoid),
    (SELECT value FROM store WHERE name = 'schema')
"""
_ANNOUNCE = """
WITH counted AS (UPDATE change_counter SET number = number + 1 WHERE number < 100000000000000000 RETURNING number)
SELECT number, pg_notify($1, concat_ws(' ', $2::text, number, $3::text)) FROM counted
"""
_NOT_COUNTED = (
    "the table change_counter of the database has no usable number, so other nodes would not hear of a change; "
    "nothing was changed; restore the store from a copy"
)
#: A token is needed for seconds. Those of killed processes go too.
_FORGET = "DELETE FROM commit_tokens WHERE writer = $1 OR at < clock_timestamp() - INTERVAL '1 day'"
#: What `_ANNOUNCE` sends.
_FOREIGN = re.compile(r"(?P<writer>\w+) (?P<number>[0-9]{1,18}) (?P<topics>.*)")


class PostgresqlEngine:
    """An `Engine`. `control` is for leases and questions between nodes. `close` it, or its tasks stay."""

    def __init__(self, address: Address, schema_oid: int) -> None:
        """Take the address of a database and the schema that `prepare` has checked; connections open when needed."""
        self._address = address
        self._writer = Connection(address, "writer")
        self._readers = [Connection(address, f"reader {number}") for number in range(1, _READERS + 1)]
        self._free_readers = [*self._readers]
        self._may_read = asyncio.Semaphore(_READERS)
        self._reads: set[asyncio.Task[list[Row]]] = set()
        self._in_transaction: asyncpg.Connection | None = None
        self._transaction_id = self._token = ""
        self._id = secrets.token_hex(8)
        self._node: tuple[str, str] | None = None
        self._schema_oid = schema_oid
        self.control = Control(address)
        self._watching: asyncio.Task[None] | None = None
        self._changes: Subscription | None = None

    @property
    def most_changes(self) -> int:
        """The most changes of one transaction."""
        return _MOST_CHANGES

    @property
    def in_transaction(self) -> bool:
        """Whether the transaction is still open: it ends with its connection."""
        connection = self._in_transaction
        return connection is not None and not connection.is_closed() and bool(connection.is_in_transaction())

    def fence(self, name: str, boot: str) -> None:
        """Write only as long as this run of the node (`boot`) has the node's name."""
        self._node = (name, boot)

    async def begin(self, deadline: float) -> None:
        """Begin a transaction as soon as no other node writes, and no later than `deadline`.

        Raises TemporaryError when another console has taken the node's name.
        """
        while True:
            connection = await self._writer.opened(deadline)
            try:
                await self._begin_on(connection, deadline)
            except BaseException as error:  # also after a cancellation: an open transaction would stop all nodes
                await self.rollback()
                if not is_lost(error) or asyncio.get_running_loop().time() + _RETRY_SECONDS > deadline:
                    raise
            else:
                self._follow_writer()
                return
            await asyncio.sleep(_RETRY_SECONDS)

    async def savepoint(self) -> None:
        """Set the savepoint; `rollback_to` goes back to the newest one of this name."""
        await self._execute("SAVEPOINT change")

    async def rollback_to(self) -> None:
        """Undo all writes since the savepoint."""
        await self._execute("ROLLBACK TO SAVEPOINT change")

    async def commit(self, shared: frozenset[Topic]) -> int:
        """Commit, and tell the other nodes of the `shared` topics.

        A commit without an answer is looked up: it may be stored or not. Raises TemporaryError when that is unknown.
        """
        number = await self._announce(shared) if shared else 0
        connection = self._of_transaction()
        try:
            done = await self._writer.run(connection.execute("COMMIT"), _COMMIT_SECONDS)
        except Exception as error:
            if not is_lost(error):
                raise
            if not await find_outcome(self._writer, self._id, self._token, self._transaction_id):
                raise
        else:
            if done != "COMMIT":  # what PostgreSQL says after a failed statement
                message = "the transaction was rolled back, because the error of a statement was ignored"
                raise RuntimeError(message)
        self._in_transaction = None
        return number

    async def rollback(self) -> None:
        """Roll back the transaction if there is one."""
        connection, self._in_transaction = self._in_transaction, None
        if connection is None or connection.is_closed() or not connection.is_in_transaction():
            return
        try:
            await self._writer.run(connection.execute("ROLLBACK"))
        except Exception:  # noqa: BLE001  without its connection the transaction ends too
            self._writer.drop()

    async def run(self, sql: str, *values: Value) -> list[Row]:
        """Run a statement inside the transaction."""
        connection = self._of_transaction()
        return _rows(await self._writer.run(connection.fetch(translated(sql), *storable(values))))

    async def run_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> None:
        """Run one prepared statement for every row."""
        connection = self._of_transaction()
        stored = [storable(tuple(row)) for row in rows]
        await self._writer.run(connection.executemany(translated(sql), stored))

    async def read(self, sql: str, *values: Value) -> list[Row]:
        """Run a SELECT over committed data. A short absence of the database passes unnoticed.

        A cancelled read leaves at once; its connection is free again when the answer has come.
        """
        reading = asyncio.get_running_loop().create_task(self._read(translated(sql), storable(values)))
        self._reads.add(reading)
        reading.add_done_callback(self._read_done)
        return await asyncio.shield(reading)

    def reason(self, error: BaseException) -> Reason | None:
        """Return why an error is temporary; None for a defect or an error that is not the driver's."""
        return reason(error)

    async def changed_elsewhere(self) -> Changed:
        """Wait for a notification of another writer. After a lost connection, everything may have changed."""
        if self._changes is None:
            self._changes = self.control.subscribe(CHANGES_CHANNEL)
        self.watch()
        while True:
            number, topics = 0, frozenset[Topic]()
            for payload in await self._changes.next(_POLL_SECONDS):
                found = _FOREIGN.fullmatch(payload)
                if payload == LOST or found is None:  # or of a newer version
                    topics |= EVERYTHING
                elif found["writer"] != self._id:
                    number = max(number, int(found["number"]))
                    topics |= _topics(found["topics"])
            if topics:
                return Changed(topics, elsewhere=True, number=number)

    def watch(self) -> None:
        """Keep the control connection open from now on."""
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self.control.run_loop())

    def sizes_bytes(self) -> tuple[int, int]:
        """Return the size of the database as the control connection last saw it, and 0 for a log."""
        return self.control.size_bytes, 0

    async def close(self) -> None:
        """Close all connections; safe to call twice. Reads that still run fail."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
        if (writer := self._writer.current) is not None:
            with suppress(Exception):  # it goes with the next writer that closes
                await self._writer.run(writer.execute(_FORGET, self._id), _CLOSE_SECONDS)
        await asyncio.gather(self.control.close(), *(each.close() for each in (self._writer, *self._readers)))
        if self._reads:
            await asyncio.wait(self._reads)

    async def _begin_on(self, connection: asyncpg.Connection, deadline: float) -> None:
        left_seconds = max(_LEAST_WAIT_SECONDS, deadline - asyncio.get_running_loop().time())
        begin = (
            f"BEGIN; SET LOCAL lock_timeout = {round(left_seconds * 1000)}; SELECT pg_advisory_xact_lock({WRITE_LOCK})"
        )
        self._in_transaction = connection
        # a cancelled caller gives the connection up, because the server may wait for the lock for long
        waiting = asyncio.ensure_future(self._writer.run(connection.execute(begin), left_seconds + _SLACK_SECONDS))
        try:
            await asyncio.wait({waiting})
        except asyncio.CancelledError:
            self._writer.drop()  # the server ends the transaction, even if it waits for the lock
            self._in_transaction = None
            waiting.add_done_callback(lambda done: done.exception())
            raise
        waiting.result()
        self._token = secrets.token_hex(8)
        name, boot = self._node or ("", "")
        row = await self._writer.run(connection.fetchrow(_FIRST_STATEMENT, self._id, self._token, name, boot))
        self._transaction_id, has_name, schema_oid, schema_number = row
        if schema_oid != self._schema_oid:
            message = "a restore has replaced the store, so this console must be started again"
            raise temporary(message)
        if schema_number != str(schema.newest()):
            message = (
                f"the store has schema {schema_number} by now, this program knows {schema.newest()}: install the newer "
                "program"
            )
            raise temporary(message)
        if self._node is not None and not has_name:
            message = f"another console has taken the name {name} of this node"
            raise temporary(message)

    def _read_done(self, reading: asyncio.Task[list[Row]]) -> None:
        self._reads.discard(reading)
        if not reading.cancelled():
            reading.exception()  # of a cancelled caller: an error that nobody awaits is no defect to log

    def _follow_writer(self) -> None:
        """Let all connections leave a host that takes no changes any more."""
        self.control.follow(self._writer)
        for reader in self._readers:
            reader.follow(self._writer)

    async def _announce(self, shared: frozenset[Topic]) -> int:
        connection = self._of_transaction()
        names = ",".join(sorted(topic.value for topic in shared))
        row = await self._writer.run(connection.fetchrow(_ANNOUNCE, CHANGES_CHANNEL, self._id, names))
        if row is None:
            raise TemporaryError(_NOT_COUNTED)
        return int(row[0])

    async def _execute(self, sql: str) -> None:
        await self._writer.run(self._of_transaction().execute(sql))

    def _of_transaction(self) -> asyncpg.Connection:
        """Return the connection of the open transaction. Raises ConnectionError when it is lost."""
        connection = self._in_transaction
        if connection is None or connection.is_closed():
            message = "the transaction ended with its connection"
            raise ConnectionError(message)
        return connection

    async def _read(self, sql: str, values: tuple[Value, ...]) -> list[Row]:
        """Read on the next free reader, and again on a new connection when the first is lost."""
        deadline = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
        async with asyncio.timeout_at(deadline):
            await self._may_read.acquire()
        reader = self._free_readers.pop()
        try:
            while True:
                connection = await reader.opened(deadline)
                try:
                    return _rows(await reader.run_in_task(connection.fetch(sql, *values)))
                except Exception as error:
                    if not is_lost(error) or asyncio.get_running_loop().time() + _RETRY_SECONDS > deadline:
                        raise
                await asyncio.sleep(_RETRY_SECONDS)
        finally:
            self._free_readers.append(reader)
            self._may_read.release()


def _topics(names: str) -> frozenset[Topic]:
    try:
        return frozenset(Topic(name) for name in names.split(","))
    except ValueError:  # of a newer version
        return EVERYTHING


def _rows(rows: Any) -> list[Row]:  # noqa: ANN401  asyncpg has no types
    return [tuple(row) for row in rows]
