"""Find out whether a transaction is stored whose COMMIT had no answer. It is never guessed."""

from __future__ import annotations

import asyncio
import logging

import asyncpg

from server.errors import TemporaryError
from server.storage.postgresql.connection import Connection

#: The longest search. Other changes wait meanwhile, up to their own patience.
SEARCH_SECONDS = 10.0
_RETRY_SECONDS = 0.1
_STATUS = "SELECT pg_xact_status($1::text::xid8)"
_IS_STORED = "SELECT count(*) FROM commit_tokens WHERE writer = $1 AND token = $2"
#: Its commit waits for the synchronous replica, and so for the lost commit before it.
_SETTLE = "UPDATE commit_tokens SET at = clock_timestamp() WHERE writer = $1"
_UNKNOWN = "the database does not answer, and it is not known whether the change is stored; look before you try again"

_log = logging.getLogger("ecss-console.storage")


async def find_outcome(connection: Connection, writer: str, token: str, transaction_id: str) -> bool:
    """Tell whether the transaction is committed. Raises TemporaryError when that stays unknown.

    The transaction id tells whether it still runs, for example waits for a replica; it is never ended by force. The
    token in the table tells whether it is committed. The id alone could not: after a failover the new server may give
    the same id to another transaction.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + SEARCH_SECONDS
    connection.drop()
    while True:
        try:
            opened = await connection.opened(deadline)
            if not await _is_running(connection, opened, transaction_id):
                (committed,) = await connection.run(opened.fetchrow(_IS_STORED, writer, token))
                if committed:
                    await connection.run(opened.execute(_SETTLE, writer), max(0.0, deadline - loop.time()))
                _log.warning("a COMMIT had no answer: it is %s", "stored" if committed else "not stored")
                return bool(committed)
        except Exception:  # noqa: BLE001  whatever prevents the answer, the outcome stays unknown
            connection.drop()
        if loop.time() + _RETRY_SECONDS > deadline:
            _log.error("a COMMIT had no answer, and it cannot be found out whether it is stored")
            raise TemporaryError(_UNKNOWN)
        await asyncio.sleep(_RETRY_SECONDS)


async def _is_running(connection: Connection, opened: asyncpg.Connection, transaction_id: str) -> bool:
    try:
        (status,) = await connection.run(opened.fetchrow(_STATUS, transaction_id))
    except asyncpg.InvalidParameterValueError:
        return False  # "in the future": a new server has never seen it
    return bool(status == "in progress")
