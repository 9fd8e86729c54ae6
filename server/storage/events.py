"""The audit's rows. Only ever added to."""

from __future__ import annotations

from server.model.events import Event
from server.storage.database import Query

_INSERT = """
INSERT INTO audit (at, node, event, user_name, source, session_id, command, arguments, status, detail, duration_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


async def insert(query: Query, event: Event) -> None:
    """Add one event inside the caller's transaction."""
    await query(
        _INSERT,
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
