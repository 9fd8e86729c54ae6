"""A restore is whole or does nothing, and keeps the existing store."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from backups import (
    CLEAR,
    backup_made,
    dump_of,
    files_in,
    killed_behind_its_step,
    lose,
    status_of,
)
from console import ConsoleServer
from killed import without_room
from service import needs_root, public_folder

from server.file_names import ECDSA_HOST_KEY_NAME
from server.storage.sqlite import schema
from server.transport.hostkey import fingerprint_of, host_keys


def test_restoring_a_host_key_from_before_a_rotation_warns(
    filled: ConsoleServer, capsys: pytest.CaptureFixture[str]
) -> None:
    backup = backup_made("backup", *CLEAR)
    assert status_of("restore", backup, "--force") == 0
    assert "the host key is" not in capsys.readouterr().err
    folder = filled.folder / "keys"
    before = fingerprint_of(host_keys(folder).used)
    for words in (("hostkey", "rotate"), ("hostkey", "rotate", "--finish")):
        assert status_of(*words) == 0
    rotated = fingerprint_of(host_keys(folder).used)
    assert status_of("restore", backup, "--force") == 0
    assert fingerprint_of(host_keys(folder).used) == before
    assert f"the host key is {before} now, it was {rotated}: clients" in capsys.readouterr().err
    (folder / "ssh_host_ed25519_key").write_text("a torn one")
    assert status_of("restore", backup, "--force") == 0
    assert f"the host key is {before} now, it was no key that can be read: clients" in capsys.readouterr().err


def test_the_ecdsa_host_key_is_part_of_a_backup(
    filled: ConsoleServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECSS_CONSOLE_SSH__POLICY", "compatible")
    folder = filled.folder / "keys"
    made = host_keys(folder, ecdsa=True).ecdsa
    backup = backup_made("backup", *CLEAR)
    (folder / ECDSA_HOST_KEY_NAME).unlink()
    other = host_keys(folder, ecdsa=True).ecdsa
    assert made is not None
    assert other is not None
    assert status_of("restore", backup, "--force") == 0
    told = capsys.readouterr()
    assert "ssh_host_ecdsa_key" in told.out
    assert f"the ECDSA host key is {fingerprint_of(made)} now, it was {fingerprint_of(other)}: clients" in told.err
    assert host_keys(folder, ecdsa=True).ecdsa == made


def test_a_restore_is_detected_as_a_rollback(filled: ConsoleServer, capsys: pytest.CaptureFixture[str]) -> None:
    backup = backup_made("backup", *CLEAR)
    backup_made("later", *CLEAR)
    assert status_of("audit", "verify") == 0
    (head,) = re.findall(r"head (\d+:[0-9a-f]{64})\n", capsys.readouterr().out)
    assert status_of("restore", backup, "--force") == 0
    assert status_of("audit", "verify") == 0
    assert status_of("audit", "verify", "--head", head) == 1
    assert "rolled back" in capsys.readouterr().err
    with closing(sqlite3.connect(filled.database)) as connection:
        ((given,),) = connection.execute("SELECT arguments FROM audit WHERE event = 'backup.restored'")
    assert json.loads(given)["file"] == str(backup)
    assert json.loads(given)["heads"].keys() == {"ds1@ecss1"}


def test_a_restore_without_keys_needs_the_matching_storage_key(
    filled: ConsoleServer, capsys: pytest.CaptureFixture[str]
) -> None:
    backup = backup_made("b", "--unencrypted", "--without-keys")
    assert b"storage.key" not in gzip.decompress(backup.read_bytes())[:4096].split(b"console.db")[0]
    key = (filled.folder / "keys" / "storage.key").read_bytes()
    lose(filled)
    assert status_of("restore", backup, "--verify-only") == 0
    assert "its storage key is not at hand" in capsys.readouterr().err
    assert status_of("restore", backup) == 1
    assert "needs its own storage key at" in capsys.readouterr().err
    assert not filled.database.exists()
    (filled.folder / "keys").mkdir(exist_ok=True)
    (filled.folder / "keys" / "storage.key").write_bytes(b"A" * 43 + b"=\n")
    assert status_of("restore", backup, "--force") == 1
    assert "where another one is" in capsys.readouterr().err
    (filled.folder / "keys" / "storage.key").write_bytes(key)
    assert status_of("restore", backup) == 0
    assert status_of("user", "list") == 0


def test_a_storage_key_outside_of_the_keys_folder_is_never_written(
    filled: ConsoleServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = backup_made("b", *CLEAR)
    outside = filled.folder / "apart.key"
    (filled.folder / "keys" / "storage.key").rename(outside)
    (filled.folder / "var" / "console.db").unlink()
    monkeypatch.setenv("ECSS_CONSOLE_KEYS__STORAGE_KEY_FILE", str(outside))
    key = outside.read_bytes()
    outside.unlink()
    assert status_of("restore", backup) == 1
    assert "put the backup's own key there first" in capsys.readouterr().err
    outside.write_bytes(key)
    outside.chmod(0o600)
    assert status_of("restore", backup) == 0
    assert outside.read_bytes() == key
    assert not (filled.folder / "keys" / "storage.key").exists()
    assert status_of("user", "list") == 0


def test_an_existing_store_is_kept_and_a_running_one_is_untouched(
    filled: ConsoleServer, capsys: pytest.CaptureFixture[str]
) -> None:
    backup = backup_made("b", *CLEAR)
    filled.start()
    filled.run("domain/declare later.local")
    before = dump_of(filled.database, "audit", "audit_heads")  # the login is written here soon
    for words in ((), ("--force",)):
        assert status_of("restore", backup, *words) == 1
        assert "stop it first" in capsys.readouterr().err
    assert "later.local" in filled.run("domain/list")
    filled.stop(9)  # its last changes are in the -wal
    assert dump_of(filled.database, "audit", "audit_heads") == before
    assert status_of("restore", backup) == 1
    assert "there is a store already" in capsys.readouterr().err
    assert status_of("restore", backup, "--force") == 0
    assert "later.local" not in "\n".join(dump_of(filled.database))
    (old,) = (path for path in filled.database.parent.glob("*.before-restore-*") if path.name.endswith("Z"))
    assert f"The old one is kept as {old.relative_to(filled.folder)}" in capsys.readouterr().out
    assert dump_of(old, "audit", "audit_heads") == before


def test_existing_other_keys_are_kept(filled: ConsoleServer, capsys: pytest.CaptureFixture[str]) -> None:
    backup = backup_made("b", *CLEAR)
    keys = files_in(filled.folder / "keys")
    lose(filled)
    assert status_of("init") == 0
    others = files_in(filled.folder / "keys")
    shutil.rmtree(filled.folder / "var")
    assert status_of("restore", backup) == 1
    assert "the backup is of another console" in capsys.readouterr().err
    assert files_in(filled.folder / "keys") == others
    assert status_of("restore", backup, "--foreign") == 0
    assert status_of("hostkey", "list") == 0
    found = files_in(filled.folder / "keys")
    assert {name: found[name] for name in keys} == keys
    (kept,) = (name for name in found if name.startswith("storage.key.before-restore-"))
    assert found[kept] == others["storage.key"]


def test_a_backup_of_a_newer_or_older_schema(
    filled: ConsoleServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    older = backup_made("older", *CLEAR)
    known, today = schema.migrations(), schema.newest()
    newer_script = "CREATE TABLE tenants (name TEXT PRIMARY KEY);"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "migrations", lambda: {**known, today + 1: newer_script})
        assert status_of("restore", older, "--force") == 0
        assert f"schema {today}" in capsys.readouterr().out
        newer = backup_made("newer", *CLEAR)
    for words in (("--verify-only",), ("--force",)):
        assert status_of("restore", newer, *words) == 1
        wanted = f"has schema {today + 1}, this program knows {today}: install the newer program"
        assert wanted in capsys.readouterr().err
    assert status_of("restore", older, "--force") == 0
    assert status_of("audit", "verify") == 0
    assert filled.database.exists()


@pytest.mark.parametrize("lost", ["lost", "there"])
def test_files_restored_by_root_belong_to_the_folder_owner(
    filled: ConsoleServer, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """The service has its own user, and could not read a store that belongs to root."""
    needs_root()
    with public_folder() as folder:
        shutil.copytree(filled.folder, folder / "service")
        console = ConsoleServer(folder / "service")
        monkeypatch.chdir(console.folder)
        backup = backup_made("b", *CLEAR)
        places = [console.folder / "var", console.folder / "keys"]

        def found() -> list[Path]:
            return [each for place in places if place.exists() for each in (place, *place.rglob("*"))]

        if lost == "lost":
            lose(console)
        for path in [console.folder, *found()]:
            os.chown(path, 65534, 65534)
        killed_behind_its_step(backup)
        assert not [path for path in found() if path.stat().st_uid != 65534]
        assert status_of("restore", backup, "--force") == 0
        assert not [path for path in found() if path.stat().st_uid != 65534]
        assert console.database.stat().st_mode & 0o777 == 0o600
        monkeypatch.undo()


def test_a_linked_database_is_backed_up_and_restored_in_place(filled: ConsoleServer) -> None:
    """The write-ahead log is beside the target of the link, so a store in use once looked unused."""
    disk = filled.folder / "disk"
    disk.mkdir()
    filled.database.rename(disk / "real.db")
    filled.database.symlink_to(disk / "real.db")
    backup = backup_made("b", *CLEAR)
    filled.start()
    filled.run("domain/declare later.local")
    filled.stop(9)
    assert (disk / "real.db-wal").exists()
    before = dump_of(disk / "real.db")
    assert status_of("restore", backup, "--force") == 0
    assert filled.database.is_symlink()
    assert "later.local" not in "\n".join(dump_of(disk / "real.db"))
    (old,) = (path for path in disk.glob("*.before-restore-*") if path.name.endswith("Z"))
    assert dump_of(old) == before
    assert status_of("user", "list") == 0


def test_two_restores_in_one_second_keep_both_earlier_stores(
    filled: ConsoleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> Clock:  # noqa: ARG003
            return cls(2026, 11, 24, tzinfo=UTC)

    backup = backup_made("b", *CLEAR)
    monkeypatch.setattr("server.backup.restore.datetime", Clock)
    before = []
    for _ in range(3):
        before.append(dump_of(filled.database))
        assert status_of("restore", backup, "--force") == 0
    kept = [dump_of(path) for path in sorted(filled.database.parent.glob("*.before-restore-*"))]
    assert kept == before


def test_a_server_with_a_deleted_database_blocks_a_restore(
    filled: ConsoleServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server would go on with the deleted file and lose acknowledged changes."""
    backup = backup_made("b", *CLEAR)
    filled.start()
    assert filled.process is not None
    filled.database.unlink()
    assert status_of("restore", backup) == 1
    assert f"process {filled.process.pid}: stop it first" in capsys.readouterr().err
    assert not filled.database.exists()


def test_without_room_nothing_is_restored(filled: ConsoleServer) -> None:
    backup = backup_made("b", *CLEAR)
    before = dump_of(filled.database)
    for most_bytes in (1, 4096, filled.database.stat().st_size - 1):
        assert without_room(lambda: status_of("restore", backup, "--force"), most_bytes) == 1
        assert dump_of(filled.database) == before
        assert sorted(path.name for path in filled.database.parent.iterdir()) == ["console.db"]
