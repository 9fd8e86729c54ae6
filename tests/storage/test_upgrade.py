"""Stores of every released schema are upgraded whole, or stay unchanged."""

from __future__ import annotations

import base64
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from chains import Attacked
from console import ConsoleServer
from killed import killed_at_every_step, without_room

from server.errors import StartError
from server.storage.chain import Beginning
from server.storage.sqlite import schema
from server.storage.sqlite.files import Prepared, prepare
from server.storage.vault import Vault

_AT = "2021-02-16T08:00:00Z"
_KEY = "K" * 64
#: Released schemas; a new one is added here when it is released.
RELEASED = (1, 2, 3, 4, 5)
_RAW = bytes(range(32))
_OLDER = [number for number in RELEASED if number < schema.newest()]
_CLIENTS = 300


def _older_store(folder: Path, number: int) -> Path:
    """Make a store of that schema with rows in every table."""
    database, keys = folder / "var" / "console.db", folder / "keys"
    database.parent.mkdir(parents=True)
    keys.mkdir(mode=0o700)
    (keys / "storage.key").write_bytes(base64.b64encode(_RAW) + b"\n")
    (keys / "storage.key").chmod(0o600)
    vault = Vault(_RAW)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA foreign_keys=ON")
        for each in range(1, number + 1):
            connection.executescript(schema.migrations()[each])
        store = [("schema", str(number)), ("storage key", vault.fingerprint)]
        if number >= 3:
            store.append(("audit beginning", vault.audit.mark(Beginning(0, 0))))
        if number >= 4:
            store.append(("audit nodes", vault.audit.listed([])))
        connection.executemany("INSERT INTO store VALUES (?, ?)", store)
        for name, role in (("admin", "admin"), ("eve", "viewer")):
            connection.execute("INSERT INTO users (name, role, added_at) VALUES (?, ?, ?)", (name, role, _AT))
        connection.execute(
            "INSERT INTO user_keys (user_name, public_key, comment, added_at) VALUES ('admin', 'k', '', ?)", (_AT,)
        )
        connection.execute("INSERT INTO domains (name, declared_at) VALUES ('biysk.local', ?)", (_AT,))
        if number >= 5:
            connection.execute("UPDATE domains SET declared_as = name")
        for client in range(_CLIENTS):
            client_id, key = f"c{client}", f"{client:064}"
            row = ("biysk.local", client_id, "service", "007,0100", vault.seal("biysk.local", client_id, key))
            connection.execute(
                "INSERT INTO integrations VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, vault.lookup_hash(key), _AT, _AT)
            )
        if number < 3:
            for _ in range(5):
                row_ = (_AT, "ds1@ecss1", "login", "admin", "127.0.0.1:1", "s", "", "{}", 0, "", 0)
                connection.execute(f"INSERT INTO audit VALUES (NULL, {', '.join('?' * 11)})", row_)
        connection.execute("INSERT INTO history VALUES (1, 'admin', 'domain/list')")
        connection.commit()
    database.chmod(0o600)
    return database


def _dump(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return [*connection.iterdump()]


def _integrations(database: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT * FROM integrations ORDER BY client_id").fetchall()


def _prepared(folder: Path) -> Prepared:
    return prepare(folder / "var" / "console.db", folder / "keys", make=False)


@pytest.mark.parametrize("number", RELEASED)
def test_every_released_schema_is_upgraded_with_all_data(tmp_path: Path, number: int) -> None:
    database = _older_store(tmp_path, number)
    before, dump = _integrations(database), _dump(database)
    prepared = _prepared(tmp_path)
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT value FROM store WHERE name = 'schema'").fetchone() == (str(schema.newest()),)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT user_name, domain FROM grants").fetchall() == [("eve", "biysk.local")] * (
            number < 2
        )
        assert connection.execute("SELECT line FROM history").fetchall() == [("domain/list",)]
        assert connection.execute("SELECT name, declared_as FROM domains").fetchall() == [("biysk.local",) * 2]
    assert _integrations(database) == before
    assert prepared.vault.open("Biysk.LOCAL", "c7", before[[row[1] for row in before].index("c7")][4]) == f"{7:064}"
    assert Attacked(prepared).found() == []
    kept = database.with_name(f"console.db.schema-{number}")
    if number == schema.newest():
        assert not kept.exists()
    else:
        assert _dump(kept) == dump
        assert kept.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in database.parent.iterdir()} <= {
        "console.db",
        kept.name,
        "console.db-wal",
        "console.db-shm",
    }


