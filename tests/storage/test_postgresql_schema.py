"""The store on PostgreSQL is made once, checked at every start, and upgraded whole or not at all."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio
from killed import in_child
from postgresql import SUPERUSER, Database

from server.errors import StartError
from server.storage.postgresql import preparing, schema
from server.storage.postgresql.preparing import Place, Prepared, check, prepare
from server.storage.sqlite import schema as sqlite_schema
from server.storage.vault import Vault

_RAW = bytes(range(32))
_LEASE = """
INSERT INTO nodes (name, boot, lease_until, stopped)
VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3), $4)
"""


async def _connected(database: Database, user: str | None = None) -> asyncpg.Connection:
    return await asyncpg.connect(
        database.url,
        user=user,
        password=database.password_file.read_text().strip(),
        server_settings={"search_path": schema.SCHEMA, "lock_timeout": "5000"},
    )


@pytest_asyncio.fixture
async def connection(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A connection to an empty database, as the console makes it."""
    made = await _connected(database)
    yield made
    await made.close()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A keys folder that does not exist yet."""
    return _place(tmp_path, "keys")


#: Their keys are unique by another index.
_TOO_LONG_FOR_A_KEY = ("user_keys",)


def _place(folder: Path, name: str) -> Place:
    return Place("postgresql://console@db/test", folder / name, folder / name / "storage.key")


async def _refused(connection: asyncpg.Connection, place: Place, *words: str) -> None:
    """Check that the store is refused with this message, for `serve` and `backup`, and stays as it is."""
    before = await _dump(connection)
    for work in (prepare(connection, place), check(connection, place)):
        with pytest.raises(StartError) as refusal:
            await work
        for word in words:
            assert word in str(refusal.value)
    assert await _dump(connection) == before


async def _dump(connection: asyncpg.Connection) -> dict[str, list[str]]:
    query = "SELECT tablename FROM pg_tables WHERE schemaname = $1 ORDER BY 1"
    tables = [name for (name,) in await connection.fetch(query, schema.SCHEMA)]
    return {name: sorted(map(str, await connection.fetch(f"SELECT * FROM {name}"))) for name in tables}


async def _columns(connection: asyncpg.Connection, table: str) -> list[tuple[str, bool, bool, bool]]:
    """Return name, whether it is a text, whether it refuses NULL, and whether it is in the primary key."""
    rows = await connection.fetch(
        """
        SELECT a.attname, a.atttypid = 'text'::regtype, a.attnotnull, coalesce(a.attnum = ANY (i.indkey), FALSE)
        FROM pg_attribute a LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
        WHERE a.attrelid = $1::regclass AND a.attnum > 0 ORDER BY a.attnum
        """,
        f"{schema.SCHEMA}.{table}",
    )
    return [tuple(row) for row in rows]


async def test_the_tables_are_those_of_sqlite(connection: asyncpg.Connection, place: Place, tmp_path: Path) -> None:
    prepared = await prepare(connection, place)
    sqlite_schema.make(tmp_path / "console.db", prepared.vault)
    with closing(sqlite3.connect(tmp_path / "console.db")) as sqlite:
        rows = dict(sqlite.execute("SELECT name, value FROM store").fetchall())
        tables = sqlite_schema.tables_of(schema.newest())
        columns = {table: sqlite.execute(f"PRAGMA table_info({table})").fetchall() for table in tables}
    assert dict(await connection.fetch("SELECT name, value FROM store")) == rows
    assert {*schema.tables_of(schema.newest())} - schema.RUNTIME_TABLES == tables
    for table, expected in columns.items():
        assert await _columns(connection, table) == [
            (name, kind == "TEXT", bool(required or key), bool(key) and table not in _TOO_LONG_FOR_A_KEY)
            for _, name, kind, required, _, key in expected
        ]


async def test_every_text_sorts_by_code_point(connection: asyncpg.Connection, place: Place) -> None:
    await prepare(connection, place)
    wrong = await connection.fetch(
        """
        SELECT attrelid::regclass, attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
        WHERE c.relnamespace = $1::regnamespace AND c.relkind = 'r' AND attcollation <> 0
            AND attcollation <> '"C"'::regcollation
        """,
        schema.SCHEMA,
    )
    assert not wrong


def test_both_engines_have_the_same_newest_schema() -> None:
    assert schema.newest() == sqlite_schema.newest()
    assert [*schema.migrations()] == [number for number in sqlite_schema.migrations() if number >= 5]


async def test_the_audit_is_only_added_to(connection: asyncpg.Connection, place: Place) -> None:
    await prepare(connection, place)
    for attempt in ("UPDATE audit SET detail = ''", "DELETE FROM audit", "TRUNCATE audit"):
        with pytest.raises(asyncpg.RaiseError, match="the audit is only added to"):
            await connection.execute(attempt)


async def test_an_empty_database_gets_a_store_and_a_key(connection: asyncpg.Connection, place: Place) -> None:
    prepared = await prepare(connection, place)
    assert prepared.made
    assert place.storage_key.stat().st_mode & 0o777 == 0o600
    assert place.keys_dir.stat().st_mode & 0o777 == 0o700
    place.keys_dir.chmod(0o755)
    place.storage_key.chmod(0o644)
    again = await prepare(connection, place)
    assert not again.made
    assert again.vault.fingerprint == prepared.vault.fingerprint
    assert (place.storage_key.stat().st_mode & 0o777, place.keys_dir.stat().st_mode & 0o777) == (0o600, 0o700)
    assert (await check(connection, place))[1] == schema.newest()


async def test_a_schema_that_an_administrator_has_made_is_used(database: Database, place: Place) -> None:
    database.psql(f"REVOKE CREATE ON DATABASE {database.name} FROM console, PUBLIC")
    database.psql(f"ALTER DATABASE {database.name} OWNER TO {SUPERUSER}")
    connection = await _connected(database)
    with pytest.raises(StartError, match=r"permission denied for database .* CREATE SCHEMA ecss_console AUTHORIZATION"):
        await prepare(connection, place)
    assert not place.storage_key.exists()
    database.psql("CREATE SCHEMA ecss_console AUTHORIZATION console")
    assert (await prepare(connection, place)).made
    await connection.close()


async def test_a_missing_store_is_not_made_by_commands_that_make_none(
    connection: asyncpg.Connection, place: Place
) -> None:
    with pytest.raises(StartError, match="no store in postgresql://console@db/test: ecss-console init makes one"):
        await prepare(connection, place, make=False)
    assert not await connection.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname = $1", schema.SCHEMA)
    assert not place.keys_dir.exists()


async def test_an_empty_database_is_made_with_a_key_that_is_there(connection: asyncpg.Connection, place: Place) -> None:
    _write_key(place)
    prepared = await prepare(connection, place)
    assert prepared.made
    assert prepared.vault.fingerprint == Vault(_RAW).fingerprint


def _write_key(place: Place) -> None:
    place.keys_dir.mkdir(mode=0o700)
    place.storage_key.write_bytes(base64.b64encode(_RAW) + b"\n")


@pytest.mark.parametrize("name", ["write_new_key", "take_new_key", "restrict_permissions"])
async def test_a_start_killed_while_it_makes_the_store_is_finished(database: Database, place: Place, name: str) -> None:
    def kill_behind() -> None:
        step = getattr(preparing, name)

        def killed(*words: object) -> None:
            step(*words)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(preparing, name, killed)

    async def made() -> None:
        await prepare(await _connected(database), place)

    status = await asyncio.to_thread(in_child, lambda: asyncio.run(made()), kill_behind)
    assert status == -signal.SIGKILL
    connection = await _connected(database)
    assert (await prepare(connection, place)).made
    assert not (await prepare(connection, place)).made
    assert [path.name for path in place.keys_dir.iterdir()] == ["storage.key"]
    await connection.close()


async def test_one_of_several_programs_makes_the_store(database: Database, tmp_path: Path) -> None:
    """Nodes on other machines have no key and are told to get it; programs on the same machine find it."""
    connections = [await _connected(database) for _ in range(6)]
    places = [_place(tmp_path, name) for name in ("here", "here", "here", "there", "elsewhere", "away")]
    work = [prepare(connection, place) for connection, place in zip(connections, places, strict=True)]
    results = await asyncio.gather(*work, return_exceptions=True)
    made = [
        place for place, result in zip(places, results, strict=True) if isinstance(result, Prepared) and result.made
    ]
    assert len(made) == 1
    for place, result in zip(places, results, strict=True):
        assert isinstance(result, Prepared) == (place == made[0]), result
        if place != made[0]:
            assert "is in use but its storage key" in str(result)
            assert not place.storage_key.exists()
    for each in connections:
        await each.close()


async def test_of_two_fresh_keys_one_wins(database: Database, tmp_path: Path) -> None:
    connections = [await _connected(database) for _ in range(2)]
    places = [_place(tmp_path, name) for name in ("first", "second")]
    for number, place in enumerate(places):
        place.keys_dir.mkdir()
        place.storage_key.write_bytes(base64.b64encode(bytes([number]) * 32))
    work = [prepare(connection, place) for connection, place in zip(connections, places, strict=True)]
    results = await asyncio.gather(*work, return_exceptions=True)
    refused = [result for result in results if isinstance(result, StartError)]
    assert len(refused) == 1
    assert "was made with another storage key: put its own key there" in str(refused[0])
    for each in connections:
        await each.close()


async def test_a_used_database_without_its_key_is_refused(connection: asyncpg.Connection, place: Place) -> None:
    await prepare(connection, place)
    key = place.storage_key.read_bytes()
    place.storage_key.unlink()
    await _refused(connection, place, "is in use but its storage key", "put the key there", "nothing was changed")
    assert not place.storage_key.exists()
    place.storage_key.write_bytes(base64.b64encode(_RAW))
    await _refused(connection, place, "was made with another storage key: put its own key there")
    place.storage_key.write_text("no key at all\n")
    await _refused(connection, place, "is no storage key")
    place.storage_key.write_bytes(key)
    assert not (await prepare(connection, place)).made


async def test_a_key_outside_the_keys_folder_is_used(connection: asyncpg.Connection, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    place = Place("db", tmp_path / "keys", tmp_path / "secret" / "storage.key")
    assert (await prepare(connection, place)).made
    assert [path.name for path in (tmp_path / "secret").iterdir()] == ["storage.key"]
    place.storage_key.chmod(0o644)
    with pytest.raises(StartError, match="everybody may read the storage key"):
        await prepare(connection, place)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("UPDATE store SET value = '999' WHERE name = 'schema'", ("has schema 999", "install the newer program")),
        ("UPDATE store SET value = 'x' WHERE name = 'schema'", ("is damaged", "number of its schema is missing")),
        ("DELETE FROM store WHERE name = 'schema'", ("is damaged", "number of its schema is missing")),
        ("DELETE FROM store WHERE name = 'storage key'", ("is damaged", "mark of its storage key is missing")),
        ("DROP TABLE history", ("is damaged (the table history is missing)", "restore it from a backup")),
        ("DROP TABLE nodes", ("is damaged (the table nodes is missing)",)),
        ("DROP TABLE store", ("is damaged (the table store is missing)",)),
    ],
)
async def test_a_damaged_or_newer_store_is_refused(
    connection: asyncpg.Connection, place: Place, change: str, words: tuple[str, ...]
) -> None:
    await prepare(connection, place)
    await connection.execute(change)
    await _refused(connection, place, *words)


async def test_another_encoding_is_refused(database: Database, place: Place) -> None:
    name = f"{database.name}_latin"
    database.server.psql(f"CREATE DATABASE {name} OWNER console ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    latin = Database(database.server, name)
    connection = await _connected(latin)
    await _refused(connection, place, "has the encoding LATIN1", f"CREATE DATABASE {name} ENCODING 'UTF8'")
    await connection.close()
    latin.server.drop(latin)


async def test_a_user_without_rights_is_refused(database: Database, place: Place) -> None:
    connection = await _connected(database)
    await prepare(connection, place)
    await connection.close()
    database.psql("ALTER SCHEMA ecss_console OWNER TO postgres")
    connection = await _connected(database)
    await _refused_only(connection, place, "may not use the schema ecss_console")
    database.psql("GRANT USAGE ON SCHEMA ecss_console TO console")
    database.psql("ALTER TABLE ecss_console.users OWNER TO postgres")
    await _refused_only(connection, place, "may not use the table ecss_console.users", "GRANT the rights")
    database.psql("GRANT SELECT, INSERT, UPDATE, DELETE ON ecss_console.users TO console")
    assert not (await prepare(connection, place)).made
    await connection.close()


async def _refused_only(connection: asyncpg.Connection, place: Place, *words: str) -> None:
    for work in (prepare(connection, place), check(connection, place)):
        with pytest.raises(StartError) as refusal:
            await work
        for word in words:
            assert word in str(refusal.value)


def _next_schema(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    changed: Mapping[int, str] = {**schema.migrations(), 6: script}
    monkeypatch.setattr(schema, "migrations", lambda: changed)


_COLUMN = "ALTER TABLE domains ADD COLUMN note TEXT COLLATE \"C\" NOT NULL DEFAULT ''; CREATE TABLE notes (id BIGINT);"


async def test_an_older_store_is_upgraded(
    connection: asyncpg.Connection, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(connection, place)
    await connection.execute("INSERT INTO domains VALUES ('biysk.local', 'x', 'Biysk.local')")
    await connection.execute(_LEASE, "dead@ecss1", "a", -1, False)  # noqa: FBT003
    await connection.execute(_LEASE, "stopped@ecss1", "b", 10, True)  # noqa: FBT003
    await connection.execute(_LEASE, "own@ecss1", "c", 10, False)  # noqa: FBT003
    _next_schema(monkeypatch, _COLUMN)
    assert (await check(connection, place))[1] == 5
    assert not (await prepare(connection, place, boot="c")).made
    assert (await check(connection, place))[1] == 6
    assert [tuple(row) for row in await connection.fetch("SELECT name, note FROM domains")] == [("biysk.local", "")]


async def test_a_store_that_a_node_serves_is_not_upgraded(
    connection: asyncpg.Connection, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(connection, place)
    await connection.execute(_LEASE, "ds2@ecss1", "b", 10, False)  # noqa: FBT003
    _next_schema(monkeypatch, _COLUMN)
    before = await _dump(connection)
    with pytest.raises(StartError, match=r"is of an older schema, .* serve it: ds2@ecss1: stop that node first"):
        await prepare(connection, place, boot="a")
    assert await _dump(connection) == before


@pytest.mark.parametrize(
    ("script", "error", "word"),
    [
        ("DELETE FROM domains;", StartError, "domains would have 0 rows in place of 1; nothing was changed"),
        ("CREATE TABLE notes (id BIGINT); SELECT 1 / 0;", asyncpg.DivisionByZeroError, "division by zero"),
    ],
)
async def test_an_upgrade_that_fails_changes_nothing(
    connection: asyncpg.Connection,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    error: type[Exception],
    word: str,
) -> None:
    await prepare(connection, place)
    await connection.execute("INSERT INTO domains VALUES ('biysk.local', 'x', 'Biysk.local')")
    before = await _dump(connection)
    _next_schema(monkeypatch, script)
    with pytest.raises(error, match=word):
        await prepare(connection, place)
    assert await _dump(connection) == before


async def test_several_programs_upgrade_once(database: Database, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    connections = [await _connected(database) for _ in range(4)]
    await prepare(connections[0], place)
    _next_schema(monkeypatch, _COLUMN)
    await asyncio.gather(*(prepare(each, place) for each in connections))
    assert (await check(connections[0], place))[1] == 6
    for each in connections:
        await each.close()


class _Slow:
    """A connection on which another program's work comes between the two reads of a look."""

    def __init__(self, connection: asyncpg.Connection, meanwhile: Coroutine[object, object, object]) -> None:
        self._connection = connection
        self._meanwhile: Coroutine[object, object, object] | None = meanwhile

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)

    async def fetch(self, sql: str, *values: object) -> object:
        """Fetch rows, then let the other program work once."""
        rows = await self._connection.fetch(sql, *values)
        if "FROM pg_class" in sql and self._meanwhile is not None:
            meanwhile, self._meanwhile = self._meanwhile, None
            await meanwhile
        return rows


@pytest.mark.parametrize("work", [prepare, check])
async def test_an_upgrade_by_another_program_during_a_start_is_no_damage(
    work: Callable[[asyncpg.Connection, Place], Awaitable[object]],
    database: Database,
    connection: asyncpg.Connection,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await prepare(connection, place)
    _next_schema(monkeypatch, "CREATE TABLE notes (id BIGINT);")
    other = await _connected(database)
    await work(_Slow(connection, prepare(other, place)), place)
    assert (await check(connection, place))[1] == 6
    await other.close()
