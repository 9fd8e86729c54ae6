"""Backups: made while the server writes, opened by others, found when damaged, put back whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pexpect
import pyrage
import pytest
from console import PROGRAM, ConsoleServer, needs
from killed import in_child, killed_at_every_step, without_room

from server.__main__ import main
from server.program import backup as backing_up
from server.program import restore as restoring_program
from server.storage import restoring, schema
from server.storage.archive import KEY_NAMES
from server.storage.snapshot import snapshot
from server.transport.hostkey import HOST_KEY_NAME, NEXT_HOST_KEY_NAME

_HERE = "domain/biysk.local/integrations"
_PASSPHRASE = "correct horse battery staple"
_IDENTITY = pyrage.x25519.Identity.generate()
_CLEAR = ("--unencrypted", "--storage-key-in-clear")


@pytest.fixture
def store(stopped_console: ConsoleServer, monkeypatch: pytest.MonkeyPatch) -> ConsoleServer:
    """A store with something in it that nobody serves, the current folder, and what locks and opens a backup."""
    console = stopped_console
    assert console.program("init").returncode == 0
    with closing(sqlite3.connect(console.database)) as connection:
        connection.execute("INSERT INTO domains VALUES ('biysk.local', '2021-02-16T08:00:00Z')")
        connection.execute("INSERT INTO history (user_name, line) VALUES ('admin', 'domain/list')")
        connection.commit()
    (console.folder / "identity").write_text(f"# made for this test\n{_IDENTITY}\n")
    (console.folder / "passphrase").write_text(_PASSPHRASE + "\n")
    monkeypatch.chdir(console.folder)
    return console


def _ran(*words: object) -> int:
    """Run the program in this process, which costs a tenth of a new one."""
    return main([str(word) for word in words])


def _made(name: str, *words: object) -> Path:
    assert _ran("backup", name, *words) == 0
    return Path(name).absolute()


def _dump(database: Path, *but: str) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return [line for line in connection.iterdump() if not any(f'INTO "{table}"' in line for table in but)]


def _events(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return [event for (event,) in connection.execute("SELECT event FROM audit ORDER BY id")]


def _kept(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _lost(console: ConsoleServer) -> None:
    for name in ("var", "keys"):
        shutil.rmtree(console.folder / name)


LOCKS = {
    "recipient": (("--recipient", _IDENTITY.to_public()), ("--identity", "identity")),
    "clear": (_CLEAR, ()),
}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lost_console_is_back_with_all_that_it_had(store: ConsoleServer, lock: str) -> None:
    locking, opening = LOCKS[lock]
    before, keys = _dump(store.database), _kept(store.folder / "keys")
    backup = _made("backup", *locking)
    assert backup.stat().st_mode & 0o777 == 0o600
    assert _events(store.database)[-1] == "backup.made"
    _lost(store)
    assert _ran("restore", backup, *opening) == 0
    assert _dump(store.database, "audit", "audit_heads") == [line for line in before if 'INTO "audit' not in line]
    assert _events(store.database)[-1] == "backup.restored"
    assert _ran("hostkey", "list") == 0  # makes the public half anew
    assert _kept(store.folder / "keys") == keys
    for path in (*store.folder.glob("var/*"), *store.folder.glob("keys/*")):
        assert path.stat().st_mode & 0o777 == 0o600
    for folder in ("var", "keys"):
        assert (store.folder / folder).stat().st_mode & 0o777 == 0o700
    assert _ran("audit", "verify") == 0
    store.start()
    assert "biysk.local" in store.run("domain/list")


def test_who_restores_the_host_key_of_before_a_rotation_is_told(
    store: ConsoleServer, capsys: pytest.CaptureFixture[str]
) -> None:
    backup = _made("backup", *_CLEAR)
    assert _ran("restore", backup, "--force") == 0
    assert "host key is another one" not in capsys.readouterr().err
    for words in (("hostkey", "rotate"), ("hostkey", "rotate", "--finish")):
        assert _ran(*words) == 0
    rotated = (store.folder / "keys" / "ssh_host_ed25519_key").read_bytes()
    assert _ran("restore", backup, "--force") == 0
    assert (store.folder / "keys" / "ssh_host_ed25519_key").read_bytes() != rotated
    assert "the host key is another one than before" in capsys.readouterr().err


def test_what_follows_a_backup_is_found_to_be_rolled_back(
    store: ConsoleServer, capsys: pytest.CaptureFixture[str]
) -> None:
    backup = _made("backup", *_CLEAR)
    _made("later", *_CLEAR)
    assert _ran("audit", "verify") == 0
    (head,) = re.findall(r"head (\d+:[0-9a-f]{64})\n", capsys.readouterr().out)
    assert _ran("restore", backup, "--force") == 0
    assert _ran("audit", "verify") == 0
    assert _ran("audit", "verify", "--head", head) == 1
    assert "rolled back" in capsys.readouterr().err
    with closing(sqlite3.connect(store.database)) as connection:
        ((given,),) = connection.execute("SELECT arguments FROM audit WHERE event = 'backup.restored'")
    assert json.loads(given)["file"] == str(backup)
    assert json.loads(given)["heads"].keys() == {"ds1@ecss1"}


def test_backups_are_consistent_while_the_server_writes(store: ConsoleServer) -> None:
    console = store
    console.start()
    shown: list[str] = []
    ended = threading.Event()

    def add() -> None:
        with console.paramiko() as client:
            while not ended.is_set():
                _, out, _ = client.exec_command(f"{_HERE}/add c{len(shown)}")
                shown.extend(re.findall(r"API key: (\w{64})", out.read().decode()))

    adding = threading.Thread(target=add)
    adding.start()
    try:
        counts = []
        for number in range(4):
            acknowledged = len(shown)
            assert console.program("backup", f"b{number}", *_CLEAR).returncode == 0
            with tarfile.open(console.folder / f"b{number}") as archive:
                archive.extract("console.db", console.folder / f"out{number}", filter="data")
            with closing(sqlite3.connect(console.folder / f"out{number}" / "console.db")) as connection:
                ((rows,),) = connection.execute("SELECT count(*) FROM integrations")
                ((changes,),) = connection.execute("SELECT count(*) FROM audit WHERE event = 'change'")
            assert rows == changes, "a change and its record are in it together"
            assert rows >= acknowledged
            counts.append(rows)
        assert counts[-1] > counts[0]
    finally:
        ended.set()
        adding.join()
    assert console.stop() == 0
    assert not list(console.database.parent.glob("*scratch*"))
    _lost(console)
    assert _ran("restore", "b3") == 0
    console.start()
    table = console.run(f"{_HERE}/list")
    assert re.findall(r"│c\d+ *│widget│(\w{64})│", table)
    assert {*re.findall(r"│c\d+ *│widget│(\w{64})│", table)} <= {*shown}
    assert len(re.findall(r"\w{64}", table)) == counts[-1]


def test_the_program_age_opens_a_backup(store: ConsoleServer) -> None:
    needs("age")
    to_recipient = _made("to-recipient", "--recipient", _IDENTITY.to_public())
    listed = subprocess.run(f"age -d -i identity {to_recipient} | tar tz", shell=True, capture_output=True, check=True)  # noqa: S602
    names = ["manifest.json", "keys/storage.key", "keys/ssh_host_ed25519_key", "console.db"]
    assert listed.stdout.decode().split() == names
    with_passphrase = _made("with-passphrase", "--passphrase-file", "passphrase")
    opened = pexpect.spawn("age", ["-d", "-o", "plain.tar.gz", str(with_passphrase)], encoding="utf-8", timeout=60)
    opened.expect("passphrase: ")
    opened.sendline(_PASSPHRASE)
    opened.expect(pexpect.EOF)
    with tarfile.open("plain.tar.gz") as archive:
        assert archive.getnames() == names
        archive.extract("console.db", "out", filter="data")
    assert "biysk.local" in "\n".join(_dump(Path("out/console.db")))
    assert store.database.exists()


def test_a_passphrase_is_asked_for_twice_and_stands_on_no_command_line(store: ConsoleServer) -> None:
    def asked(*words: str, answers: Sequence[str]) -> tuple[int, str]:
        program, *rest = (*PROGRAM, *words)
        child = pexpect.spawn(
            program, rest, cwd=str(store.folder), env=store.environment(), encoding="utf-8", timeout=60
        )
        for answer in answers:
            child.expect(": ")
            child.waitnoecho()
            child.sendline(answer)
        child.expect(pexpect.EOF)
        child.close()
        return int(child.exitstatus or 0), str(child.before)

    assert asked("backup", "b", answers=["short"])[0] == 1
    status, told = asked("backup", "b", answers=[_PASSPHRASE, _PASSPHRASE + "!"])
    assert (status, "the two passphrases differ" in told) == (1, True)
    assert not Path("b").exists()
    status, told = asked("backup", "b", answers=[_PASSPHRASE, _PASSPHRASE])
    assert status == 0, told
    ran = store.program("restore", "b", "--verify-only", "--passphrase-file", "-", text="wrong\n")
    assert (ran.returncode, "the passphrase is wrong" in ran.stderr) == (1, True)
    before = _dump(store.database, "audit", "audit_heads")
    _lost(store)
    status, told = asked("restore", "b", answers=[_PASSPHRASE])
    assert (status, "The backup is whole" in told) == (0, True)
    assert _dump(store.database, "audit", "audit_heads") == before
    whole = Path("b").read_bytes()
    Path("b").write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    ran = store.program("restore", "b", "--verify-only", "--passphrase-file", "passphrase")
    assert (ran.returncode, "or the file is damaged" in ran.stderr) == (1, True)
    ran = store.program("restore", "b", "--verify-only")
    assert (ran.returncode, "--passphrase-file" in ran.stderr) == (1, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--unencrypted",), "would hold the storage key in clear"),
        (("--recipient", "age1nonsense"), "age1nonsense is no recipient"),
        (("--passphrase-file", "absent"), "the passphrase cannot be read from absent"),
        (("--passphrase-file", "short"), "at least 10 characters"),
        (("--passphrase-file", "latin"), "the passphrase cannot be read from latin: it is no UTF-8 text\n"),
        (("--unencrypted", "--without-keys", "--scratch", "absent"), "there is no folder absent"),
    ],
)
def test_what_would_be_unsafe_or_wrong_is_refused(
    store: ConsoleServer, capsys: pytest.CaptureFixture[str], words: Sequence[str], told: str
) -> None:
    Path("short").write_text("short\n")
    Path("latin").write_bytes(b"long enough \xe4\n")
    assert _ran("backup", "b", *words) == 1
    assert told in capsys.readouterr().err
    assert not [path for path in store.folder.iterdir() if path.name.strip(".").startswith("b")]
    assert _events(store.database)[-1] != "backup.made"


def test_an_existing_file_or_link_is_not_written_over(store: ConsoleServer, capsys: pytest.CaptureFixture[str]) -> None:
    Path("precious").write_text("precious")
    Path("link").symlink_to("precious")
    Path("folder").mkdir()
    for name, words in (("precious", ()), ("link", ()), ("link", ("--force",)), ("folder", ("--force",))):
        assert _ran("backup", name, *_CLEAR, *words) == 1
        assert f"{name} is there already" in capsys.readouterr().err
    assert Path("precious").read_text() == "precious"
    assert _ran("backup", "precious", *_CLEAR, "--force") == 0
    assert _ran("restore", "precious", "--verify-only") == 0
    assert store.database.exists()


def test_a_file_that_cannot_be_written_or_read_is_told_as_that(
    store: ConsoleServer, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _kept(store.folder)
    for name in ("x" * 300, "x" * 250):
        assert _ran("backup", name, *_CLEAR) == 1
        assert f"the backup cannot be written to {name}: File name too long" in capsys.readouterr().err
    assert _ran("restore", "absent", "--verify-only") == 1
    assert "the backup absent cannot be read: No such file or directory" in capsys.readouterr().err
    assert _ran("restore", "/dev/null", "--verify-only") == 1
    assert "/dev/null is no plain file" in capsys.readouterr().err
    assert _kept(store.folder) == before


@pytest.mark.parametrize("name", ["var/console.db", "keys/storage.key", "keys/ssh_host_ed25519_key"])
def test_a_backup_does_not_replace_what_it_is_of(
    store: ConsoleServer, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    before = _kept(store.folder)
    assert _ran("backup", name, *_CLEAR, "--force") == 1
    assert f"{name} belongs to the store" in capsys.readouterr().err
    assert _kept(store.folder) == before


def test_without_keys_it_needs_the_key_that_fits(store: ConsoleServer, capsys: pytest.CaptureFixture[str]) -> None:
    backup = _made("b", "--unencrypted", "--without-keys")
    assert b"storage.key" not in gzip.decompress(backup.read_bytes())[:4096].split(b"console.db")[0]
    key = (store.folder / "keys" / "storage.key").read_bytes()
    _lost(store)
    assert _ran("restore", backup, "--verify-only") == 0
    assert "no storage key is at hand" in capsys.readouterr().err
    assert _ran("restore", backup) == 1
    assert "needs its own storage key at" in capsys.readouterr().err
    assert not store.database.exists()
    (store.folder / "keys").mkdir(exist_ok=True)
    (store.folder / "keys" / "storage.key").write_bytes(b"A" * 43 + b"=\n")
    assert _ran("restore", backup, "--force") == 1
    assert "where another one is" in capsys.readouterr().err
    (store.folder / "keys" / "storage.key").write_bytes(key)
    assert _ran("restore", backup) == 0
    assert _ran("user", "list") == 0


def test_a_storage_key_outside_of_the_keys_folder_is_never_written(
    store: ConsoleServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = _made("b", *_CLEAR)
    outside = store.folder / "apart.key"
    (store.folder / "keys" / "storage.key").rename(outside)
    (store.folder / "var" / "console.db").unlink()
    monkeypatch.setenv("ECSS_CONSOLE_KEYS__STORAGE_KEY_FILE", str(outside))
    key = outside.read_bytes()
    outside.unlink()
    assert _ran("restore", backup) == 1
    assert "put the backup's own key there first" in capsys.readouterr().err
    outside.write_bytes(key)
    outside.chmod(0o600)
    assert _ran("restore", backup) == 0
    assert outside.read_bytes() == key
    assert not (store.folder / "keys" / "storage.key").exists()
    assert _ran("user", "list") == 0


def test_a_store_that_is_there_is_kept_and_a_running_one_is_left_alone(
    store: ConsoleServer, capsys: pytest.CaptureFixture[str]
) -> None:
    backup = _made("b", *_CLEAR)
    store.start()
    store.run("domain/declare later.local")
    before = _dump(store.database, "audit", "audit_heads")  # where the login is written soon
    for words in ((), ("--force",)):
        assert _ran("restore", backup, *words) == 1
        assert "stop it first" in capsys.readouterr().err
    assert "later.local" in store.run("domain/list")
    store.stop(9)  # its last changes are in the -wal
    assert _dump(store.database, "audit", "audit_heads") == before
    assert _ran("restore", backup) == 1
    assert "there is a store already" in capsys.readouterr().err
    assert _ran("restore", backup, "--force") == 0
    assert "later.local" not in "\n".join(_dump(store.database))
    (old,) = (path for path in store.database.parent.glob("*.before-restore-*") if path.name.endswith("Z"))
    assert f"The old one is kept as {old.relative_to(store.folder)}" in capsys.readouterr().out
    assert _dump(old, "audit", "audit_heads") == before


def test_other_keys_that_are_there_are_kept(store: ConsoleServer, capsys: pytest.CaptureFixture[str]) -> None:
    backup = _made("b", *_CLEAR)
    keys = _kept(store.folder / "keys")
    _lost(store)
    assert _ran("init") == 0
    others = _kept(store.folder / "keys")
    shutil.rmtree(store.folder / "var")
    assert _ran("restore", backup) == 1
    assert "there is another storage key already" in capsys.readouterr().err
    assert _kept(store.folder / "keys") == others
    assert _ran("restore", backup, "--force") == 0
    assert _ran("hostkey", "list") == 0
    found = _kept(store.folder / "keys")
    assert {name: found[name] for name in keys} == keys
    (kept,) = (name for name in found if name.startswith("storage.key.before-restore-"))
    assert found[kept] == others["storage.key"]


def _verified(backup: Path, *words: object) -> int:
    return _ran("restore", backup, "--verify-only", *words)


def _places(size: int) -> list[int]:
    """Return places all over a file, its first and last bytes among them."""
    return [*range(40), *range(40, size, max(1, size // 60)), *range(size - 10, size)]


def _says_the_same(whole: bytes, changed: bytes) -> bool:
    """Tell whether a change means nothing: the time in a gzip header, another way to pack the same zeros."""
    return whole.startswith(b"\x1f\x8b") and gzip.decompress(whole) == gzip.decompress(changed)


@pytest.mark.parametrize("lock", ["clear", "recipient"])
def test_a_backup_that_was_cut_or_changed_is_found(
    store: ConsoleServer, capfd: pytest.CaptureFixture[str], lock: str
) -> None:
    locking, opening = LOCKS[lock]
    backup = _made("b", *locking)
    whole = backup.read_bytes()
    before = _kept(store.folder / "var") | _kept(store.folder / "keys")
    for place in _places(len(whole)):
        changed = whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
        backup.write_bytes(changed)
        assert _verified(backup, *opening) == 1 or _says_the_same(whole, changed), place
        backup.write_bytes(whole[:place])
        assert _verified(backup, *opening) == 1, place
    backup.write_bytes(whole + b"x")
    assert _verified(backup, *opening) == 1
    told = capfd.readouterr()
    assert "Traceback" not in told.err
    assert re.search(r"^ecss-console: the backup is damaged: |^ecss-console: no identity opens", told.err, re.MULTILINE)
    backup.write_bytes(whole)
    assert _verified(backup, *opening) == 0
    assert _kept(store.folder / "var") | _kept(store.folder / "keys") == before


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
    "no manifest": (_said(lambda said: said.pop("files")), "its manifest cannot be read"),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_within_an_archive_write_nothing(
    store: ConsoleServer, capsys: pytest.CaptureFixture[str], trick: str
) -> None:
    backup = _made("b", *_CLEAR)
    members = _members(backup)
    change, told = TRICKS[trick]
    change(members)
    backup.write_bytes(_archive(members))
    before = _kept(store.folder)
    assert _ran("restore", backup, "--force") == 1
    assert told in capsys.readouterr().err
    assert _kept(store.folder) == before
    assert not (store.folder.parent / "evil").exists()


def test_a_database_that_was_changed_needs_the_storage_key(
    store: ConsoleServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever has a backup without the key and its place cannot put an administrator into it."""
    backup = _made("b", "--unencrypted", "--without-keys")
    manifest, (info, database) = _members(backup)
    changed = store.folder / "changed.db"
    changed.write_bytes(database)
    with closing(sqlite3.connect(changed)) as connection:
        connection.execute("UPDATE users SET password_hash = 'that of mallory'")
        connection.commit()
    content = changed.read_bytes()
    backup.write_bytes(_archive([manifest, (info, content)]))
    assert _verified(backup) == 1
    assert "console.db is not what the manifest says" in capsys.readouterr().err
    said = json.loads(manifest[1])
    said["files"]["console.db"] = [len(content), hashlib.sha256(content).hexdigest()]
    backup.write_bytes(_archive([(manifest[0], json.dumps(said).encode()), (info, content)]))
    assert _verified(backup) == 1
    assert "its manifest was changed since it was made" in capsys.readouterr().err


