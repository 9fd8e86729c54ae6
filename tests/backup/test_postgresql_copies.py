"""Copies between SQLite and PostgreSQL: backup, restore and migrate-store, whole or not at all."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from backups import CLEAR, backup_made, events_in, status_of, verified
from console import ConsoleServer
from postgresql import Database
from postgresql_copies import AWKWARD, SQLITE_URL, configured, in_postgresql, in_sqlite, schemas, without
from service import needs_root, public_folder

from server.config.postgresql_url import parse_postgresql_url
from server.errors import TemporaryError
from server.storage.postgresql import restoring, schema, table_copy
from server.storage.postgresql.connection import Address
from server.storage.postgresql.opening import Patience, opened
from server.storage.postgresql.preparing import Place
from server.storage.sqlite import schema as sqlite_schema
from server.storage.sqlite import table_copy as sqlite_table_copy
from server.storage.store import Store


def _live(database: Database, name: str = "ds7@ecss1") -> None:
    database.psql(
        "INSERT INTO ecss_console.nodes (name, boot, lease_until) "
        f"VALUES ('{name}', 'b', clock_timestamp() + interval '1 hour')"
    )


def test_every_row_arrives_in_both_directions(
    awkward: ConsoleServer, database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = in_sqlite(awkward.database)
    files = sorted(path.name for path in awkward.database.parent.iterdir())
    assert status_of("migrate-store", SQLITE_URL, database.url) == 0
    told = capsys.readouterr().out
    assert "integrations  1,200" in told
    assert f"set storage.url to {database.url}" in told
    assert in_sqlite(awkward.database) == before
    assert sorted(path.name for path in awkward.database.parent.iterdir()) == files
    there = in_postgresql(database)
    assert without(there) == without(before)
    assert there["audit"][: len(before["audit"])] == before["audit"]
    monkeypatch.setenv("ECSS_CONSOLE_STORAGE__URL", database.url)
    assert status_of("audit", "verify") == 0
    assert status_of("migrate-store", database.url, "sqlite:///var/again.db") == 0
    monkeypatch.setenv("ECSS_CONSOLE_STORAGE__URL", "sqlite:///var/again.db")
    assert without(in_sqlite(Path("var/again.db"))) == without(before)
    assert status_of("audit", "verify") == 0
    assert events_in(Path("var/again.db"))[-2:] == ["store.migrated"] * 2
    assert Path("var/again.db").stat().st_mode & 0o777 == 0o600


def test_new_rows_get_ids_behind_the_copied_ones(migrated: ConsoleServer, database: Database) -> None:
    assert status_of("user", "add", "eve", "--authorized-key", f"{migrated.key}.pub") == 0
    database.psql("INSERT INTO ecss_console.history (user_name, line) VALUES ('admin', 'new')")
    assert database.psql("SELECT max(id) FROM ecss_console.history") == str(700 + len(AWKWARD))
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
    before = in_postgresql(database)
    assert [path.name for path in Path("keys").glob("*scratch*")] == []

    assert status_of("restore", backup) == 1
    assert f"there is a store already, {database.url}: give --force" in capsys.readouterr().err
    database.psql("DELETE FROM ecss_console.integrations")
    assert status_of("restore", backup, "--force") == 0
    told = capsys.readouterr().out
    (kept,) = (name for name in schemas(database) if name != schema.SCHEMA)
    assert kept.startswith("ecss_console_before_")
    assert f"kept as the schema {kept} of {database.url}; DROP SCHEMA {kept} CASCADE drops it" in told
    assert without(in_postgresql(database)) == without(before)
    assert in_postgresql(database, kept)["integrations"] == []
    assert status_of("audit", "verify") == 0
    database.psql(f"DROP SCHEMA {kept} CASCADE")
    assert status_of("audit", "verify") == 0

    monkeypatch.setenv("ECSS_CONSOLE_STORAGE__URL", "sqlite:///var/restored.db")
    assert status_of("restore", backup) == 0
    assert without(in_sqlite(Path("var/restored.db"))) == without(before)
    assert status_of("audit", "verify") == 0


def test_a_backup_of_sqlite_restores_into_an_empty_postgresql(
    awkward: ConsoleServer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = backup_made("b", *CLEAR)
    before = in_sqlite(awkward.database)
    shutil.rmtree("keys")
    monkeypatch.setenv("ECSS_CONSOLE_STORAGE__URL", database.url)
    assert status_of("restore", backup) == 0
    assert without(in_postgresql(database)) == without(before)
    assert status_of("audit", "verify") == 0
    assert status_of("user", "list") == 0


@pytest.mark.slow
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
    before = in_postgresql(database)
    assert status_of("restore", backup, "--force") == 1
    assert f"{database.url} is served by ds7@ecss1: stop that node first" in capsys.readouterr().err
    assert status_of("migrate-store", database.url, "sqlite:///var/again.db") == 1
    assert "is served by ds7@ecss1: stop that node first" in capsys.readouterr().err
    assert not list(Path("var").glob("again.db*"))
    assert in_postgresql(database) == before
    assert schemas(database) == [schema.SCHEMA]


@pytest.mark.slow
@pytest.mark.usefixtures("migrated")
def test_a_node_that_begins_during_a_restore_stops_it(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backup = backup_made("b", *CLEAR)
    before = in_postgresql(database)
    load = table_copy.load

    async def loaded(*words: Any) -> Any:  # noqa: ANN401
        await asyncio.to_thread(_live, database)
        return await load(*words)

    monkeypatch.setattr(restoring, "load", loaded)
    assert status_of("restore", backup, "--force") == 1
    assert "is served by ds7@ecss1" in capsys.readouterr().err
    assert in_postgresql(database) == before
    assert schemas(database) == [schema.SCHEMA]
    assert not restoring.is_left(Path("keys"))


def test_wrong_stores_are_not_migrated(
    awkward: ConsoleServer, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("var/there.db").write_bytes(b"")
    before = in_sqlite(awkward.database)
    for source, target, words in (
        (SQLITE_URL, SQLITE_URL, "FROM and TO are the same store"),
        (SQLITE_URL, "mysql://x", "TO is no URL of a store: sqlite:///FILE"),
        (SQLITE_URL, "postgresql://u:geheim@h/d", "the password does not belong into the URL"),
        ("sqlite:///var/none.db", database.url, "var/none.db is not there"),
        (database.url, "sqlite:///var/new.db", "there is no store in"),
        (SQLITE_URL, "sqlite:///var/there.db", "there is a store already"),
    ):
        assert status_of("migrate-store", source, target) == 1
        told = capsys.readouterr().err
        assert words in told
        assert "geheim" not in told
    assert in_sqlite(awkward.database) == before
    assert schemas(database) == []
    assert Path("var/there.db").read_bytes() == b""
    assert not Path("var/new.db").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("migrated")
def test_a_store_is_not_migrated_into_another(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    before = in_postgresql(database)
    assert status_of("migrate-store", SQLITE_URL, database.url) == 1
    assert f"there is a store already, {database.url}: take an empty database" in capsys.readouterr().err
    assert in_postgresql(database) == before


def test_a_served_sqlite_store_is_not_migrated(
    awkward: ConsoleServer, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    awkward.start()
    assert status_of("migrate-store", SQLITE_URL, database.url) == 1
    assert "another ecss-console serves or restores the store" in capsys.readouterr().err
    assert schemas(database) == []


def test_values_that_postgresql_cannot_hold_are_named(
    awkward: ConsoleServer, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = awkward.database.read_bytes()
    for change, words in (
        ("UPDATE history SET line = 'a' || char(0) || 'b' WHERE id = 700", "line is 'a\\x00b' in the row 700"),
        ("UPDATE history SET line = x'ff' WHERE id = 700", "history: line is b'\\xff' in the row 700"),
        ("UPDATE history SET line = CAST(x'ff' AS TEXT) WHERE id = 700", "history has a text that is not UTF-8"),
        ("UPDATE users SET locked = 1.5", "users: locked is 1.5 in the row admin"),
    ):
        awkward.database.write_bytes(whole)
        with closing(sqlite3.connect(awkward.database)) as connection:
            connection.execute(change)
            connection.commit()
        assert status_of("migrate-store", SQLITE_URL, database.url) == 1
        assert words in capsys.readouterr().err
        assert schemas(database) == []


@pytest.mark.slow
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
        source, target = SQLITE_URL, database.url
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
    assert schemas(database) == ([] if target == database.url else [schema.SCHEMA])
    assert not Path("var/new.db").exists()


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

    async def backed_up() -> int:
        done = asyncio.Event()
        writing = asyncio.create_task(write(done))
        for number in range(3):
            made = await asyncio.to_thread(migrated.program, "backup", f"busy{number}", *CLEAR, **configured())
            assert made.returncode == 0, made.stderr
        done.set()
        return await writing

    written = asyncio.run(backed_up())
    assert written > 20
    seen = []
    for number in range(3):
        shutil.unpack_archive(f"busy{number}", f"unpacked{number}", "gztar")
        rows = in_sqlite(Path(f"unpacked{number}/console.db"))
        domains = [row for row in rows["domains"] if row[1] == "busy"]
        assert len(domains) == len([row for row in rows["history"] if row[1] == "busy"])
        seen.append(len(domains))
    assert seen == sorted(seen)
    assert seen[-1] > seen[0]


@pytest.mark.slow
@pytest.mark.usefixtures("migrated")
def test_a_user_who_may_make_no_schema_restores_nothing(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    backup = backup_made("b", *CLEAR)
    before = in_postgresql(database)
    database.psql(f"ALTER DATABASE {database.name} OWNER TO postgres")
    assert status_of("restore", backup, "--force") == 1
    told = capsys.readouterr().err
    assert "permission denied for database" in told
    assert "GRANT CREATE ON DATABASE" in told
    assert in_postgresql(database) == before


@pytest.mark.slow
def test_one_restore_at_a_time(migrated: ConsoleServer, database: Database) -> None:
    backup = backup_made("b", *CLEAR)

    async def restored_beside() -> subprocess.CompletedProcess[str]:
        connection = await asyncpg.connect(database.url, password=database.password_file.read_text().strip())
        await connection.execute(f"SELECT pg_advisory_lock({schema.SCHEMA_LOCK})")
        ran = await asyncio.to_thread(migrated.program, "restore", str(backup), "--force", **configured())
        await connection.close()
        return ran

    ran = asyncio.run(restored_beside())
    assert ran.returncode == 1
    assert "another program makes, upgrades or restores the store" in ran.stderr


_COLUMN = "ALTER TABLE domains ADD COLUMN note TEXT {} NOT NULL DEFAULT 'none';"


@pytest.mark.slow
@pytest.mark.usefixtures("migrated")
def test_an_older_store_is_copied_as_it_is_and_upgraded_in_its_new_place(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module, how in ((schema, 'COLLATE "C"'), (sqlite_schema, "")):
        changed = {**module.migrations(), 6: _COLUMN.format(how)}
        monkeypatch.setattr(module, "migrations", lambda changed=changed: changed)
    backup = backup_made("b", *CLEAR)
    assert "the store has schema 5, this program writes 6" in capsys.readouterr().err
    assert "schema 5" in database.psql("SELECT 'schema ' || value FROM ecss_console.store WHERE name = 'schema'")
    assert status_of("migrate-store", database.url, "sqlite:///var/new.db") == 0
    with closing(sqlite3.connect("var/new.db")) as connection:
        assert connection.execute("SELECT DISTINCT note FROM domains").fetchall() == [("none",)]
    assert status_of("restore", backup, "--force") == 0
    assert database.psql("SELECT DISTINCT note FROM ecss_console.domains") == "none"
    assert status_of("audit", "verify") == 0


@pytest.mark.slow
def test_files_that_root_restores_belong_to_the_owner_of_the_keys(
    filled: ConsoleServer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_root()
    backup = backup_made("b", *CLEAR)
    with public_folder() as place:
        keys, password = place / "keys", place / "password"
        keys.mkdir(mode=0o700)
        password.write_text(database.password_file.read_text())
        password.chmod(0o600)
        for path in (keys, password):
            os.chown(path, 65_534, 65_534)
        monkeypatch.setenv("ECSS_CONSOLE_KEYS__DIR", str(keys))
        monkeypatch.setenv("ECSS_CONSOLE_STORAGE__URL", database.url)
        monkeypatch.setenv("ECSS_CONSOLE_STORAGE__PASSWORD_FILE", str(password))
        assert status_of("restore", backup) == 0
        assert status_of("backup", filled.folder / "b2", *CLEAR) == 0
        owners = {path.name: path.stat().st_uid for path in keys.iterdir()}
    assert {"storage.key", "ssh_host_ed25519_key"} <= set(owners)
    assert {*owners.values()} == {65_534}, owners


@pytest.mark.slow
def test_a_console_from_before_a_restore_writes_no_more(migrated: ConsoleServer, database: Database) -> None:
    """A frozen node has no lease; it wakes up with the heads, and perhaps the storage key, of the former store."""
    backup = str(backup_made("b", *CLEAR))

    async def restored_beside() -> None:
        address = Address(parse_postgresql_url(database.url), database.password_file)
        place = Place("test", Path("keys"), Path("keys/storage.key"))
        async with opened(address, place, Patience(), make=False) as (engine, prepared):
            await change(Store(engine, prepared.vault))

    async def change(store: Store) -> None:
        async with store.transaction() as query:
            await query("DELETE FROM grants")
        ran = await asyncio.to_thread(migrated.program, "restore", backup, "--force", **configured())
        assert ran.returncode == 0, ran.stderr
        with pytest.raises(TemporaryError, match="a restore has replaced the store"):
            async with store.transaction() as query:
                await query("DELETE FROM domains")

    asyncio.run(restored_beside())
    assert database.psql("SELECT count(*) FROM ecss_console.grants") == "1"
    assert database.psql("SELECT count(*) FROM ecss_console.domains") == "13"
