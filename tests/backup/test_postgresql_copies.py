"""Copies between SQLite and PostgreSQL: backup, restore and migrate-store, whole or not at all."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from backups import CLEAR, backup_made, events_in, status_of, verified
from console import ConsoleServer
from killed import in_child
from postgresql import Database

from server.storage.postgresql import restoring, schema, table_copy
from server.storage.sqlite import schema as sqlite_schema
from server.storage.sqlite import table_copy as sqlite_table_copy

#: Texts that other engines, encodings and quoting rules change.
_AWKWARD = (
    "",
    " ",
    "'\"\\",
    "$1 ? %s {}",
    "a\u0301\u0323 \u00e1",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0010ffff",
    "\uffff\ufffe\ufeff\u2028",
    "\r\n\t\x01\x7f",
    "NULL",
    "\\N",
    "домен.local",
    "x" * 70_000,
)
_SQLITE = "sqlite:///var/console.db"
#: The rows that the copy itself adds to.
_OWN = ("audit", "audit_heads", "store")

Rows = dict[str, list[tuple[object, ...]]]


@pytest.fixture
def awkward(filled: ConsoleServer, database: Database, monkeypatch: pytest.MonkeyPatch) -> ConsoleServer:
    """A store on SQLite with rows in every table, in the current folder, and the password of PostgreSQL configured."""
    monkeypatch.setenv("ECSS_CONSOLE_STORAGE__PASSWORD_FILE", str(database.password_file))
    with closing(sqlite3.connect(filled.database)) as connection:
        connection.executemany(
            "INSERT INTO history (id, user_name, line) VALUES (?, 'admin', ?)", enumerate(_AWKWARD, 700)
        )
        connection.executemany(
            "INSERT INTO domains VALUES (?, ?, ?)",
            ((f"d{number}.local", text, text) for number, text in enumerate(_AWKWARD)),
        )
        connection.executemany(
            "INSERT INTO integrations VALUES ('biysk.local', ?, 'service', ?, ?, ?, 'x', 'x')",
            (
                (f"c{number}", ",".join(map(str, range(number))), f"sealed{number}", f"hash{number}")
                for number in range(1200)
            ),
        )
        connection.execute("INSERT INTO grants VALUES ('admin', 'biysk.local', 'x')")
        connection.execute("UPDATE users SET locked = 0, expires_at = NULL, password_hash = NULL")
        connection.commit()
    return filled


@pytest.fixture
def migrated(awkward: ConsoleServer, database: Database, monkeypatch: pytest.MonkeyPatch) -> ConsoleServer:
    """The same store on PostgreSQL, which is configured."""
    assert status_of("migrate-store", _SQLITE, database.url) == 0
    monkeypatch.setenv("ECSS_CONSOLE_STORAGE__URL", database.url)
    return awkward


def _in_sqlite(path: Path) -> Rows:
    with closing(sqlite3.connect(path)) as connection:
        tables = sqlite_schema.tables_of(schema.newest())
        return {name: sorted(connection.execute(f"SELECT * FROM {name}"), key=repr) for name in tables}


def _in_postgresql(database: Database, name: str = schema.SCHEMA) -> Rows:
    async def read() -> Rows:
        connection = await asyncpg.connect(database.url, password=database.password_file.read_text().strip())
        try:
            tables = sqlite_schema.tables_of(schema.newest())
            rows = {table: await connection.fetch(f"SELECT * FROM {name}.{table}") for table in tables}
        finally:
            await connection.close()
        return {table: sorted(map(tuple, found), key=repr) for table, found in rows.items()}

    return asyncio.run(read())


def _schemas(database: Database) -> list[str]:
    return database.psql("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'ecss%' ORDER BY 1").split()


def _without(rows: Rows, *tables: str) -> Rows:
    return {name: found for name, found in rows.items() if name not in (tables or _OWN)}


def _live(database: Database, name: str = "ds7@ecss1") -> None:
    database.psql(
        "INSERT INTO ecss_console.nodes (name, boot, lease_until) "
        f"VALUES ('{name}', 'b', clock_timestamp() + interval '1 hour')"
    )


def test_every_row_arrives_in_both_directions(
    awkward: ConsoleServer, database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _in_sqlite(awkward.database)
    files = sorted(path.name for path in awkward.database.parent.iterdir())
    assert status_of("migrate-store", _SQLITE, database.url) == 0
    told = capsys.readouterr().out
    assert "integrations  1,200" in told
    assert f"set storage.url to {database.url}" in told
    assert _in_sqlite(awkward.database) == before
    assert sorted(path.name for path in awkward.database.parent.iterdir()) == files
    there = _in_postgresql(database)
    assert _without(there) == _without(before)
    assert there["audit"][: len(before["audit"])] == before["audit"]
    monkeypatch.setenv("ECSS_CONSOLE_STORAGE__URL", database.url)
    assert status_of("audit", "verify") == 0
    assert status_of("migrate-store", database.url, "sqlite:///var/again.db") == 0
    monkeypatch.setenv("ECSS_CONSOLE_STORAGE__URL", "sqlite:///var/again.db")
    assert _without(_in_sqlite(Path("var/again.db"))) == _without(before)
    assert status_of("audit", "verify") == 0
    assert events_in(Path("var/again.db"))[-2:] == ["store.migrated"] * 2
    assert Path("var/again.db").stat().st_mode & 0o777 == 0o600


def test_new_rows_get_ids_behind_the_copied_ones(migrated: ConsoleServer, database: Database) -> None:
    assert status_of("user", "add", "eve", "--authorized-key", f"{migrated.key}.pub") == 0
    database.psql("INSERT INTO ecss_console.history (user_name, line) VALUES ('admin', 'new')")
    assert database.psql("SELECT max(id) FROM ecss_console.history") == str(700 + len(_AWKWARD))
    assert status_of("audit", "verify") == 0
    with pytest.raises(AssertionError, match="the audit is only added to"):
        database.psql("DELETE FROM ecss_console.audit")


@pytest.mark.usefixtures("migrated")
def test_a_backup_of_postgresql_restores_into_both_engines(
    database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = backup_made("b", *CLEAR)
    assert database.psql("SELECT event FROM ecss_console.audit ORDER BY id DESC LIMIT 1") == "backup.made"
    assert verified(backup) == 0
    before = _in_postgresql(database)
    assert [path.name for path in Path("keys").glob("*scratch*")] == []

    assert status_of("restore", backup) == 1
    assert f"there is a store already, {database.url}: give --force" in capsys.readouterr().err
    database.psql("DELETE FROM ecss_console.integrations")
    assert status_of("restore", backup, "--force") == 0
    told = capsys.readouterr().out
    (kept,) = (name for name in _schemas(database) if name != schema.SCHEMA)
    assert kept.startswith("ecss_console_before_")
    assert f"kept as the schema {kept} of {database.url}; DROP SCHEMA {kept} CASCADE drops it" in told
    assert _without(_in_postgresql(database)) == _without(before)
    assert _in_postgresql(database, kept)["integrations"] == []
    assert status_of("audit", "verify") == 0
    database.psql(f"DROP SCHEMA {kept} CASCADE")
    assert status_of("audit", "verify") == 0

    monkeypatch.setenv("ECSS_CONSOLE_STORAGE__URL", "sqlite:///var/restored.db")
    assert status_of("restore", backup) == 0
    assert _without(_in_sqlite(Path("var/restored.db"))) == _without(before)
    assert status_of("audit", "verify") == 0


def test_a_backup_of_sqlite_restores_into_an_empty_postgresql(
    awkward: ConsoleServer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = backup_made("b", *CLEAR)
    before = _in_sqlite(awkward.database)
    shutil.rmtree("keys")
    monkeypatch.setenv("ECSS_CONSOLE_STORAGE__URL", database.url)
    assert status_of("restore", backup) == 0
    assert _without(_in_postgresql(database)) == _without(before)
    assert status_of("audit", "verify") == 0
    assert status_of("user", "list") == 0


@pytest.mark.usefixtures("migrated")
def test_a_restore_of_another_console_brings_its_keys(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    backup = backup_made("b", *CLEAR)
    key = Path("keys/storage.key").read_bytes()
    database.psql("DROP SCHEMA ecss_console CASCADE")
    shutil.rmtree("keys")
    assert status_of("init") == 0
    other = Path("keys/storage.key").read_bytes()
    assert status_of("restore", backup, "--force") == 1
    assert "the backup is of another console" in capsys.readouterr().err
    assert status_of("restore", backup, "--force", "--foreign") == 0
    assert Path("keys/storage.key").read_bytes() == key
    assert [path.read_bytes() for path in Path("keys").glob("storage.key.before-restore-*")] == [other]
    assert status_of("audit", "verify") == 0
    assert not restoring.is_left(Path("keys"))


@pytest.mark.usefixtures("migrated")
def test_a_store_that_a_node_serves_is_backed_up_but_not_replaced(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    _live(database)
    backup = backup_made("b", *CLEAR)
    before = _in_postgresql(database)
    assert status_of("restore", backup, "--force") == 1
    assert f"{database.url} is served by ds7@ecss1: stop that node first" in capsys.readouterr().err
    assert status_of("migrate-store", database.url, "sqlite:///var/again.db") == 1
    assert "is served by ds7@ecss1: stop that node first" in capsys.readouterr().err
    assert not list(Path("var").glob("again.db*"))
    assert _in_postgresql(database) == before
    assert _schemas(database) == [schema.SCHEMA]


@pytest.mark.usefixtures("migrated")
def test_a_node_that_begins_during_a_restore_stops_it(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backup = backup_made("b", *CLEAR)
    before = _in_postgresql(database)
    load = table_copy.load

    async def loaded(*words: Any) -> Any:  # noqa: ANN401
        await asyncio.to_thread(_live, database)
        return await load(*words)

    monkeypatch.setattr(restoring, "load", loaded)
    assert status_of("restore", backup, "--force") == 1
    assert "is served by ds7@ecss1" in capsys.readouterr().err
    assert _in_postgresql(database) == before
    assert _schemas(database) == [schema.SCHEMA]
    assert not restoring.is_left(Path("keys"))


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (_SQLITE, _SQLITE, "FROM and TO are the same store"),
        (_SQLITE, "mysql://x", "TO is no URL of a store: sqlite:///FILE"),
        (_SQLITE, "postgresql://u:geheim@h/d", "the password does not belong into the URL"),
        ("sqlite:///var/none.db", "PG", "var/none.db is not there"),
        ("PG", "sqlite:///var/new.db", "there is no store in"),
        (_SQLITE, "sqlite:///var/there.db", "there is a store already"),
    ],
)
def test_wrong_stores_are_not_migrated(
    awkward: ConsoleServer,
    database: Database,
    capsys: pytest.CaptureFixture[str],
    source: str,
    target: str,
    words: str,
) -> None:
    Path("var/there.db").write_bytes(b"")
    before = _in_sqlite(awkward.database)
    assert status_of("migrate-store", *(database.url if each == "PG" else each for each in (source, target))) == 1
    told = capsys.readouterr().err
    assert words in told
    assert "geheim" not in told
    assert _in_sqlite(awkward.database) == before
    assert _schemas(database) == []
    assert Path("var/there.db").read_bytes() == b""


@pytest.mark.usefixtures("migrated")
def test_a_store_is_not_migrated_into_another(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    before = _in_postgresql(database)
    assert status_of("migrate-store", _SQLITE, database.url) == 1
    assert f"there is a store already, {database.url}: take an empty database" in capsys.readouterr().err
    assert _in_postgresql(database) == before


def test_a_served_sqlite_store_is_not_migrated(
    awkward: ConsoleServer, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    awkward.start()
    assert status_of("migrate-store", _SQLITE, database.url) == 1
    assert "another ecss-console serves or restores the store" in capsys.readouterr().err
    assert _schemas(database) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("UPDATE history SET line = 'a' || char(0) || 'b' WHERE id = 700", "history: line is 'a\\x00b' in the row 700"),
        ("UPDATE history SET line = x'ff' WHERE id = 700", "history: line is b'\\xff' in the row 700"),
        ("UPDATE history SET line = CAST(x'ff' AS TEXT) WHERE id = 700", "history has a text that is not UTF-8"),
        ("UPDATE users SET locked = 1.5", "users: locked is 1.5 in the row admin"),
    ],
)
def test_values_that_postgresql_cannot_hold_are_named(
    awkward: ConsoleServer, database: Database, capsys: pytest.CaptureFixture[str], change: str, words: str
) -> None:
    with closing(sqlite3.connect(awkward.database)) as connection:
        connection.execute(change)
        connection.commit()
    assert status_of("migrate-store", _SQLITE, database.url) == 1
    assert words in capsys.readouterr().err
    assert _schemas(database) == []


@pytest.mark.parametrize("target", ["PG", "sqlite:///var/new.db"])
@pytest.mark.usefixtures("migrated")
def test_a_row_that_does_not_arrive_stops_the_copy(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    target: str,
) -> None:
    """Whatever loses or changes a row on the way, the comparison finds it."""
    source = database.url
    if target == "PG":
        database.psql("DROP SCHEMA ecss_console CASCADE")
        source, target = _SQLITE, database.url
        add = table_copy._add  # noqa: SLF001

        async def added(connection: object, table: Any, rows: Any) -> None:  # noqa: ANN401
            await add(connection, table, rows[1:] if table.name == "integrations" else rows)

        monkeypatch.setattr(table_copy, "_add", added)
    else:
        original = sqlite_table_copy.TableFile.add

        def changed(self: Any, table: Any, rows: Any) -> None:  # noqa: ANN401
            original(self, table, [(*row[:-1], "y") for row in rows] if table.name == "integrations" else rows)

        monkeypatch.setattr(sqlite_table_copy.TableFile, "add", changed)
    assert status_of("migrate-store", source, target) == 1
    assert "the copy of the table integrations is not as it was read" in capsys.readouterr().err
    assert _schemas(database) == ([] if target == database.url else [schema.SCHEMA])
    assert not Path("var/new.db").exists()


def _killed_behind(place: object, name: str) -> Callable[[], None]:
    """Return a preparation that kills the process when a function has returned."""

    def trap() -> None:
        called = getattr(place, name)

        def killed(*words: Any, **more: Any) -> Any:  # noqa: ANN401
            called(*words, **more)
            os.kill(os.getpid(), signal.SIGKILL)

        async def killed_async(*words: Any, **more: Any) -> Any:  # noqa: ANN401
            await called(*words, **more)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(place, name, killed_async if asyncio.iscoroutinefunction(called) else killed)

    return trap


_STEPS = (
    (table_copy, "_add"),
    (table_copy, "_total"),
    (restoring, "load"),
    (restoring, "_load"),
    (restoring, "write_ready"),
    (restoring, "_write_keys"),
    (restoring, "_rename"),
    (restoring, "ignore_interrupts"),
)


def _keys(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.slow
@pytest.mark.usefixtures("migrated")
def test_a_restore_killed_at_any_step_leaves_the_old_or_the_new_store(database: Database) -> None:
    """The restored store has another storage key, so keys and tables must change together."""
    backup = backup_made("b", *CLEAR)
    new, new_key = _without(_in_postgresql(database)), Path("keys/storage.key").read_bytes()
    database.psql("DROP SCHEMA ecss_console CASCADE")
    shutil.rmtree("keys")
    assert status_of("init") == 0
    old, keys = _without(_in_postgresql(database)), _keys(Path("keys"))
    for place, name in _STEPS:
        work = partial(status_of, "restore", backup, "--force", "--foreign")
        assert in_child(work, _killed_behind(place, name)) == -signal.SIGKILL, name
        assert status_of("user", "list") == 0, name
        assert _without(_in_postgresql(database)) == old, name
        assert _keys(Path("keys")) == keys, name
        assert status_of("audit", "verify") == 0
        assert not restoring.is_left(Path("keys"))
    for name in ("place_keys", "bounded"):
        trap = _killed_behind(restoring, name) if name == "place_keys" else _killed_at_the_commit
        assert in_child(partial(status_of, "restore", backup, "--force", "--foreign"), trap) == -signal.SIGKILL
        assert restoring.is_left(Path("keys"))
        assert status_of("user", "list") == 0, "the next program finishes"
        assert not restoring.is_left(Path("keys"))
        assert Path("keys/storage.key").read_bytes() == new_key
        assert _without(_in_postgresql(database)) == new
        assert status_of("audit", "verify") == 0


def _killed_at_the_commit() -> None:
    """Kill the process when the schemas are renamed and the keys are not in place."""
    bounded = table_copy.bounded

    async def killed(connection: Any, work: Any) -> Any:  # noqa: ANN401
        done = await bounded(connection, work)
        if restoring.is_left(Path("keys")):
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    setattr(restoring, "bounded", killed)  # noqa: B010  mypy takes imported names for private


@pytest.mark.slow
def test_a_migration_killed_at_any_step_starts_over(awkward: ConsoleServer, database: Database) -> None:
    before = _in_sqlite(awkward.database)
    work = partial(status_of, "migrate-store", _SQLITE, database.url)
    for place, name in _STEPS:
        assert in_child(work, _killed_behind(place, name)) == -signal.SIGKILL, name
        assert schema.SCHEMA not in _schemas(database), name
        assert _in_sqlite(awkward.database) == before
    assert work() == 0
    assert _schemas(database) == [schema.SCHEMA]
    assert _without(_in_postgresql(database)) == _without(before)
    assert not [path.name for path in Path("keys").glob("*scratch*")]
    back = partial(status_of, "migrate-store", database.url, "sqlite:///var/again.db")
    steps: tuple[tuple[object, str], ...] = (
        (table_copy, "begin_snapshot"),
        (sqlite_table_copy.TableFile, "add"),
        (sqlite_table_copy.TableFile, "total"),
        (table_copy, "dump"),
    )
    for where, step in steps:
        assert in_child(back, _killed_behind(where, step)) == -signal.SIGKILL, step
        assert not Path("var/again.db").exists()
    assert back() == 0
    assert _without(_in_sqlite(Path("var/again.db"))) == _without(before)
    assert not list(Path("var").glob("*scratch*"))


@pytest.mark.slow
def test_backups_are_of_one_moment_while_nodes_write(migrated: ConsoleServer, database: Database) -> None:
    """Every domain has its history line in the same transaction, so a backup has as many of one as of the other."""

    async def write(done: asyncio.Event) -> int:
        connection = await asyncpg.connect(
            database.url,
            password=database.password_file.read_text().strip(),
            server_settings={"search_path": schema.SCHEMA},
        )
        written = 0
        while not done.is_set():
            async with connection.transaction():
                await connection.execute("INSERT INTO domains VALUES ($1, 'busy', $1)", f"busy{written}.local")
                await connection.execute("INSERT INTO history (user_name, line) VALUES ('busy', $1)", str(written))
            written += 1
        await connection.close()
        return written

    configured = {name: value for name, value in os.environ.items() if name.startswith("ECSS_CONSOLE_STORAGE__")}

    async def backed_up() -> int:
        done = asyncio.Event()
        writing = asyncio.create_task(write(done))
        for number in range(3):
            made = await asyncio.to_thread(migrated.program, "backup", f"busy{number}", *CLEAR, **configured)
            assert made.returncode == 0, made.stderr
        done.set()
        return await writing

    written = asyncio.run(backed_up())
    assert written > 20
    seen = []
    for number in range(3):
        shutil.unpack_archive(f"busy{number}", f"unpacked{number}", "gztar")
        rows = _in_sqlite(Path(f"unpacked{number}/console.db"))
        domains = [row for row in rows["domains"] if row[1] == "busy"]
        assert len(domains) == len([row for row in rows["history"] if row[1] == "busy"])
        seen.append(len(domains))
    assert seen == sorted(seen)
    assert seen[-1] > seen[0]
