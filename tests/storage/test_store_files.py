"""Store files are made once, are private, and stay untouched when they cannot be opened safely."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from contextlib import closing
from importlib.resources import files
from pathlib import Path

import pytest
from console import ConsoleServer
from service import needs_root, public_folder

from server.errors import StartError
from server.storage.sqlite.files import prepare


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


SERVE = (("serve",),)
EVERY_COMMAND = (*SERVE, ("init",), ("user", "list"), ("user", "add", "eve", "--password-stdin"))


def _refused(console: ConsoleServer, *words: str, commands: tuple[tuple[str, ...], ...] = SERVE) -> None:
    """Check that the program refuses the store with this message and touches nothing."""
    before = _contents(console.folder)
    for command in commands:
        ran = console.program(*command, text="secret\n")
        assert ran.returncode == 1, ran.stderr
        for word in words:
            assert word in ran.stderr
        assert "Traceback" not in ran.stderr
    assert _contents(console.folder) == before


def test_a_newer_schema_is_refused(stopped_console: ConsoleServer) -> None:
    with sqlite3.connect(stopped_console.database) as database:
        database.execute("UPDATE store SET value = '999' WHERE name = 'schema'")
    database.close()
    _refused(stopped_console, "has schema 999", "install the newer program", commands=EVERY_COMMAND)


@pytest.mark.parametrize("place", [0, 100, 4096])
def test_a_damaged_database_is_refused(stopped_console: ConsoleServer, place: int) -> None:
    raw = bytearray(stopped_console.database.read_bytes())
    raw[place : place + 64] = b"\xff" * 64
    stopped_console.database.write_bytes(raw)
    _refused(stopped_console, "is damaged", "restore it from a backup")


def test_an_empty_or_cut_database_is_refused(stopped_console: ConsoleServer) -> None:
    whole = stopped_console.database.read_bytes()
    for size in (0, 10, len(whole) // 2):
        stopped_console.database.write_bytes(whole[:size])
        _refused(stopped_console, "is damaged")


@pytest.mark.slow
@pytest.mark.parametrize("value", ["x", "", "1.5", "0", "-1"])
def test_a_schema_that_is_no_number_is_refused(stopped_console: ConsoleServer, value: str) -> None:
    with sqlite3.connect(stopped_console.database) as database:
        database.execute("UPDATE store SET value = ? WHERE name = 'schema'", (value,))
    database.close()
    _refused(stopped_console, "is damaged (the number of its schema is missing)")


def test_a_missing_table_is_refused(stopped_console: ConsoleServer) -> None:
    with sqlite3.connect(stopped_console.database) as database:
        database.execute("DROP TABLE history")
    database.close()
    _refused(stopped_console, "is damaged (the table history is missing)")


def test_a_locked_database_is_not_called_damaged(stopped_console: ConsoleServer) -> None:
    holder = sqlite3.connect(stopped_console.database, isolation_level=None)
    holder.execute("PRAGMA journal_mode=WAL")
    holder.execute("PRAGMA locking_mode=EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    ran = stopped_console.program("user", "list")
    holder.close()
    assert ran.returncode == 1
    assert "the store is busy" in ran.stderr
    assert "damaged" not in ran.stderr


def test_a_flipped_byte_anywhere_is_refused_plainly_or_harmless(stopped_console: ConsoleServer) -> None:
    """SQLite has no checksums: a flip in a value or free space may pass, but none causes a traceback."""
    whole = stopped_console.database.read_bytes()
    refused = 0
    for place in range(0, len(whole), 61):
        raw = bytearray(whole)
        raw[place] ^= 0xFF
        stopped_console.database.write_bytes(raw)
        try:
            prepare(stopped_console.database, stopped_console.folder / "keys")
        except StartError:
            refused += 1
    assert refused > 20


def test_a_truncated_new_storage_key_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "storage.key.new").write_text("half")
    (tmp_path / "console.db.new").write_text("half")
    assert prepare(tmp_path / "console.db", tmp_path / "keys").made
    assert not list(tmp_path.rglob("*.new"))


def test_a_missing_storage_key_is_refused(stopped_console: ConsoleServer) -> None:
    (stopped_console.folder / "keys" / "storage.key").unlink()
    _refused(stopped_console, "is there but its storage key", "put the key back")


def test_another_storage_key_is_refused(
    stopped_console: ConsoleServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    prepare(other / "console.db", other / "keys")
    shutil.copy(other / "keys" / "storage.key", stopped_console.folder / "keys" / "storage.key")
    _refused(stopped_console, "was made with another storage key")
    (stopped_console.folder / "keys" / "storage.key").write_text("no key at all\n")
    _refused(stopped_console, "is no storage key")


def test_a_storage_key_without_its_database_is_refused(stopped_console: ConsoleServer) -> None:
    shutil.rmtree(stopped_console.folder / "var")
    _refused(stopped_console, "is there but its database", "put the database back")


def test_a_start_interrupted_between_key_and_database_is_finished(tmp_path: Path) -> None:
    prepare(tmp_path / "console.db", tmp_path / "keys")
    (tmp_path / "console.db").rename(tmp_path / "console.db.new")
    assert not prepare(tmp_path / "console.db", tmp_path / "keys").made
    assert (tmp_path / "console.db").exists()


def test_an_unreadable_folder_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a file where the folder should be")
    with pytest.raises(StartError, match="the store cannot be opened"):
        prepare(tmp_path / "console.db", tmp_path / "keys")


def test_files_are_private_and_stay_private(console: ConsoleServer) -> None:
    console.run("domain/declare biysk.local")
    console.stop()
    for path in (console.database, console.folder / "keys" / "storage.key"):
        path.chmod(0o644)
    (console.folder / "keys").chmod(0o755)
    console.start()
    console.run("domain/biysk.local/integrations/list")
    files = [*(console.folder / "var").iterdir(), *(console.folder / "keys").iterdir()]
    assert {path.name for path in files} >= {"console.db", "console.db-wal", "storage.key", "ssh_host_ed25519_key"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE((console.folder / "keys").stat().st_mode) == 0o700


def test_the_host_key_is_made_once_and_kept(console: ConsoleServer) -> None:
    first = (console.folder / "keys" / "ssh_host_ed25519_key").read_bytes()
    console.stop()
    console.start()
    assert (console.folder / "keys" / "ssh_host_ed25519_key").read_bytes() == first


def test_an_upgrade_from_before_grants_removes_no_access(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    first = (files("server.storage.sqlite") / "migrations" / "0001_first.sql").read_text(encoding="utf-8")
    with closing(sqlite3.connect(console.database)) as database:
        kept = database.execute("SELECT value FROM store WHERE name = 'storage key'").fetchone()
    for path in console.database.parent.iterdir():
        path.unlink()
    with closing(sqlite3.connect(console.database)) as database:
        database.executescript(first)
        database.execute("INSERT INTO store VALUES ('schema', '1'), ('storage key', ?)", kept)
        database.execute("INSERT INTO users VALUES ('admin', 'admin', NULL, 'x'), ('vera', 'viewer', NULL, 'x')")
        database.execute("INSERT INTO domains VALUES ('a.local', 'x'), ('b.local', 'x')")
        database.commit()
    assert console.program("user", "list").returncode == 0
    with closing(sqlite3.connect(console.database)) as database:
        granted = database.execute("SELECT user_name, domain FROM grants ORDER BY 1, 2").fetchall()
        assert database.execute("SELECT locked, expires_at FROM users").fetchall() == [(0, None), (0, None)]
    assert granted == [("vera", "a.local"), ("vera", "b.local")]


def test_files_made_by_root_belong_to_the_service_user() -> None:
    """The service could not read a host key that root made with `hostkey rotate`, and did not start."""
    needs_root()
    service = 65_534
    with public_folder() as place:
        console = ConsoleServer(place)
        for folder in (console.folder / "var", console.folder / "keys"):
            folder.mkdir(mode=0o700)
            os.chown(folder, service, service)
        assert console.program("init").returncode == 0
        assert console.program("hostkey", "rotate").returncode == 0
        made = {path.name: path.stat().st_uid for name in ("var", "keys") for path in (place / name).iterdir()}
    assert {"console.db", "storage.key", "ssh_host_ed25519_key_next", "ssh_host_ed25519_key_next.pub"} <= set(made)
    assert {*made.values()} == {service}, made
