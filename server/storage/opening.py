"""Open the configured store: a SQLite file, or a PostgreSQL database that several nodes share."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext, suppress

from server.config import Config
from server.config.postgresql_url import PostgresqlUrl
from server.errors import StartError
from server.storage.owner import working_for
from server.storage.postgresql import opening as on_postgresql
from server.storage.postgresql import schema as postgresql_schema
from server.storage.postgresql.connection import Address
from server.storage.postgresql.opening import Patience
from server.storage.postgresql.preparing import Place
from server.storage.sqlite import schema as sqlite_schema
from server.storage.sqlite.engine import SqliteEngine
from server.storage.sqlite.files import prepare, read_errors
from server.storage.sqlite.serving import serving, upgrading
from server.storage.store import Store

_log = logging.getLogger("ecss-console.storage")


@asynccontextmanager
async def open_store(
    config: Config, *, make: bool = True, serves: bool = False, waits: Callable[[str], None] | None = None
) -> AsyncIterator[Store]:
    """Open the store. Raises StartError.

    `make=True` creates it when there is neither database nor storage key. `serves=True` takes the exclusive server lock
    of a SQLite file, and waits for ever for a PostgreSQL that does not answer; `waits` is then called with the reason.
    """
    url = config.postgresql
    # read the migrations as root, because the store's owner may not be able to read the program's files
    sqlite_schema.newest()
    postgresql_schema.newest()
    with working_for(*config.places):
        opened = (
            _sqlite(config, make=make, serves=serves)
            if url is None
            else _postgresql(config, url, make=make, patience=Patience(None, waits) if serves else Patience())
        )
        async with opened as store:
            yield store


def address(config: Config, url: PostgresqlUrl) -> Address:
    """Return the address of the configured PostgreSQL database.

    Raises StartError when everybody may read the file with the password.
    """
    password = config.database_password
    with suppress(OSError):  # a missing file is reported where it is read
        if password is not None and password.stat().st_mode & 0o007:
            what = f"everybody may read the password of the database {password}"
            message = f"{what}: chmod o= it, and think whether it is still secret"
            raise StartError(message)
    return Address(url, password, f"ecss-console {config.node.name}")


@asynccontextmanager
async def _sqlite(config: Config, *, make: bool, serves: bool) -> AsyncIterator[Store]:
    with serving(config.database) if serves else nullcontext():
        prepared = prepare(
            config.database,
            config.keys_dir,
            make=make,
            storage_key=config.storage_key,
            upgrading=None if serves else upgrading,
        )
        if prepared.made:
            _log.info("made the store %s with its key in %s", config.database, config.keys_dir)
        store = Store(await SqliteEngine.open(prepared.database, checkpoints=serves), prepared.vault)
        try:
            with nullcontext() if serves else read_errors():
                yield store
        finally:
            await store.close()


@asynccontextmanager
async def _postgresql(config: Config, url: PostgresqlUrl, *, make: bool, patience: Patience) -> AsyncIterator[Store]:
    place = Place(str(url), config.keys_dir, config.storage_key)
    async with on_postgresql.opened(address(config, url), place, patience, make=make) as (engine, prepared):
        if prepared.made:
            _log.info("made the store %s", url)
        store = Store(engine, prepared.vault)
        try:
            yield store
        finally:
            await store.close()
