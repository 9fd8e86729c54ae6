"""Make the store in an empty database, check an existing one, and upgrade its schema.

Unsafe stores are refused with StartError and left unchanged: a database in another encoding, without its storage key or
with another one, of a newer schema, without one of our tables. Errors of the driver pass through. The work on the
storage key's file is blocking and short.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from server.durable import locked_folder, make_folder
from server.errors import StartError
from server.model.lines import one_line
from server.storage.postgresql import schema
from server.storage.postgresql.restoring import finish, is_left
from server.storage.postgresql.schema import SCHEMA, SCHEMA_LOCK
from server.storage.postgresql.serving import refuse_while_served, stop_changes
from server.storage.storage_key import (
    read_storage_key,
    restrict_permissions,
    storage_key_there,
    take_new_key,
    write_new_key,
)
from server.storage.vault import Vault, new_storage_key

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_ENCODING = "UTF8"
_SCHEMA_ROW = "SELECT oid::bigint, has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = $1"
_TABLES = """
SELECT c.relname, has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
    AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relkind IN ('r', 'p')
"""
#: What a look finds that begins before another program's upgrade or restore and ends after it. A second look, alone,
#: tells whether the store really is so.
_MAYBE_IN_BETWEEN = (StartError, asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError)


@dataclass(frozen=True, slots=True)
class Place:
    """The database's name for people, without secrets; the keys folder; the storage key, which may be outside it."""

    shown: str
    keys_dir: Path
    storage_key: Path


@dataclass(frozen=True, slots=True)
class Prepared:
    """A store that can be used, by its vault. `made` means that it is new.

    `schema_oid` is PostgreSQL's number of the schema, which a restore changes.
    """

    vault: Vault
    made: bool
    schema_oid: int


@dataclass(frozen=True, slots=True)
class _Found:
    """The PostgreSQL schema by number, 0 for none, its tables, and the values of the table `store`."""

    schema_oid: int
    tables: frozenset[str]
    values: Mapping[str, str]


async def prepare(connection: asyncpg.Connection, place: Place, *, make: bool = True, boot: str = "") -> Prepared:
    """Make the store in an empty database, with a new storage key where there is none; else check and upgrade it.

    Without `make`, an empty database is refused. A store of an older schema is upgraded unless a node serves it; `boot`
    names the caller's own run, whose lease does not count. Several programs may do this at the same time: one makes the
    store, the others find it. Every StartError says what is wrong and how to mend it.

    Raises asyncpg.LockNotAvailableError when another program makes or upgrades the store for too long.
    """
    await _begin(connection, place)
    with suppress(*_MAYBE_IN_BETWEEN):
        found = await _look(connection, place)
        if found.tables:
            vault, number = _checked(found, place)
            if number == schema.newest():
                make_folder(place.keys_dir)
                restrict_permissions(place.keys_dir, place.storage_key)
                return Prepared(vault, made=False, schema_oid=found.schema_oid)
    async with connection.transaction():
        found = await _look_alone(connection, place)
        if found.tables:
            _checked(found, place)
        elif not make:
            message = f"there is no store in {place.shown}: ecss-console init makes one"
            raise StartError(message)
        return await _make_or_upgrade(connection, place, boot)


async def check(connection: asyncpg.Connection, place: Place) -> tuple[Vault, int]:
    """Return the vault and the schema number of a store without upgrading it. Raises StartError, too for none."""
    await _begin(connection, place)
    with suppress(*_MAYBE_IN_BETWEEN):
        return _checked_store(await _look(connection, place), place)
    async with connection.transaction():
        return _checked_store(await _look_alone(connection, place), place)


async def create_schema(connection: asyncpg.Connection, name: str, shown: str) -> None:
    """Create a PostgreSQL schema unless it is there, and search names in it until the end of the transaction.

    Raises StartError when the user may not do that.
    """
    there = await connection.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname = $1", name)
    with _permitted(shown):
        if not there:
            await connection.execute(f"CREATE SCHEMA {name}")
        await connection.execute(f"SET LOCAL search_path = {name}")


async def _begin(connection: asyncpg.Connection, place: Place) -> None:
    """Refuse another encoding, and finish a restore that was killed."""
    await _refuse_other_encoding(connection, place)
    if is_left(place.keys_dir):
        with locked_folder(place.keys_dir):  # the lock waits for a restore that is still under way
            await finish(connection, place.keys_dir)


async def _make_or_upgrade(connection: asyncpg.Connection, place: Place, boot: str) -> Prepared:
    """Do it while the schema's lock keeps other programs out. They may have done it meanwhile."""
    with locked_folder(place.keys_dir):
        found = await _look(connection, place)
        if not found.tables:
            vault = await _make(connection, place)
            return Prepared(vault, made=True, schema_oid=(await _look(connection, place)).schema_oid)
        vault, number = _checked(found, place)
        if number < schema.newest():
            await connection.execute(f"SET LOCAL search_path = {SCHEMA}")
            why = (
                f"the store {place.shown} is of an older schema, and nodes of an older version, which could not go on "
                "when it is upgraded, serve it:"
            )
            await refuse_while_served(connection, why, boot)
            await stop_changes(connection)
            with _permitted(place.shown):
                await schema.upgrade(connection, number)
        restrict_permissions(place.keys_dir, place.storage_key)
    return Prepared(vault, made=False, schema_oid=found.schema_oid)


