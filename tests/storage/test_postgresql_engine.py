"""Faults between one engine and PostgreSQL: nothing half done, no lock left behind, and work goes on afterwards."""

from __future__ import annotations

import asyncio
import base64
import gc
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import pytest
import pytest_asyncio
from engines import address_of, schema_oid, vault_of
from fault_proxy import FaultProxy
from postgresql import ROLE, Database
from writers import Writers, found, opened_store, until

from server.config.postgresql_url import parse_postgresql_url
from server.errors import TemporaryError
from server.storage import users
from server.storage.feed import EVERYTHING, Topic
from server.storage.postgresql.connection import Address, Connection
from server.storage.postgresql.control import LOST, Control
from server.storage.postgresql.engine import PostgresqlEngine
from server.storage.store import Store

_INSERT = "INSERT INTO history (user_name, line) VALUES (?, ?)"
_COUNT = "SELECT count(*) FROM history"
_HELD = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
_CONNECTIONS = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{ROLE}' AND datname = current_database()"


@pytest_asyncio.fixture
async def postgresql_engine(store_database: Database) -> AsyncIterator[PostgresqlEngine]:
    """An engine on a store in PostgreSQL."""
    address = address_of(store_database)
    engine = PostgresqlEngine(address, await schema_oid(address))
    yield engine
    await engine.close()


@pytest_asyncio.fixture
async def postgresql_store(store_database: Database, store_template: Path) -> AsyncIterator[Store]:
    """A store in PostgreSQL, over TCP."""
    async with opened_store(store_database.url, store_database.password_file, store_template) as store:
        yield store


