"""The audit's rows. Only ever added to."""

from __future__ import annotations

from server.model.events import Event
from server.storage.database import Query, Value

_COLUMNS = (
    "at",
    "node",
    "event",
    "user_name",
    "source",
    "session_id",
    "command",
    "arguments",
    "status",
    "detail",
    "duration_ms",
)
_ROW = f"({', '.join('?' * len(_COLUMNS))})"
_INSERT = f"INSERT INTO audit ({', '.join(_COLUMNS)}) VALUES "
#: One statement for many rows costs one hop to the store's thread; SQLite takes 32,766 values in one.
_ROWS_PER_STATEMENT = 500


async def insert(query: Query, *events: Event) -> None:
    """Add events, in order, inside the caller's transaction."""
    for start in range(0, len(events), _ROWS_PER_STATEMENT):
        rows = events[start : start + _ROWS_PER_STATEMENT]
        values = [value for event in rows for value in _values(event)]
        await query(_INSERT + ", ".join([_ROW] * len(rows)), *values)


def _values(event: Event) -> tuple[Value, ...]:
    return (
        event.at,
        event.node,
        event.kind.value,
        event.user_name,
        event.source,
        event.session_id,
        event.command,
        event.arguments,
        event.status,
        event.detail,
        event.duration_ms,
    )