async def _make(connection: asyncpg.Connection, place: Place) -> Vault:
    """Make the tables and, unless another node's is there, the storage key.

    The key gets its name before the caller commits. So there is no store without its key, and after a crash in between
    the next start makes the store with this key.
    """
    is_new = not storage_key_there(place.storage_key)
    if is_new:
        raw = new_storage_key()
        write_new_key(place.storage_key, raw)
    else:
        raw = read_storage_key(place.storage_key)
    vault = Vault(raw)
    await create_schema(connection, SCHEMA, place.shown)
    with _permitted(place.shown):
        await schema.make(connection, vault)
    if is_new:
        take_new_key(place.storage_key)
    restrict_permissions(place.keys_dir, place.storage_key)
    return vault


async def _look_alone(connection: asyncpg.Connection, place: Place) -> _Found:
    """Look while no other program makes, upgrades or replaces the store, until the end of the transaction."""
    await connection.execute(f"SELECT pg_advisory_xact_lock({SCHEMA_LOCK})")
    return await _look(connection, place)


async def _refuse_other_encoding(connection: asyncpg.Connection, place: Place) -> None:
    encoding = await connection.fetchval("SHOW server_encoding")
    if encoding != _ENCODING:
        name = await connection.fetchval("SELECT quote_ident(current_database())")
        message = (
            f"the database {place.shown} has the encoding {encoding}, and the console needs {_ENCODING}: make one with "
            f"CREATE DATABASE {name} ENCODING '{_ENCODING}' LOCALE 'C' TEMPLATE template0; nothing was changed"
        )
        raise StartError(message)


async def _look(connection: asyncpg.Connection, place: Place) -> _Found:
    """Return what is in the database. Raises StartError when the user may not use it."""
    oid, usable = await connection.fetchrow(_SCHEMA_ROW, SCHEMA) or (0, None)
    ours = set(schema.tables_of(schema.newest()))
    tables = {str(name): may for name, may in await connection.fetch(_TABLES, SCHEMA) if name in ours}
    denied = sorted(name for name, may in tables.items() if not may)
    if usable is False or denied:
        user = await connection.fetchval("SELECT current_user")
        what = f"table {SCHEMA}.{denied[0]}" if usable else f"schema {SCHEMA}"
        message = (
            f"the user {user} may not use the {what} of {place.shown}: connect as the user who made it, or let an "
            "administrator GRANT the rights; nothing was changed"
        )
        raise StartError(message)
    values = await connection.fetch(f"SELECT name, value FROM {SCHEMA}.store") if "store" in tables else []
    return _Found(oid, frozenset(tables), {str(name): str(value) for name, value in values})


def _checked_store(found: _Found, place: Place) -> tuple[Vault, int]:
    """Do the same as `_checked`. Raises StartError, too, when there is no store."""
    if not found.tables:
        message = f"there is no store in {place.shown}"
        raise StartError(message)
    return _checked(found, place)


def _checked(found: _Found, place: Place) -> tuple[Vault, int]:
    """Return the vault and the schema number of a store. Raises StartError for one that is not safe to use."""
    if not storage_key_there(place.storage_key):
        message = (
            f"the database {place.shown} is in use but its storage key {place.storage_key} is not there: put the key "
            "there, which every node of this database has; without it no API key can be read, and nothing was changed"
        )
        raise StartError(message)
    vault = Vault(read_storage_key(place.storage_key))
    number = found.values.get("schema", "")
    if "store" in found.tables and not _NUMBER.fullmatch(number):
        raise _damaged(place, "the number of its schema is missing")
    known = found.values.get("storage key")
    if known is not None and known != vault.fingerprint:
        message = (
            f"the database {place.shown} was made with another storage key: put its own key there, "
            f"{place.storage_key}; nothing was changed"
        )
        raise StartError(message)
    if number and int(number) > schema.newest():
        message = (
            f"the database {place.shown} has schema {number}, this program knows {schema.newest()}: "
            "install the newer program; nothing was changed"
        )
        raise StartError(message)
    missing = set(schema.tables_of(int(number or schema.newest()))) - found.tables
    if missing:
        raise _damaged(place, f"the table {min(missing)} is missing")
    if known is None:
        raise _damaged(place, "the mark of its storage key is missing")
    return vault, int(number)


def _damaged(place: Place, what: str) -> StartError:
    return StartError(f"the store {place.shown} is damaged ({what}): restore it from a backup; nothing was changed")


@contextmanager
def _permitted(shown: str) -> Iterator[None]:
    """Turn a denied permission into StartError."""
    try:
        yield
    except asyncpg.InsufficientPrivilegeError as error:
        message = (
            f"the store in {shown} cannot be made or upgraded: {one_line(error)}; let an administrator of the database "
            f"run CREATE SCHEMA {SCHEMA} AUTHORIZATION the user of storage.url; nothing was changed"
        )
        raise StartError(message) from error
