"""The connection beside the writer: it listens for notifications and runs single statements.

A statement here never waits for a running change. So a node keeps its lease, answers and confirms even while changes
queue. Regular statements also prove that the connection is alive: a listener in a black hole would wait for ever.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import asyncpg

from server.storage.engine import Row, Value
from server.storage.postgresql.connection import Address, Connection
from server.storage.postgresql.errors import reason

#: In place of a payload: the connection was lost, so notifications may be missing. Read everything again.
LOST = ""
PROBE_SECONDS = 2.0
_STATEMENT_SECONDS = 2.0
_RETRY_SECONDS = 0.2
_SIZE_EVERY = 30
_MOST_WAITING = 10_000

_log = logging.getLogger("ecss-console.storage")


class Subscription:
    """The notifications of one channel."""

    def __init__(self) -> None:
        """Begin empty. The first payload is `LOST`, once the connection listens."""
        self._payloads: list[str] = []
        self._arrived = asyncio.Event()

    def put(self, payload: str) -> None:
        """Add a payload. When too many wait, they become one `LOST`."""
        if len(self._payloads) >= _MOST_WAITING:
            self._payloads = [LOST]
        self._payloads.append(payload)
        self._arrived.set()

    async def next(self, seconds: float) -> list[str]:
        """Return the payloads that have arrived; wait up to `seconds` for the first, then return none."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._arrived.wait()
        self._arrived.clear()
        arrived, self._payloads = self._payloads, []
        return arrived


class Control:
    """Listens, and runs statements outside the writer's transaction. `run_loop` keeps it connected."""

    def __init__(self, address: Address) -> None:
        """Take the address; nothing is opened yet."""
        self._connection = Connection(address, "control")
        self._subscriptions: dict[str, list[Subscription]] = {}
        self._listening: asyncpg.Connection | None = None
        self._reason = ""
        self._turn = asyncio.Lock()
        self.size_bytes = 0

    def subscribe(self, channel: str) -> Subscription:
        """Receive the notifications of a channel. The first payload is `LOST`."""
        subscription = Subscription()
        self._subscriptions.setdefault(channel, []).append(subscription)
        self._listening = None  # listens on the new channel too, at the next statement
        return subscription

    async def run(self, sql: str, *values: Value | list[str]) -> list[Row]:
        """Run one statement of PostgreSQL's SQL, with `$1` for the first value, and commit it.

        Raises errors that `PostgresqlEngine.reason` calls temporary while the database is away, within two seconds.
        """
        deadline = asyncio.get_running_loop().time() + _STATEMENT_SECONDS
        async with asyncio.timeout_at(deadline):
            await self._turn.acquire()
        try:
            connection = await self._connection.opened(deadline)
            await self._listen(connection)
            rows = await self._connection.run(connection.fetch(sql, *values), _STATEMENT_SECONDS)
        finally:
            self._turn.release()
        return [tuple(row) for row in rows]

    def follow(self, writer: Connection) -> None:
        """Leave a host on which the writer is not."""
        self._connection.follow(writer)

    async def run_loop(self) -> None:
        """Stay connected and probe the connection, for ever."""
        for number in range(1_000_000_000):
            try:
                if number % _SIZE_EVERY == 0:
                    ((self.size_bytes,),) = await self.run("SELECT pg_database_size(current_database())")
                else:
                    await self.run("SELECT 1")
            except Exception as error:  # noqa: BLE001  the database may be back at the next look
                self._report(error)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                self._report(None)
                await asyncio.sleep(PROBE_SECONDS)

    async def close(self) -> None:
        """Close the connection; safe to call twice."""
        await self._connection.close()

    async def _listen(self, connection: asyncpg.Connection) -> None:
        """Listen on all channels of a new connection, and tell subscribers that they may have missed something."""
        if self._listening is connection:
            return
        for channel in [*self._subscriptions]:
            await self._connection.run(connection.add_listener(channel, self._heard), _STATEMENT_SECONDS)
        self._listening = connection
        for subscriptions in self._subscriptions.values():
            for each in subscriptions:
                each.put(LOST)

    def _heard(self, _connection: asyncpg.Connection, _process: int, channel: str, payload: object) -> None:
        for each in self._subscriptions.get(channel, ()):
            each.put(str(payload))

    def _report(self, error: Exception | None) -> None:
        """Log the loss of the database once, and its return."""
        why = reason(error) if error is not None else None
        text = "" if error is None else why.text if why is not None else str(error)
        if text and text != self._reason:
            _log.warning("changes of other nodes cannot be seen: %s (%s)", text, error)
        elif self._reason and not text:
            _log.info("changes of other nodes are seen again")
        self._reason = text