def test_a_backup_of_a_newer_or_older_schema(
    store: ConsoleServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    older = _made("older", *_CLEAR)
    known, today = schema.migrations(), schema.newest()
    newer_script = "CREATE TABLE tenants (name TEXT PRIMARY KEY);"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "migrations", lambda: {**known, today + 1: newer_script})
        assert _ran("restore", older, "--force") == 0
        assert f"schema {today}" in capsys.readouterr().out
        newer = _made("newer", *_CLEAR)
    for words in (("--verify-only",), ("--force",)):
        assert _ran("restore", newer, *words) == 1
        wanted = f"has schema {today + 1}, this program knows {today}: install the newer program"
        assert wanted in capsys.readouterr().err
    assert _ran("restore", older, "--force") == 0
    assert _ran("audit", "verify") == 0
    assert store.database.exists()


def test_a_backup_of_a_damaged_or_absent_store_is_none(
    store: ConsoleServer, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = bytearray(store.database.read_bytes())
    raw[4096:4160] = b"\xff" * 64
    store.database.write_bytes(raw)
    assert _ran("backup", "b", *_CLEAR) == 1
    assert "is damaged" in capsys.readouterr().err
    (store.folder / "keys" / "storage.key").unlink()
    assert _ran("backup", "b", *_CLEAR) == 1
    assert "there is no whole store to back up" in capsys.readouterr().err
    assert not Path("b").exists()


def test_an_audit_that_was_tampered_with_is_backed_up_and_told(
    store: ConsoleServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(store.database)) as connection:
        connection.execute("DROP TRIGGER audit_is_not_changed")
        connection.execute("UPDATE audit SET user_name = 'nobody' WHERE seq = 1")
        connection.commit()
    _made("b", *_CLEAR)
    assert "record 1 of ds1@ecss1 was changed" in capsys.readouterr().err
    assert _ran("restore", "b", "--force") == 0
    assert "record 1 of ds1@ecss1 was changed" in capsys.readouterr().err


def _copies(store: ConsoleServer, folder: Path) -> Iterator[None]:
    """Give the store's folder as it is now, again and again."""
    shutil.copytree(store.folder, folder, ignore=shutil.ignore_patterns("*.before-restore-*"))
    while True:
        yield
        for name in ("var", "keys"):
            shutil.rmtree(store.folder / name)
            shutil.copytree(folder / name, store.folder / name)
        for path in store.folder.glob(".b*"):
            path.unlink()


def test_a_backup_that_is_killed_at_any_step_leaves_no_half_of_one(
    store: ConsoleServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = _dump(store.database)
    copies = _copies(store, tmp_path_factory.mktemp("kept") / "kept")
    next(copies)
    killed = 0
    for _ in killed_at_every_step(lambda: _ran("backup", "b", *_CLEAR)):
        killed += 1
        if Path("b").exists():
            assert _verified(Path("b")) == 0
            Path("b").unlink()
        assert _dump(store.database, "audit", "audit_heads") == [line for line in before if 'INTO "audit' not in line]
        assert _ran("audit", "verify") == 0
        next(copies)
    assert killed > 30
    assert _verified(Path("b")) == 0
    assert not list(store.database.parent.glob("*.scratch-*"))


def test_a_restore_that_is_killed_at_any_step_leaves_the_old_store_or_the_new_one(
    store: ConsoleServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Another store with other keys is replaced, and its last changes lie in its -wal: the most there can be to do."""
    backup = _made("b", *_CLEAR)
    new = _dump(store.database, "audit", "audit_heads"), (store.folder / "keys" / "storage.key").read_bytes()
    _lost(store)
    assert _ran("init") == 0
    store.start()
    store.stop(9)
    assert store.database.with_name("console.db-wal").exists()
    copies = _copies(store, tmp_path_factory.mktemp("kept") / "kept")
    next(copies)
    key = (store.folder / "keys" / "storage.key").read_bytes()
    with closing(sqlite3.connect(tmp_path_factory.mktemp("old") / "old")) as connection:
        connection.execute("SELECT 1")
    old: tuple[list[str], bytes] | None = None
    states = []
    for _ in killed_at_every_step(lambda: _ran("restore", backup, "--force")):
        assert _ran("user", "list") == 0, "the next program that opens the store finishes, or finds the old one"
        found = _dump(store.database, "audit", "audit_heads"), (store.folder / "keys" / "storage.key").read_bytes()
        old = old or found
        states.append(found == new)
        assert found in (old, new)
        assert _ran("audit", "verify") == 0
        assert not list(store.database.parent.glob("*.restoring"))
        next(copies)
    assert old is not None
    assert old[1] == key
    assert len(states) > 60
    assert states == sorted(states), "old first, then new"
    assert (states[0], states[-1]) == (False, True)
    assert states.count(True) > 10


@pytest.mark.parametrize("words", [_CLEAR, ("--recipient", _IDENTITY.to_public())])
def test_without_room_there_is_no_backup(store: ConsoleServer, words: Sequence[str]) -> None:
    before = _dump(store.database)
    size = _made("b", *words).stat().st_size
    Path("b").unlink()
    refused = 0
    for most_bytes in (1, size // 2, size - 1, store.database.stat().st_size - 1, store.database.stat().st_size + 4096):
        status = without_room(lambda: _ran("backup", "b", *words), most_bytes)
        refused += bool(status)
        assert Path("b").exists() == (status == 0)
        assert not [path for path in store.folder.iterdir() if path.name.endswith(".partial")]
        assert not list(store.database.parent.glob("*.scratch-*"))
    assert refused >= 4
    assert _dump(store.database, "audit", "audit_heads") == [line for line in before if 'INTO "audit' not in line]


def _killed_behind_its_step(backup: Path) -> None:
    """Restore, and be killed when the new store is ready and nothing of it in its place."""

    def kill(*_: object) -> list[Path]:
        os.kill(os.getpid(), signal.SIGKILL)
        return []

    killed = in_child(lambda: _ran("restore", backup, "--force"), lambda: setattr(restoring, "finish", kill))
    assert killed == -signal.SIGKILL


def test_a_backup_finishes_a_restore_that_was_killed(store: ConsoleServer) -> None:
    """It was told that the database has another storage key: one was the restored one, the other was not."""
    backup = _made("b", *_CLEAR)
    key = (store.folder / "keys" / "storage.key").read_bytes()
    _lost(store)
    assert _ran("init") == 0
    _killed_behind_its_step(backup)
    assert (store.folder / "keys" / "storage.key").read_bytes() != key
    assert _verified(_made("after", *_CLEAR)) == 0
    assert (store.folder / "keys" / "storage.key").read_bytes() == key
    assert _events(store.database)[-2:] == ["backup.restored", "backup.made"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root restores for somebody else")
@pytest.mark.parametrize("lost", ["lost", "there"])
def test_what_root_restores_belongs_to_whom_the_folder_belongs(store: ConsoleServer, lost: str) -> None:
    """The service runs as a user of its own, and could not read a store of root's."""
    backup = _made("b", *_CLEAR)
    places = [store.folder / "var", store.folder / "keys"]

    def found() -> list[Path]:
        return [each for place in places if place.exists() for each in (place, *place.rglob("*"))]

    if lost == "lost":
        _lost(store)
    for path in [store.folder, *found()]:
        os.chown(path, 65534, 65534)
    _killed_behind_its_step(backup)
    assert not [path for path in found() if path.stat().st_uid != 65534 and "scratch" not in path.name]
    assert _ran("restore", backup, "--force") == 0
    assert not [path for path in found() if path.stat().st_uid != 65534]
    assert store.database.stat().st_mode & 0o777 == 0o600


def test_a_database_behind_a_link_is_backed_up_and_put_back_where_it_lies(store: ConsoleServer) -> None:
    """Its write-ahead log lies beside the file and not beside the link: a server in use passed for one at rest."""
    disk = store.folder / "disk"
    disk.mkdir()
    store.database.rename(disk / "real.db")
    store.database.symlink_to(disk / "real.db")
    backup = _made("b", *_CLEAR)
    store.start()
    store.run("domain/declare later.local")
    store.stop(9)
    assert (disk / "real.db-wal").exists()
    before = _dump(disk / "real.db")
    assert _ran("restore", backup, "--force") == 0
    assert store.database.is_symlink()
    assert "later.local" not in "\n".join(_dump(disk / "real.db"))
    (old,) = (path for path in disk.glob("*.before-restore-*") if path.name.endswith("Z"))
    assert _dump(old) == before
    assert _ran("user", "list") == 0


def test_two_restores_in_one_second_keep_what_was_there_before_each(
    store: ConsoleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> Clock:  # noqa: ARG003
            return cls(2026, 11, 24, tzinfo=UTC)

    backup = _made("b", *_CLEAR)
    monkeypatch.setattr("server.program.restore.datetime", Clock)
    before = []
    for _ in range(3):
        before.append(_dump(store.database))
        assert _ran("restore", backup, "--force") == 0
    kept = [_dump(path) for path in sorted(store.database.parent.glob("*.before-restore-*"))]
    assert kept == before


def test_a_server_whose_database_was_lost_under_it_is_not_restored_under(
    store: ConsoleServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would go on with the file that has no name any more, and what it acknowledges would be lost."""
    backup = _made("b", *_CLEAR)
    store.start()
    assert store.process is not None
    store.database.unlink()
    assert _ran("restore", backup) == 1
    assert f"process {store.process.pid}: stop it first" in capsys.readouterr().err
    assert not store.database.exists()


def test_without_room_nothing_is_restored(store: ConsoleServer) -> None:
    backup = _made("b", *_CLEAR)
    before = _dump(store.database)
    for most_bytes in (1, 4096, store.database.stat().st_size - 1):
        assert without_room(lambda: _ran("restore", backup, "--force"), most_bytes) == 1
        assert _dump(store.database) == before
        assert sorted(path.name for path in store.database.parent.iterdir()) == ["console.db"]


def test_a_backup_that_cannot_be_recorded_is_made_and_says_so(store: ConsoleServer) -> None:
    """As on a disk that only reads: that is when a backup is wanted most."""
    with closing(sqlite3.connect(store.database, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        ran = store.program("backup", "b", *_CLEAR)
    assert ran.returncode == 0, ran.stderr
    assert "the backup is not in the audit: the store is busy" in ran.stderr
    assert _verified(Path("b")) == 0


def test_the_record_of_a_backup_makes_no_checkpoint_beside_a_server(store: ConsoleServer) -> None:
    """Two that make one at once may damage a database, with SQLite before 3.51.3."""
    with closing(sqlite3.connect(store.database, isolation_level=None)) as serving:
        serving.execute("PRAGMA wal_autocheckpoint = 0")
        lines = [("x" * 4000,)] * 1500
        serving.execute("BEGIN")
        serving.executemany("INSERT INTO history (user_name, line) VALUES ('admin', ?)", lines)
        serving.execute("COMMIT")
        before = store.database.read_bytes()
        _made("b", *_CLEAR)
        assert store.database.read_bytes() == before
    assert _events(store.database)[-1] == "backup.made"


def _ended_in(place: object, name: str, number: signal.Signals) -> None:
    """Let a signal come whenever something is called; whoever runs the tests may ignore it."""
    called = getattr(place, name)
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    def call(*words: Any, **more: Any) -> Any:  # noqa: ANN401
        os.kill(os.getpid(), number)
        return called(*words, **more)

    setattr(place, name, call)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_no_copy_of_the_store_behind(
    store: ConsoleServer, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """A terminal that is closed left the opened backup, password hashes and all, in TMPDIR."""
    backup = _made("b", *_CLEAR)
    scratch = store.folder / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    before = sorted(path for path in store.folder.rglob("*") if path.name != "console.db")

    for program, name in ((restoring_program, "contents"), (backing_up, "contents"), (backing_up, "_read_back")):
        words = ("backup", "b2", *_CLEAR) if program is backing_up else ("restore", backup, "--verify-only")
        assert in_child(partial(_ran, *words), partial(_ended_in, program, name, number)) == 130
        assert sorted(path for path in store.folder.rglob("*") if path.name != "console.db") == before


def test_ctrl_c_ends_an_encryption_as_anything_else(store: ConsoleServer) -> None:
    """It was told as "the backup cannot be encrypted: KeyboardInterrupt:"."""
    before = sorted(store.folder.rglob("*"))
    set_trap = partial(_ended_in, backing_up._Hashing, "write", signal.SIGINT)  # noqa: SLF001  what the library calls
    assert in_child(partial(_ran, "backup", "b", *LOCKS["recipient"][0]), set_trap) == 130
    assert sorted(store.folder.rglob("*")) == before


def test_a_signal_behind_the_step_does_not_say_that_nothing_was_changed(store: ConsoleServer) -> None:
    def set_trap(program: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            _ended_in(program, "_tell", number)

    assert in_child(partial(_ran, "backup", "b", *_CLEAR), partial(set_trap, backing_up)) == 0
    assert _events(store.database)[-1] == "backup.made"
    assert in_child(partial(_ran, "restore", "b", "--force"), partial(set_trap, restoring_program)) == 0
    assert _events(store.database)[-1] == "backup.restored"


def test_what_a_backup_says_of_itself_does_not_steer_the_terminal(
    store: ConsoleServer, capsys: pytest.CaptureFixture[str]
) -> None:
    backup = _made("b", "--unencrypted", "--without-keys")
    (store.folder / "keys" / "storage.key").unlink()  # nobody knows then who made it
    members = _members(backup)
    _said(lambda said: said.update(node="\x1b]0;evil\x07", findings=["\x9b31m"]))(members)
    Path(os.fsdecode(b"\xff")).write_bytes(_archive(members))
    capsys.readouterr()
    assert _verified(Path(os.fsdecode(b"\xff"))) == 0
    told = capsys.readouterr()
    assert "\\x1b]0;evil\\x07" in told.out
    assert "\\x9b31m" in told.err
    assert not [each for each in told.out + told.err if not (each.isprintable() or each == "\n")]
    assert _ran("restore", os.fsdecode(b"\xfe"), "--verify-only") == 1
    assert "the backup \\udcfe cannot be read" in capsys.readouterr().err


def test_a_store_that_is_replaced_meanwhile_gives_no_backup_of_two(
    store: ConsoleServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its database and its keys would be those of two stores, and the file could not be restored."""
    copied = snapshot

    def replaced(database: Path, target: Path) -> None:
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("UPDATE store SET value = 'that of another' WHERE name = 'storage key'")
            connection.commit()
        copied(database, target)

    monkeypatch.setattr("server.program.backup.snapshot", replaced)
    assert _ran("backup", "b", *_CLEAR) == 1
    assert "was replaced meanwhile" in capsys.readouterr().err
    assert not (store.folder / "b").exists()


def test_what_a_backup_holds_is_what_the_keys_folder_has() -> None:
    assert {*KEY_NAMES} == {"storage.key", HOST_KEY_NAME, NEXT_HOST_KEY_NAME}
