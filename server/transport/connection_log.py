"""The log lines and audit records of one connection."""

from __future__ import annotations

import logging
from typing import Any

from server.audit.journal import utc_now
from server.auth.credentials import AuthResult
from server.commands.shared_services import Services
from server.log import about
from server.model.access import Operator
from server.model.events import Event, EventKind
from server.model.integrations import without_keys

_MOST_LOGGED_CHARACTERS = 64

_log = logging.getLogger("ecss-console.login")


class ConnectionLog:
    """Writes log lines and audit records, and counts logins."""

    def __init__(self, services: Services, source: str) -> None:
        """Take the services, and the client's `source` as `address:port`."""
        self._services = services
        self._source = source

    def login_failed(self, result: AuthResult) -> None:
        """Record a failed login."""
        name, reason = _safe(result.name), result.reason
        self._services.node.logins["failed", result.method.counted_as] += 1
        extra = about("login.failed", user=name, source=self._source, method=result.used, reason=reason)
        _log.warning("login of %s from %s failed by %s: %s", name, self._source, result.used, reason, extra=extra)
        self._record(EventKind.LOGIN_FAILED, name, result.described, status=1)

    def logged_in(self, operator: Operator, result: AuthResult) -> None:
        """Record a login."""
        name, used = operator.name, result.used
        self._record(EventKind.LOGIN, name, used, session_id=operator.session_id)
        self._services.node.logins["accepted", result.method.counted_as] += 1
        extra = _about("login", operator, method=used)
        _log.info("%s from %s has logged in by %s", name, self._source, used, extra=extra)

    def logged_out(self, operator: Operator, why: str) -> None:
        """Record the end of a connection. `why` is empty when the client ended it."""
        self._record(EventKind.LOGOUT, operator.name, why, session_id=operator.session_id)
        shown = f": {why}" if why else ""
        extra = _about("logout", operator, why=why)
        _log.info("%s from %s has left%s", operator.name, self._source, shown, extra=extra)

    def killed(self, operator: Operator, why: str) -> None:
        """Record that the console ends this connection."""
        self._record(EventKind.SESSION_KILLED, operator.name, why, session_id=operator.session_id)

    def _record(self, kind: EventKind, name: str, detail: str, *, session_id: str = "", status: int = 0) -> None:
        node = self._services.node_name
        event = Event(kind, utc_now(), node, name, self._source, session_id, status=status, detail=detail)
        self._services.journal.record_soon(event)


def _about(event: str, operator: Operator, **fields: object) -> dict[str, Any]:
    return about(event, user=operator.name, source=operator.source, session=operator.session_id, **fields)


def _safe(name: str) -> str:
    """Return a claimed user name that is safe in a log line: short, in ASCII, without API keys."""
    return ascii(without_keys(name)[:_MOST_LOGGED_CHARACTERS])[1:-1]
