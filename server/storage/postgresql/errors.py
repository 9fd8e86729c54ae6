"""Tell the temporary failures of PostgreSQL from defects, by SQLSTATE (source: PostgreSQL's appendix A)."""

from __future__ import annotations

import asyncpg

from server.errors import StartError
from server.storage.engine import Reason
from server.storage.temporary import BUSY

AWAY = "the database does not answer"
_FULL = "the database has no room"
#: By SQLSTATE, or by the beginning of one.
_REASONS = {
    "08": AWAY,
    "25": AWAY,  # the transaction is gone
    "25006": "the database can only be read",
    "28": "the database refuses this node",
    "3D": "the database does not exist",
    "3F": "the database has no tables of the console",
    "40": BUSY,
    "42P01": "a table is missing in the database",
    "42501": "the database denies a permission",
    "53": _FULL,
    "53300": "the database has no free connection",
    "55P03": BUSY,
    "57": AWAY,
    "58": "the disk of the database does not answer",
    "72": BUSY,
    "XX": "the database is damaged",
}
_BUSY_STATES = ("40", "55P03", "72")
#: The client's errors after the end of a connection. TimeoutError comes from our own limits.
LOST = (
    OSError,
    EOFError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.exceptions.OperatorInterventionError,
    asyncpg.exceptions.TargetServerAttributeNotMatched,
    asyncpg.InvalidCachedStatementError,  # the tables were replaced, as by a restore
)
#: A server that was made read-only, as after a failover: the connection must go to another one.
_READ_ONLY = "25006"


def reason(error: BaseException) -> Reason | None:
    """Return why an error is temporary; None for a defect or an error that is not PostgreSQL's."""
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        for length in (5, 2):
            if (text := _REASONS.get(state[:length])) is not None:
                return Reason(text, state, busy=state.startswith(_BUSY_STATES))
    if isinstance(error, asyncpg.exceptions.TargetServerAttributeNotMatched):
        return Reason(_REASONS[_READ_ONLY], type(error).__name__)
    if isinstance(error, LOST) and not _is_misuse(error):
        return Reason(AWAY, type(error).__name__)
    if isinstance(error, StartError):  # for example a password file that is not there any more
        return Reason("the settings of the database are wrong", type(error).__name__)
    return None


def is_lost(error: BaseException) -> bool:
    """Tell whether the connection cannot be used after this error."""
    state = getattr(error, "sqlstate", None)
    if isinstance(error, asyncpg.PostgresError):
        return isinstance(error, LOST) or state == _READ_ONLY or str(state).startswith(("08", "57P", "25P03"))
    return isinstance(error, LOST) and not _is_misuse(error)


def passes(error: BaseException) -> bool:
    """Tell whether another login may succeed within seconds."""
    return is_lost(error) or isinstance(error, asyncpg.TooManyConnectionsError)


def _is_misuse(error: BaseException) -> bool:
    """Tell whether the program gave the client wrong values, which is a defect and no lost connection."""
    return isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)
