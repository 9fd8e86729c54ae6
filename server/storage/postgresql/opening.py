"""Reach a database for the first time, prepare it, and open the engine."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg

from server.errors import StartError
from server.model.lines import one_line
from server.storage.postgresql.connection import Address, log_in
from server.storage.postgresql.engine import PostgresqlEngine
from server.storage.postgresql.errors import is_lost, reason
from server.storage.postgresql.preparing import Place, Prepared, prepare

T = TypeVar("T")

#: How long a subcommand waits for a database that does not answer; a server waits for ever.
PATIENCE_SECONDS = 5.0
_RETRY_SECONDS = 0.5
_LOG_AGAIN_SECONDS = 60.0
#: Longer than an upgrade of the largest store.
_PREPARE_SECONDS = 900.0
#: What an administrator has to mend: waiting would hide it.
_MISTAKES = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.UndefinedObjectError,  # a setting that PostgreSQL before 14 does not know
    ssl.SSLCertVerificationError,
)

_log = logging.getLogger("ecss-console.storage")


class _LostError(StartError):
    """The connection was lost during the work."""


class Patience:
    """How long to wait for a database that does not answer. `said` is called with the reason, again and again."""

    def __init__(self, seconds: float | None = PATIENCE_SECONDS, said: Callable[[str], None] | None = None) -> None:
        """Take the time, None for ever."""
        self._until = None if seconds is None else asyncio.get_running_loop().time() + seconds
        self._said = said
        self._logged_at = -_LOG_AGAIN_SECONDS

    async def after(self, address: Address, error: BaseException) -> None:
        """Wait for the next try. Raises StartError when the time is over."""
        now = asyncio.get_running_loop().time()
        answers = isinstance(error, asyncpg.exceptions.TargetServerAttributeNotMatched)
        how = "cannot be used" if answers else "does not answer"
        text = f"the database {address.url} {how}: {one_line(error) or type(error).__name__}"
        if self._until is not None and now >= self._until:
            raise StartError(text) from error
        if self._until is None and now - self._logged_at >= _LOG_AGAIN_SECONDS:
            _log.warning("waits: %s", text)
            self._logged_at = now
        if self._said is not None:
            self._said(f"waits: {text}")
        await asyncio.sleep(_RETRY_SECONDS)


@asynccontextmanager
async def reached(address: Address, patience: Patience, **settings: str) -> AsyncIterator[asyncpg.Connection]:
    """Give a connection to the first host that takes writes; wait for one as long as `patience` says.

    Raises StartError for wrong settings, and for errors of the database inside the block.
    """
    connection = await _first_connection(address, patience, settings)
    try:
        yield connection
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        if getattr(error, "filename", None) is not None:  # a file of the console, which the error names
            raise
        why = reason(error)
        what = f"{why.text} ({one_line(error)})" if why else one_line(error)
        message = f"the store {address.url} cannot be used: {what}"
        raise (_LostError if is_lost(error) else StartError)(message) from error
    finally:
        connection.terminate()


@asynccontextmanager
async def opened(
    address: Address, place: Place, patience: Patience, *, make: bool
) -> AsyncIterator[tuple[PostgresqlEngine, Prepared]]:
    """Prepare the store and give its engine. Raises StartError for a store that is not safe to use."""
    prepared = await _prepared(address, place, patience, make=make)
    engine = PostgresqlEngine(address, prepared.schema_oid)
    try:
        yield engine, prepared
    finally:
        await engine.close()


async def _prepared(address: Address, place: Place, patience: Patience, *, make: bool) -> Prepared:
    """Prepare the store. A connection that is lost meanwhile counts as a database that does not answer yet."""
    while True:
        try:
            async with reached(address, patience) as connection:
                return await _bounded(connection, prepare(connection, place, make=make))
        except _LostError as error:
            await patience.after(address, error.__cause__ or error)


async def _first_connection(address: Address, patience: Patience, settings: dict[str, str]) -> asyncpg.Connection:
    while True:
        failed: Exception = StartError("no host is configured")
        for host, port in address.url.hosts:
            try:
                return await log_in(address, "start", host, port, **settings)
            except _MISTAKES as error:
                message = f"the database {address.url} refuses this console: {one_line(error)}"
                raise StartError(message) from error
            except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
                failed = error
        await patience.after(address, failed)


async def _bounded(connection: asyncpg.Connection, work: Coroutine[Any, Any, T]) -> T:
    """Do work on a connection. A limit or a cancellation ends the connection: asyncpg's own way may hang."""
    working = asyncio.ensure_future(work)
    try:
        await asyncio.wait({working}, timeout=_PREPARE_SECONDS)
    finally:
        if not working.done():
            connection.terminate()
            await asyncio.wait({working})
    return working.result()
