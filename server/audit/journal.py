"""The journal: events without a change are written in one transaction per batch, within a second.

So a read does not cost an fsync. A change is recorded by `record` inside its own transaction: without its record it
does not happen.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from time import monotonic

from server.errors import TemporaryError
from server.model.access import Operator
from server.model.events import Event
from server.node import metrics
from server.node.metrics import Reading, single
from server.storage import history
from server.storage.history import LastLines, SharedLines
from server.storage.store import Store
from server.storage.turn import Rank
from server.storage.uncut import CommittedError
from server.storage.writer import Query

BATCH_SECONDS = 0.5
#: A transaction delays every change. So a backlog, as after an outage of the store, is written in portions.
_MOST_PER_TRANSACTION = 2_000
#: Users whose lines go in one portion; the lines of each user are bounded.
_MOST_USERS_PER_TRANSACTION = 4
#: How long a batch waits for another program. It is short, because a refused batch is tried again, and the last batch
#: must not delay the end of the program.
_PATIENCE_SECONDS = 0.3
#: More waiting records go to the log at once. Logging this many at the end takes up to a second.
MOST_WAITING = 10_000
_REPORT_AGAIN_SECONDS = 60.0
#: At the end, logging stops after this time. The log takes `_LINES_AT_ONCE` lines at a time.
_LAST_SECONDS = 1.0
_LINES_AT_ONCE = 500
_LOG_SECONDS = 0.01

#: The name of a user and the time of its addition, which tells it from a later user of that name.
_UserIdentity = tuple[str, str]

_log = logging.getLogger("ecss-console.audit")


def utc_now() -> str:
    """Return the time in the store's form: UTC, ISO 8601, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Journal:
    """Writes events and typed lines to the store in batches; `close` writes the rest."""

    def __init__(self, store: Store) -> None:
        """Take the store, which must be closed after the journal."""
        self._store = store
        self._events: list[tuple[float, Event]] = []  # each with the monotonic time of its arrival
        self._lines: dict[_UserIdentity, LastLines] = {}
        self._shared = SharedLines()
        self._writing: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._lost = 0
        self._reason = ""
        self._reported_at_seconds = 0.0

    async def record(self, query: Query, event: Event) -> None:
        """Record an event with its change: both are committed, or neither."""
        query.audit.add(event)

    def record_soon(self, event: Event) -> None:
        """Record an event within a second."""
        if len(self._events) >= MOST_WAITING:
            self._lost += 1
            _log.error("not in the store, which takes nothing: %s", event)
            return
        self._events.append((monotonic(), event))
        self._wake()

    def remember_soon(self, operator: Operator, line: str) -> None:
        """Add a typed line to the user's history within a second.

        A later user of the same name does not get it.
        """
        self._lines.setdefault((operator.name, operator.added_at), LastLines()).append(line)
        self._wake()

    def lines_waiting(self, operator: Operator) -> Sequence[str]:
        """Return the user's lines that are not in the store yet."""
        return self._lines.get((operator.name, operator.added_at), ())

    async def earlier_lines(self, operator: Operator) -> Sequence[str]:
        """Return the user's lines, the oldest first; open sessions of the user share them."""
        stored = await history.lines(self._store, operator.name)
        return self._shared.shared(operator.name, [*stored, *self.lines_waiting(operator)])

    def readings(self) -> Iterator[Reading]:
        """Yield the number of waiting records, how long they have waited, and how many were lost."""
        waiting_seconds = monotonic() - self._events[0][0] if self._events else 0.0
        yield single(metrics.AUDIT_WAITING, len(self._events))
        yield single(metrics.AUDIT_WAITING_SECONDS, waiting_seconds)
        yield single(metrics.AUDIT_LOST, self._lost)

    async def flush(self) -> None:
        """Write all waiting records; on TemporaryError they go on waiting."""
        async with self._turn:
            left, users = len(self._events), [*self._lines]
            while left > 0 or users:
                await self._write(self._events[:_MOST_PER_TRANSACTION], users[:_MOST_USERS_PER_TRANSACTION])
                left -= _MOST_PER_TRANSACTION
                del users[:_MOST_USERS_PER_TRANSACTION]

    async def close(self) -> None:
        """Write the rest; records that the store does not take go to the log, within a second."""
        try:
            await self.flush()
        except Exception as error:  # noqa: BLE001  no error may keep the program from ending
            await self._log_remaining(error)
        if self._writing is not None:
            self._writing.cancel()  # the task sleeps now: `flush` has waited for any batch

    async def _write(self, waiting: list[tuple[float, Event]], users: list[_UserIdentity]) -> None:
        """Write a portion in one transaction, and drop it here once it is stored."""
        stored = False
        # until the transaction begins, users may type more lines and the oldest may be dropped
        portions = [(self._lines[user], user, [*self._lines[user]], self._lines[user].end) for user in users]
        try:
            async with self._store.transaction(_PATIENCE_SECONDS, Rank.FIRST) as query:
                query.audit.add(*(event for _, event in waiting))
                for _, (name, added_at), lines, _ in portions:
                    await history.append(query, name, added_at, lines)
            stored = True
        except CommittedError:
            stored = True  # the waiting caller was cancelled
            raise
        finally:
            if stored:
                del self._events[: len(waiting)]
                for kept, user, _, end in portions:
                    kept.drop(end - kept.dropped)
                    if not kept:
                        del self._lines[user]

    async def _log_remaining(self, error: Exception) -> None:
        """Log the records that the store does not take; the log's thread has room for limited batches."""
        self._reason = ""  # soon nothing waits any more, and nothing is "stored again"
        until = monotonic() + _LAST_SECONDS
        while self._events and monotonic() < until:
            for _, event in self._events[:_LINES_AT_ONCE]:
                _log.error("not in the store, %s: %s", error, event)
            del self._events[:_LINES_AT_ONCE]
            await asyncio.sleep(_LOG_SECONDS)
        if self._events:
            _log.error("%d more records are not in the store; there was no time to log them", len(self._events))

    def _wake(self) -> None:
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write_later())

    async def _write_later(self) -> None:
        while self._events or self._lines:
            await asyncio.sleep(BATCH_SECONDS)
            try:
                await self.flush()
            except TemporaryError as error:
                self._report(error.message)
            except Exception:  # noqa: BLE001  a defect must not end the recording for good
                _log.exception("audit records wait for the store")
            else:
                self._report("")

    def _report(self, reason: str) -> None:
        """Log why records wait: at once for a new reason, then once a minute, and when they are written."""
        due = reason != self._reason or monotonic() - self._reported_at_seconds >= _REPORT_AGAIN_SECONDS
        if reason and due:
            _log.warning("audit records wait for the store: %s (%d records)", reason, len(self._events))
            self._reported_at_seconds = monotonic()
        elif self._reason and not reason:
            _log.info("audit records are stored again")
        self._reason = reason
