"""Audit records of changes that a subcommand makes on the console's host."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Mapping

from server.audit.journal import utc_now
from server.model.events import Event, EventKind
from server.storage.writer import Query


async def record_host_command(
    query: Query, node: str, command: str, facts: Mapping[str, object], kind: EventKind = EventKind.USER_CHANGE
) -> None:
    """Record a change in the transaction of the change; `facts` describe it."""
    event = Event(
        kind=kind,
        at=utc_now(),
        node=node,
        user_name=_system_user(),
        source="console host",
        session_id="",
        command=f"ecss-console {command}",
        arguments=json.dumps(facts),
    )
    query.audit.add(event)


def _system_user() -> str:
    """Return the name of the program's user, or the uid, because a container's user may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
