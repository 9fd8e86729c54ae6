"""Open sessions: one is a login, with all the shells and commands that its client opens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from server.model.access import Role


@dataclass(frozen=True, slots=True)
class OpenSession:
    """One login in `session/list`. `idle_seconds` is None while a command runs; `since` has its time zone."""

    session_id: str
    user_name: str
    role: Role
    source: str
    since: datetime
    idle_seconds: float | None
    shells: int


class Sessions(Protocol):
    """The open logins on this node."""

    def every(self) -> Sequence[OpenSession]:
        """Return all logins, the oldest first."""

    def end(self, session_id: str, why: str) -> bool:
        """End a login, and show its client the reason. Returns False for an unknown id."""
