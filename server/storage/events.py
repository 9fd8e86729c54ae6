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
#: One statement for many rows costs one hop to the store's thread. Each length is a statement of its own, which SQLite
#: keeps prepared with memory for all its rows: so there are few.
_ROWS_PER_STATEMENT = (256, 32, 4, 1)


async def insert(query: Query, *events: Event) -> None:
    """Add events, in order, inside the caller's transaction."""
    left = list(events)
    for length in _ROWS_PER_STATEMENT:
        while len(left) >= length:
            rows, left = left[:length], left[length:]
            values = [value for event in rows for value in _values(event)]
            await query(_INSERT + ", ".join([_ROW] * length), *values)


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
