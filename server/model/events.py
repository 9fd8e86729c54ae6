"""The events of the audit: a closed set of kinds with stable codes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class EventKind(Enum):
    """The code of an event. Programs read the codes, so a code never changes its meaning."""

    LOGIN = "login"
    LOGIN_FAILED = "login.failed"
    LOGOUT = "logout"
    CONNECTION_REFUSED = "connection.refused"
    NEGOTIATION_FAILED = "negotiation.failed"
    SESSION_KILLED = "session.killed"
    COMMAND = "command"
    COMMAND_REFUSED = "command.refused"
    CHANGE = "change"
    USER_CHANGE = "user.change"
    HOST_CHANGE = "host.change"
    HOST_KEY_CHANGE = "hostkey.change"
    BACKUP_MADE = "backup.made"
    BACKUP_RESTORED = "backup.restored"
    STORE_MIGRATED = "store.migrated"


@dataclass(frozen=True, slots=True)
class Event:
    """One record of the audit.

    `at` is UTC in ISO 8601. `command` is the path of the declaration. `arguments` is a JSON object with secrets masked.
    `status` is the exit status (0 is done).
    """

    kind: EventKind
    at: str
    node: str
    user_name: str
    source: str
    session_id: str
    command: str = ""
    arguments: str = "{}"
    status: int = 0
    detail: str = ""
    duration_ms: int = 0