@pytest.mark.slow
@pytest.mark.parametrize("number", _OLDER)
def test_the_server_serves_an_older_store(stopped_console: ConsoleServer, number: int) -> None:
    for name in ("var", "keys"):
        shutil.rmtree(stopped_console.folder / name)
    _older_store(stopped_console.folder, number)
    added = stopped_console.program("user", "add", "root", "--authorized-key", f"{stopped_console.key}.pub")
    assert added.returncode == 0, added.stderr
    assert "brought the store from schema" in added.stderr
    stopped_console.start()
    status, shown = stopped_console.told("root", "domain/biysk.local/integrations/list | count")
    assert (status, shown) == (0, f"Count: {_CLIENTS}\n")


@pytest.mark.slow
@pytest.mark.parametrize("number", _OLDER)
def test_an_upgrade_killed_at_any_step_leaves_the_old_or_new_store(tmp_path: Path, number: int) -> None:
    origin, work = tmp_path / "origin", tmp_path / "work"
    old = _dump(_older_store(origin, number))
    shutil.copytree(origin, tmp_path / "whole")
    _prepared(tmp_path / "whole")
    new = _dump(tmp_path / "whole" / "var" / "console.db")
    shutil.copytree(origin, work)
    states = []
    for _ in killed_at_every_step(lambda: _prepared(work) and None):
        database = work / "var" / "console.db"
        found = _dump(database)
        states.append(found == new)
        assert found in (old, new)
        _prepared(work)  # the next start finishes
        assert _dump(database) == new
        assert not [path for path in database.parent.iterdir() if "scratch" in path.name]
        shutil.rmtree(work)
        shutil.copytree(origin, work)
    assert len(states) > 40
    assert states == sorted(states), "old first, then new"
    assert not states[0]


def test_an_upgrade_without_room_leaves_the_old_store(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    old = _dump(_older_store(origin, 1))
    size = (origin / "var" / "console.db").stat().st_size
    refused = 0
    for most_bytes in (1, 4096, size // 2, size - 4096, size + 4096, size + 10 * 4096):
        work = tmp_path / f"work{most_bytes}"
        shutil.copytree(origin, work)
        status = without_room(lambda folder=work: _prepared(folder) and None, most_bytes)  # type: ignore[misc]
        if status:
            refused += 1
            assert _dump(work / "var" / "console.db") == old
        _prepared(work)
    assert refused >= 4


def test_a_migration_that_loses_rows_is_refused_on_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = _older_store(tmp_path, 3)
    old = _dump(database)
    for script, word in (
        ("DELETE FROM integrations WHERE client_id = 'c7';", "integrations would have 299 rows in place of 300"),
        ("UPDATE integrations SET domain = 'nowhere';", "belongs to no row of domains"),
    ):
        changed = {**schema.migrations(), 4: script}
        with monkeypatch.context() as patch:
            patch.setattr(schema, "migrations", lambda changed=changed: changed)
            with pytest.raises(StartError, match=word):
                _prepared(tmp_path)
        assert _dump(database) == old
        assert sorted(path.name for path in database.parent.glob("*.s*")) in ([], ["console.db.schema-3"])


@pytest.mark.parametrize("table", ["grants", "audit_heads", "users"])
def test_a_missing_table_is_damage_in_every_schema(tmp_path: Path, table: str) -> None:
    database = _older_store(tmp_path, 3)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(f"DROP TABLE {table}")
        connection.commit()
    with pytest.raises(StartError, match=f"the table {table} is missing"):
        _prepared(tmp_path)
