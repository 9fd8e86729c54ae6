"""The journal: what need not be recorded before the reply is kept for up to a second and written in one transaction.

A read must not cost an fsync. A change is recorded by `record` inside its own transaction: without its record it does
not happen.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from datetime import UTC, datetime

from server.errors import TemporaryError
from server.model.events import Event
from server.node import metrics
from server.node.metrics import Reading, single
from server.storage import events, history
from server.storage.database import Store
from server.storage.writer import CommittedError, Query

BATCH_SECONDS = 0.5
#: Short, as a batch that was refused is tried again, and the last one must not hold up the end of the program.
_PATIENCE_SECONDS = 0.3
MOST_WAITING = 100_000

_log = logging.getLogger("ecss-console.audit")


def utc_now() -> str:
    """Return the time as the store keeps it: UTC, ISO 8601, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Journal:
    """Events and typed lines on their way to the store; `close` writes what is left."""

    def __init__(self, store: Store) -> None:
        """Take the store that outlives the journal."""
        self._store = store
        self._events: list[Event] = []
        self._lines: list[tuple[str, str]] = []
        self._writing: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._on_its_way = self._lost = 0

    async def record(self, query: Query, event: Event) -> None:
        """Record an event inside the transaction of the change it is about."""
        await events.insert(query, event)

    def record_soon(self, event: Event) -> None:
        """Record an event within a second."""
        if len(self._events) >= MOST_WAITING:
            self._lost += 1
            _log.error("not in the store, which takes nothing: %s", event)
            return
        self._events.append(event)
        self._wake()

    def remember_soon(self, user_name: str, line: str) -> None:
        """Add a typed line to the user's history within a second."""
        if len(self._lines) < MOST_WAITING:
            self._lines.append((user_name, line))
            self._wake()

    def lines_waiting(self, user_name: str) -> list[str]:
        """Return the user's lines that are not in the store yet."""
        return [line for name, line in self._lines if name == user_name]

    def readings(self) -> Iterator[Reading]:
        """Yield how many records wait, and how many the store never took."""
        yield single(metrics.AUDIT_WAITING, len(self._events) + self._on_its_way)
        yield single(metrics.AUDIT_LOST, self._lost)

    async def flush(self) -> None:
        """Write what is waiting now; on TemporaryError it goes on waiting."""
        async with self._turn:
            waiting, self._events = self._events, []
            lines, self._lines = self._lines, []
            if not (waiting or lines):
                return
            self._on_its_way = len(waiting)
            try:
                async with self._store.transaction(_PATIENCE_SECONDS) as query:
                    await events.insert(query, *waiting)
                    for user_name, line in lines:
                        await history.append(query, user_name, line)
                    for user_name in {user_name for user_name, _ in lines}:
                        await history.trim(query, user_name)
            except CommittedError:
                raise  # who waited for it was interrupted, and it is stored
            except BaseException:
                self._events[:0] = waiting
                self._lines[:0] = lines
                raise
            finally:
                self._on_its_way = 0

    async def close(self) -> None:
        """Write what is left; what the store does not take is told to the log."""
        try:
            await self.flush()
        except Exception as error:  # noqa: BLE001  whatever it is, it must not keep the program from ending
            for event in self._events:
                _log.error("not in the store, %s: %s", error, event)
        if self._writing is not None:
            self._writing.cancel()  # by now it sleeps: a batch that is being written is never cut

    def _wake(self) -> None:
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write_later())

    async def _write_later(self) -> None:
        while self._events or self._lines:
            await asyncio.sleep(BATCH_SECONDS)
            try:
                await self.flush()
            except TemporaryError as error:
                _log.warning("audit waits: %s", error.message)
            except Exception:  # noqa: BLE001  a defect today must not end the recording of tomorrow
                _log.exception("audit waits")