def _soon(seconds: float = 5.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_a_begin_that_is_cancelled_at_any_moment_leaves_no_lock(
    postgresql_engine: PostgresqlEngine, store_database: Database
) -> None:
    engine = postgresql_engine
    for steps in range(40):
        beginning = asyncio.create_task(engine.begin(_soon()))
        for _ in range(steps // 4):
            await asyncio.sleep(0.0003 * (steps % 4))
        beginning.cancel()
        await asyncio.wait({beginning})
        if not beginning.cancelled():
            await engine.rollback()
        assert not engine.in_transaction
    await until(lambda: store_database.psql(_HELD) == "0", 5)
    await engine.begin(_soon())
    await engine.rollback()


async def test_a_cancelled_read_leaves_at_once_and_its_connection_stays(
    postgresql_engine: PostgresqlEngine, store_database: Database
) -> None:
    engine = postgresql_engine
    await asyncio.gather(*(engine.read(_COUNT) for _ in range(20)))
    before = store_database.psql(_CONNECTIONS)
    for number in range(30):
        reading = asyncio.create_task(engine.read(_COUNT))
        await asyncio.sleep(number * 0.0001)
        reading.cancel()
        await asyncio.wait({reading}, timeout=5)
        assert reading.done()
    assert await engine.read(_COUNT) == [(0,)]
    assert store_database.psql(_CONNECTIONS) == before


async def test_a_node_whose_name_is_taken_leaves_no_open_transaction(
    postgresql_engine: PostgresqlEngine, store_database: Database
) -> None:
    engine = postgresql_engine
    engine.fence("ds1@ecss1", "of another run")
    with pytest.raises(TemporaryError, match="another console has taken the name ds1@ecss1 of this node"):
        await engine.begin(_soon())
    assert not engine.in_transaction
    assert store_database.psql(_HELD) == "0"


async def test_an_ignored_error_of_a_statement_is_never_reported_as_stored(postgresql_engine: PostgresqlEngine) -> None:
    engine = postgresql_engine
    await engine.begin(_soon())
    await engine.run(_INSERT, "admin", "a line")
    with pytest.raises(Exception, match="does not exist"):
        await engine.run("SELECT 1 FROM no_such_table")
    with pytest.raises(RuntimeError, match="was rolled back"):
        await engine.commit(frozenset())
    await engine.rollback()
    assert await engine.read(_COUNT) == [(0,)]


async def test_a_lost_connection_ends_the_transaction_and_the_next_one_begins(
    postgresql_engine: PostgresqlEngine, store_database: Database
) -> None:
    engine = postgresql_engine
    await engine.begin(_soon())
    await engine.run(_INSERT, "admin", "a line")
    store_database.psql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'")
    with pytest.raises(Exception) as raised:  # noqa: PT011  of the driver
        await engine.run(_INSERT, "admin", "a line")
    reason = engine.reason(raised.value)
    assert reason is not None
    assert reason.text == "the database does not answer"
    assert not engine.in_transaction
    await engine.rollback()
    await engine.begin(_soon())
    await engine.commit(frozenset())
    assert await engine.read(_COUNT) == [(0,)]


async def test_a_cancelled_change_does_not_take_a_full_group_with_it(
    postgresql_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change that finds a full group commits it first. Its cancellation must not make the others' answers wrong."""
    monkeypatch.setattr("server.storage.postgresql.engine._MOST_CHANGES", 2)
    for number in range(30):
        writers = Writers(postgresql_store)
        await writers.begin()
        changing = [asyncio.create_task(writers.try_change(f"{number}-{each}")) for each in range(5)]
        await asyncio.sleep(0.0005 * number)
        changing[number % 5].cancel()
        await asyncio.wait(changing)
        assert writers.seen.refused == []
        assert len(writers.seen.acknowledged) >= 4
    counted = await postgresql_store.read("SELECT count(*) FROM audit GROUP BY detail HAVING count(*) > 1")
    assert counted == []


async def test_ten_thousand_rows_do_not_stop_the_loop(postgresql_engine: PostgresqlEngine) -> None:
    engine = postgresql_engine
    loop, longest, ended = asyncio.get_running_loop(), [0.0], asyncio.Event()

    async def watch() -> None:
        while not ended.is_set():
            before = loop.time()
            await asyncio.sleep(0.001)
            longest.append(loop.time() - before)

    watching = asyncio.create_task(watch())
    await engine.begin(_soon())
    await engine.run_many(_INSERT, [("admin", f"line {number}") for number in range(10_000)])
    await engine.commit(frozenset())
    rows = await engine.read("SELECT line FROM history ORDER BY id")
    ended.set()
    await watching
    assert [line for (line,) in rows] == [f"line {number}" for number in range(10_000)]
    assert max(longest) < 1


async def test_a_database_without_free_connections_is_waited_for(
    postgresql_store: Store, store_database: Database, store_template: Path
) -> None:
    await postgresql_store.schema()
    try:
        async with opened_store(store_database.url, store_database.password_file, store_template) as store:
            store_database.psql(f'ALTER DATABASE "{store_database.name}" CONNECTION LIMIT 1')
            reading = asyncio.create_task(store.schema())
            await asyncio.sleep(0.5)
            assert not reading.done()
            store_database.psql(f'ALTER DATABASE "{store_database.name}" CONNECTION LIMIT -1')
            assert await reading == await postgresql_store.schema()
    finally:
        store_database.psql(f'ALTER DATABASE "{store_database.name}" CONNECTION LIMIT -1')


@pytest.mark.slow
async def test_a_database_that_stays_full_is_said_to_be(store_database: Database, store_template: Path) -> None:
    async with opened_store(store_database.url, store_database.password_file, store_template) as store:
        store_database.psql(f'ALTER DATABASE "{store_database.name}" CONNECTION LIMIT 0')
        with pytest.raises(TemporaryError, match="the database has no free connection, nothing was changed"):
            await store.schema()


async def test_a_password_that_is_changed_is_read_again_and_never_shown(
    store_database: Database, store_template: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    role, password = f"role_{store_database.name}", "Kreidefels-1"
    store_database.psql(f"CREATE ROLE {role} LOGIN PASSWORD '{password}' IN ROLE {ROLE}")
    url, file = store_database.url.replace(f"//{ROLE}@", f"//{role}@"), tmp_path / "password"
    file.touch(0o600)
    file.write_text("Feuerstein-2\n")
    engine = PostgresqlEngine(Address(parse_postgresql_url(url), file), await schema_oid(address_of(store_database)))
    store = Store(engine, vault_of(store_template))
    try:
        with pytest.raises(TemporaryError, match=r"^the database refuses this node, nothing was changed"):
            await store.schema()
        file.unlink()
        with pytest.raises(TemporaryError, match=r"^the settings of the database are wrong, nothing was changed"):
            await store.schema()
        file.touch(0o600)
        file.write_text(f"{password}\n")
        assert await store.schema()
    finally:
        await store.close()
        store_database.psql(f"DROP ROLE {role}")
    assert password not in caplog.text
    assert "Feuerstein-2" not in caplog.text
    assert "cannot be read" in caplog.text


async def test_notifications_that_are_not_ours_mean_that_everything_may_have_changed(
    postgresql_engine: PostgresqlEngine, store_database: Database
) -> None:
    engine = postgresql_engine
    await engine.changed_elsewhere()
    for payload, number, topics in (
        ("rubbish", 0, EVERYTHING),
        ("writer 7 topic-of-a-newer-version", 7, EVERYTHING),
        ("writer 8 users", 8, frozenset({Topic.USERS})),
    ):
        store_database.psql(f"NOTIFY ecss_changes, '{payload}'")
        changed = await asyncio.wait_for(engine.changed_elsewhere(), 30)
        assert (changed.number, changed.topics) == (number, topics)


@pytest.mark.parametrize(
    "sql",
    ["DELETE FROM ecss_console.change_counter", "UPDATE ecss_console.change_counter SET number = 9223372036854775807"],
)
async def test_a_lost_counter_of_changes_is_named(postgresql_store: Store, store_database: Database, sql: str) -> None:
    store_database.psql(sql)
    with pytest.raises(TemporaryError, match="change_counter of the database has no usable number"):
        async with postgresql_store.transaction() as query:
            await query("DELETE FROM users WHERE name = ?", "nobody")
    async with postgresql_store.transaction() as query:
        await query(_INSERT, "admin", "no other node has cached this")
    assert await postgresql_store.read(_COUNT) == [(1,)]


@pytest.mark.parametrize("name", ["a\0b", "x" * 65536, "\N{SNOWMAN}" * 20000, "' OR 1 = 1 --"])
async def test_hostile_names_match_nothing(any_store: Store, name: str) -> None:
    assert await users.find(any_store.read, name) is None
    assert await any_store.read("SELECT 1 FROM domains WHERE name = ?", name) == []
    assert await any_store.read("SELECT 1 FROM user_keys WHERE public_key = ?", name) == []


async def test_the_longest_public_key_is_stored(any_store: Store) -> None:
    blob = base64.b64encode(b"".join(sha256(bytes([number])).digest() for number in range(66))[:2083]).decode()
    async with any_store.transaction() as query:
        await query("INSERT INTO users (name, role, added_at) VALUES ('admin', 'admin', '2026')")
        insert = "INSERT INTO user_keys (user_name, public_key, comment, added_at) VALUES ('admin', ?, '', '2026')"
        await query(f"{insert} ON CONFLICT DO NOTHING", blob)
        await query(f"{insert} ON CONFLICT DO NOTHING", blob)
    assert await any_store.read("SELECT public_key FROM user_keys") == [(blob,)]


async def test_closing_during_a_login_leaves_nothing(
    store_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with FaultProxy(store_database.server.port) as proxy:
        proxy.stall()
        address = Address(parse_postgresql_url(store_database.url_through(proxy.port)), store_database.password_file)
        engine, control = PostgresqlEngine(address, 1), Control(address)
        reading = asyncio.create_task(engine.read(_COUNT))
        await until(lambda: proxy.counts["connections"] > 0)
        async with asyncio.timeout(10):
            await asyncio.gather(engine.close(), control.close())
            await asyncio.wait({reading})
        assert isinstance(reading.exception(), Exception)
        proxy.resume()
        connection = Connection(address, "never opened")
        await connection.close()
        with pytest.raises(TemporaryError, match="the store is closed"):
            await connection.opened(_soon())
    await until(lambda: store_database.psql(_CONNECTIONS) == "0", 10)
    assert "never retrieved" not in caplog.text


@pytest.mark.slow
async def test_a_black_hole_is_left_within_seconds(store_database: Database, store_template: Path) -> None:
    with FaultProxy(store_database.server.port) as proxy:
        url = store_database.url_through(proxy.port)
        async with opened_store(url, store_database.password_file, store_template) as store:
            writers, loop = Writers(store), asyncio.get_running_loop()
            await writers.begin()
            writers.start(5)
            await writers.more(20)
            proxy.stall()
            began = loop.time()
            with pytest.raises(TemporaryError, match="the database does not answer"):
                await store.schema()
            assert loop.time() - began < 9
            stopping = asyncio.create_task(writers.stop())
            done, _ = await asyncio.wait({stopping}, timeout=25)
            assert done
            proxy.resume()
            proxy.drop_connections()
            await writers.try_change("afterwards")
            assert writers.seen.acknowledged[-1] == "afterwards"
            assert (await found(store, [writers.seen])).faults() == []


@pytest.mark.slow
async def test_a_first_host_in_a_black_hole_costs_two_seconds(store_database: Database, store_template: Path) -> None:
    with FaultProxy(store_database.server.port) as proxy:
        proxy.stall()
        hosts = f"127.0.0.1:{proxy.port},127.0.0.1:{store_database.server.port}"
        url = store_database.url.replace(f"127.0.0.1:{store_database.server.port}", hosts)
        async with opened_store(url, store_database.password_file, store_template) as store:
            loop = asyncio.get_running_loop()
            began = loop.time()
            assert await store.schema()
            assert loop.time() - began < 4
        proxy.resume()


async def test_a_program_that_froze_during_an_upgrade_changes_nothing(
    postgresql_store: Store, store_database: Database
) -> None:
    async with postgresql_store.transaction() as query:
        await query(_INSERT, "admin", "before")
    store_database.psql("UPDATE ecss_console.store SET value = '999' WHERE name = 'schema'")
    with pytest.raises(TemporaryError, match=r"the store has schema 999 by now, .* install the newer program"):
        async with postgresql_store.transaction() as query:
            await query(_INSERT, "admin", "after")
    assert await postgresql_store.read(_COUNT) == [(1,)]


async def test_limits_of_the_database_for_people_do_not_count(
    postgresql_engine: PostgresqlEngine, store_database: Database
) -> None:
    for setting in ("statement_timeout", "idle_session_timeout"):
        store_database.psql(f"ALTER DATABASE {store_database.name} SET {setting} = '1ms'")
    asked = "SELECT current_setting('statement_timeout'), current_setting('idle_session_timeout')"
    assert await postgresql_engine.read(asked) == [("0", "0")]


async def test_a_read_that_fails_after_its_caller_has_left_is_no_defect(
    postgresql_engine: PostgresqlEngine,
) -> None:
    defects: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, found: defects.append(found))
    reading = asyncio.create_task(postgresql_engine.read("SELECT count(*) FROM no_such_table"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await postgresql_engine.close()  # waits for the read
    del reading
    gc.collect()
    await asyncio.sleep(0)
    assert defects == []


@pytest.mark.slow
async def test_a_control_connection_in_a_black_hole_is_made_again_and_says_what_was_missed(
    store_database: Database,
) -> None:
    with FaultProxy(store_database.server.port) as proxy:
        url = parse_postgresql_url(store_database.url_through(proxy.port))
        control = Control(Address(url, store_database.password_file))
        heard = control.subscribe("tests")
        running = asyncio.create_task(control.run_loop())
        try:
            assert await heard.next(20) == [LOST]
            store_database.psql("NOTIFY tests, 'one'")
            assert await heard.next(20) == ["one"]
            proxy.stall()
            store_database.psql("NOTIFY tests, 'missed'")
            loop = asyncio.get_running_loop()
            began = loop.time()
            with pytest.raises(TimeoutError):
                await control.run("SELECT 1")
            assert loop.time() - began < 6
            proxy.drop_connections()
            proxy.resume()
            assert LOST in await heard.next(20)
            store_database.psql("NOTIFY tests, 'two'")
            assert await heard.next(20) == ["two"]
        finally:
            running.cancel()
            await asyncio.wait({running})
            await control.close()
