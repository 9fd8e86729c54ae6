"""Truncated, changed or forged backups are detected, and nothing is written."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import sqlite3
import tarfile
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from backups import CLEAR, LOCKS, backup_made, files_in, status_of, verified
from console import ConsoleServer

from server.storage.sqlite.snapshot import contents


def _places(size: int) -> list[int]:
    """Return positions throughout a file, with its first and last bytes."""
    return [*range(40), *range(40, size, max(1, size // 60)), *range(size - 10, size)]


def _says_the_same(whole: bytes, changed: bytes) -> bool:
    """Return whether a change is meaningless: the gzip time, or another packing of the same zeros."""
    return whole.startswith(b"\x1f\x8b") and gzip.decompress(whole) == gzip.decompress(changed)


@pytest.mark.slow
@pytest.mark.parametrize("lock", ["clear", "recipient"])
def test_a_backup_that_was_cut_or_changed_is_found(
    filled: ConsoleServer, capfd: pytest.CaptureFixture[str], lock: str
) -> None:
    locking, opening = LOCKS[lock]
    backup = backup_made("b", *locking)
    whole = backup.read_bytes()
    before = files_in(filled.folder / "var") | files_in(filled.folder / "keys")
    for place in _places(len(whole)):
        changed = whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
        backup.write_bytes(changed)
        assert verified(backup, *opening) == 1 or _says_the_same(whole, changed), place
        backup.write_bytes(whole[:place])
        assert verified(backup, *opening) == 1, place
    backup.write_bytes(whole + b"x")
    assert verified(backup, *opening) == 1
    told = capfd.readouterr()
    assert "Traceback" not in told.err
    assert re.search(r"^ecss-console: the backup is damaged: |^ecss-console: no identity opens", told.err, re.MULTILINE)
    backup.write_bytes(whole)
    assert verified(backup, *opening) == 0
    assert files_in(filled.folder / "var") | files_in(filled.folder / "keys") == before


def _archive(members: Sequence[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=tarfile.GNU_FORMAT) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _members(backup: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(backup) as archive:
        return [(each, (archive.extractfile(each) or io.BytesIO()).read()) for each in archive.getmembers()]


def _renamed(at: int, name: str, kind: bytes = tarfile.REGTYPE) -> Callable[[list[Any]], None]:
    def change(members: list[Any]) -> None:
        members[at][0].name, members[at][0].type, members[at][0].linkname = name, kind, "/etc/passwd"

    return change


def _said(change: Callable[[dict[str, Any]], None]) -> Callable[[list[Any]], None]:
    def changed(members: list[Any]) -> None:
        said = json.loads(members[0][1])
        change(said)
        members[0] = (members[0][0], json.dumps(said).encode())

    return changed


def _foreign_file(said: dict[str, Any]) -> None:
    said["files"] = {"../../evil": [1, "0"], **said["files"]}


def _nested(members: list[Any]) -> None:
    members[0][0].size = 200_000
    members[0] = (members[0][0], b"[" * 200_000)


TRICKS: dict[str, tuple[Callable[[list[Any]], None], str]] = {
    "above": (_renamed(1, "../evil"), "keys/storage.key is expected, '../evil' is there"),
    "absolute": (_renamed(3, "/tmp/evil"), "console.db is expected, '/tmp/evil' is there"),  # noqa: S108
    "symlink": (_renamed(3, "console.db", tarfile.SYMTYPE), "console.db is expected"),
    "hard link": (_renamed(1, "keys/storage.key", tarfile.LNKTYPE), "keys/storage.key is expected"),
    "device": (_renamed(3, "console.db", tarfile.CHRTYPE), "console.db is expected"),
    "order": (lambda members: members.reverse(), "manifest.json is expected"),
    "twice": (lambda members: members.insert(1, members[1]), "is expected"),
    "more": (lambda members: members.append((tarfile.TarInfo("evil"), b"x")), "or something follows its last file"),
    "named": (_said(_foreign_file), "it names files that no backup has, ['../../evil']"),
    "format": (_said(lambda said: said.update(format=2)), "format 2, this program knows 1"),
    "manifest": (_said(lambda said: said.update(node="other")), "its manifest was changed"),
    "counts": (_said(lambda said: said["counts"].update(users=9)), "not the one that the manifest describes"),
    "format in colour": (_said(lambda said: said.update(format="\x1b[31m2")), "its manifest cannot be read"),
    "endless format": (_said(lambda said: said.update(format=float("inf"))), "its manifest cannot be read"),
    "endless schema": (_said(lambda said: said.update(schema=float("inf"))), "its manifest cannot be read"),
    "nested": (_nested, "its manifest cannot be read"),
    "no manifest": (_said(lambda said: said.pop("files")), "its manifest cannot be read"),
}


@pytest.mark.slow
@pytest.mark.parametrize("trick", TRICKS)
def test_malicious_archive_members_write_nothing(
    filled: ConsoleServer, capsys: pytest.CaptureFixture[str], trick: str
) -> None:
    backup = backup_made("b", *CLEAR)
    members = _members(backup)
    change, told = TRICKS[trick]
    change(members)
    backup.write_bytes(_archive(members))
    before = files_in(filled.folder)
    assert status_of("restore", backup, "--force") == 1
    assert told in capsys.readouterr().err
    assert files_in(filled.folder) == before
    assert not (filled.folder.parent / "evil").exists()


def test_a_database_that_was_changed_needs_the_storage_key(
    filled: ConsoleServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """A backup without the key does not let an attacker add an administrator."""
    backup = backup_made("b", "--unencrypted", "--without-keys")
    manifest, (info, database) = _members(backup)
    changed = filled.folder / "changed.db"
    changed.write_bytes(database)
    with closing(sqlite3.connect(changed)) as connection:
        connection.execute("UPDATE users SET password_hash = 'that of mallory'")
        connection.commit()
    content = changed.read_bytes()
    backup.write_bytes(_archive([manifest, (info, content)]))
    assert verified(backup) == 1
    assert "console.db is not what the manifest says" in capsys.readouterr().err
    said = json.loads(manifest[1])
    said["files"]["console.db"] = [len(content), hashlib.sha256(content).hexdigest()]
    backup.write_bytes(_archive([(manifest[0], json.dumps(said).encode()), (info, content)]))
    assert verified(backup) == 1
    assert "its manifest was changed since it was made" in capsys.readouterr().err


def test_a_tampered_audit_is_backed_up_and_reported(filled: ConsoleServer, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(sqlite3.connect(filled.database)) as connection:
        connection.execute("DROP TRIGGER audit_is_not_changed")
        connection.execute("UPDATE audit SET user_name = 'nobody' WHERE seq = 1")
        connection.commit()
    backup_made("b", *CLEAR)
    assert "record 1 of ds1@ecss1 was changed" in capsys.readouterr().err
    assert status_of("restore", "b", "--force") == 0
    assert "record 1 of ds1@ecss1 was changed" in capsys.readouterr().err


def test_manifest_text_sends_no_terminal_controls(filled: ConsoleServer, capsys: pytest.CaptureFixture[str]) -> None:
    backup = backup_made("b", "--unencrypted", "--without-keys")
    (filled.folder / "keys" / "storage.key").unlink()  # its origin is unknown then
    members = _members(backup)
    _said(lambda said: said.update(node="\x1b]0;evil\x07", findings=["\x9b31m"]))(members)
    Path(os.fsdecode(b"\xff")).write_bytes(_archive(members))
    capsys.readouterr()
    assert verified(Path(os.fsdecode(b"\xff"))) == 0
    told = capsys.readouterr()
    assert "\\x1b]0;evil\\x07" in told.out
    assert "\\x9b31m" in told.err
    assert not [each for each in told.out + told.err if not (each.isprintable() or each == "\n")]
    assert status_of("restore", os.fsdecode(b"\xfe"), "--verify-only") == 1
    assert "the backup \\udcfe cannot be read" in capsys.readouterr().err


def test_an_absurd_schema_number_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "console.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE store (name TEXT, value TEXT)")
        database.execute("INSERT INTO store VALUES ('schema', ?)", ("9" * 5_000,))
        for table in ("domains", "integrations", "users", "audit"):
            database.execute(f"CREATE TABLE {table} (id INTEGER)")
    assert contents(path).damage == "the number of its schema is missing"
