"""The engines for the tests of the store contract. Add another engine to `ENGINES`."""

from __future__ import annotations

import asyncio
import base64
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from postgresql import Database, PostgresqlServer

from server.config.postgresql_url import parse_postgresql_url
from server.storage.engine import Engine
from server.storage.postgresql.connection import Address, Connection, log_in
from server.storage.postgresql.engine import PostgresqlEngine
from server.storage.postgresql.preparing import Place
from server.storage.postgresql.preparing import prepare as prepare_postgresql
from server.storage.postgresql.schema import SCHEMA
from server.storage.sqlite.engine import SqliteEngine
from server.storage.sqlite.files import prepare
from server.storage.vault import Vault

Opened = Callable[[Path], Awaitable[tuple[Engine, Vault]]]


def _sqlite(_request: pytest.FixtureRequest) -> Opened:
    async def opened(folder: Path) -> tuple[Engine, Vault]:
        prepared = prepare(folder / "console.db", folder / "keys")
        return await SqliteEngine.open(prepared.database), prepared.vault

    return opened


def _postgresql(request: pytest.FixtureRequest) -> Opened:
    database: Database = request.getfixturevalue("store_database")
    key: Path = request.getfixturevalue("store_template")
    vault = vault_of(key)

    async def opened(folder: Path) -> tuple[Engine, Vault]:
        (folder / "keys").mkdir(exist_ok=True)
        shutil.copy(key, folder / "keys")
        address = address_of(database)
        return PostgresqlEngine(address, await schema_oid(address)), vault

    return opened


#: A database with an empty store, which tests copy.
TEMPLATE = "store_template"

#: Each opens the store of a folder, and makes it first if missing. Another program may open it too.
ENGINES: dict[str, Callable[[pytest.FixtureRequest], Opened]] = {"sqlite": _sqlite, "postgresql": _postgresql}


def vault_of(key: Path) -> Vault:
    """Read a storage key."""
    return Vault(base64.b64decode(key.read_bytes()))


def address_of(database: Database) -> Address:
    """Return the address of a database, over the Unix socket."""
    return Address(parse_postgresql_url(database.socket_url), database.password_file)


async def schema_oid(address: Address) -> int:
    """Return the number of the schema with the store, which an engine needs."""
    connection = Connection(address, "test")
    opened = await connection.opened(asyncio.get_running_loop().time() + 10)
    number = await opened.fetchval(f"SELECT '{SCHEMA}'::regnamespace::oid::bigint")
    await connection.close()
    return int(number)


def make_store(database: Database, keys: Path) -> Path:
    """Make the store in an empty database and return its storage key. Not for tests with a loop of their own."""

    async def make() -> None:
        address = address_of(database)
        connection = await log_in(address, "test", *address.url.hosts[0])
        await prepare_postgresql(connection, Place(str(address.url), keys, keys / "storage.key"))
        await connection.close()

    asyncio.run(make())
    return keys / "storage.key"


def make_template(server: PostgresqlServer, folder: Path) -> Path:
    """Make the database `TEMPLATE` with a store, to copy it for each test; return its storage key."""
    return make_store(server.database(TEMPLATE), folder / "keys")
