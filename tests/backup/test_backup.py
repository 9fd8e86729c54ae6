"""Backups: consistent during writes, opened by standard tools, checked, restored whole or not at all."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import tarfile
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pexpect
import pytest
from backups import (
    CLEAR,
    HERE,
    IDENTITY,
    LOCKS,
    PASSPHRASE,
    backup_made,
    dump_of,
    events_in,
    files_in,
    lose,
    status_of,
    verified,
)
from console import PROGRAM, ConsoleServer, needs

from server.file_names import ECDSA_HOST_KEY_NAME, HOST_KEY_NAME, KEY_NAMES, NEXT_HOST_KEY_NAME
from server.storage.sqlite.snapshot import snapshot


@pytest.mark.slow
@pytest.mark.parametrize("lock", LOCKS)
def test_a_restore_brings_back_a_whole_lost_console(filled: ConsoleServer, lock: str) -> None:
    locking, opening = LOCKS[lock]
    before, keys = dump_of(filled.database), files_in(filled.folder / "keys")
    backup = backup_made("backup", *locking)
    assert backup.stat().st_mode & 0o777 == 0o600
    assert events_in(filled.database)[-1] == "backup.made"
    lose(filled)
    assert status_of("restore", backup, *opening) == 0
    assert dump_of(filled.database, "audit", "audit_heads") == [line for line in before if 'INTO "audit' not in line]
    assert events_in(filled.database)[-1] == "backup.restored"
    assert status_of("hostkey", "list") == 0  # recreates the public key file
    assert files_in(filled.folder / "keys") == keys
    for path in (*filled.folder.glob("var/*"), *filled.folder.glob("keys/*")):
        assert path.stat().st_mode & 0o777 == 0o600
    for folder in ("var", "keys"):
        assert (filled.folder / folder).stat().st_mode & 0o777 == 0o700
    assert status_of("audit", "verify") == 0
    filled.start()
    assert "biysk.local" in filled.run("domain/list")


@pytest.mark.slow
def test_backups_are_consistent_while_the_server_writes(filled: ConsoleServer) -> None:
    console = filled
    console.start()
    shown: list[str] = []
    ended = threading.Event()

    def add() -> None:
        with console.paramiko() as client:
            while not ended.is_set():
                _, out, _ = client.exec_command(f"{HERE}/add c{len(shown)}")
                shown.extend(re.findall(r"API key: (\w{64})", out.read().decode()))

    adding = threading.Thread(target=add)
    adding.start()
    try:
        counts = []
        for number in range(4):
            acknowledged = len(shown)
            assert console.program("backup", f"b{number}", *CLEAR).returncode == 0
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
    lose(console)
    assert status_of("restore", "b3") == 0
    console.start()
    table = console.run(f"{HERE}/list")
    assert re.findall(r"│c\d+ *│widget│(\w{64})│", table)
    assert {*re.findall(r"│c\d+ *│widget│(\w{64})│", table)} <= {*shown}
    assert len(re.findall(r"\w{64}", table)) == counts[-1]


def test_the_program_age_opens_a_backup(filled: ConsoleServer) -> None:
    needs("age")
    to_recipient = backup_made("to-recipient", "--recipient", IDENTITY.to_public())
    listed = subprocess.run(f"age -d -i identity {to_recipient} | tar tz", shell=True, capture_output=True, check=True)  # noqa: S602
    names = ["manifest.json", "keys/storage.key", "keys/ssh_host_ed25519_key", "console.db"]
    assert listed.stdout.decode().split() == names
    with_passphrase = backup_made("with-passphrase", "--passphrase-file", "passphrase")
    opened = pexpect.spawn("age", ["-d", "-o", "plain.tar.gz", str(with_passphrase)], encoding="utf-8", timeout=60)
    opened.expect("passphrase: ")
    opened.sendline(PASSPHRASE)
    opened.expect(pexpect.EOF)
    with tarfile.open("plain.tar.gz") as archive:
        assert archive.getnames() == names
        archive.extract("console.db", "out", filter="data")
    assert "biysk.local" in "\n".join(dump_of(Path("out/console.db")))
    assert filled.database.exists()


@pytest.mark.slow
def test_a_passphrase_is_asked_twice_and_is_in_no_command_line(filled: ConsoleServer) -> None:
    def asked(*words: str, answers: Sequence[str]) -> tuple[int, str]:
        program, *rest = (*PROGRAM, *words)
        child = pexpect.spawn(
            program, rest, cwd=str(filled.folder), env=filled.environment(), encoding="utf-8", timeout=60
        )
        for answer in answers:
            child.expect(": ")
            child.waitnoecho()
            child.sendline(answer)
        child.expect(pexpect.EOF)
        child.close()
        return int(child.exitstatus or 0), str(child.before)

    assert asked("backup", "b", answers=["short"])[0] == 1
    status, told = asked("backup", "b", answers=[PASSPHRASE, PASSPHRASE + "!"])
    assert (status, "the two passphrases differ" in told) == (1, True)
    assert not Path("b").exists()
    status, told = asked("backup", "b", answers=[PASSPHRASE, PASSPHRASE])
    assert status == 0, told
    ran = filled.program("restore", "b", "--verify-only", "--passphrase-file", "-", text="wrong\n")
    assert (ran.returncode, "the passphrase is wrong" in ran.stderr) == (1, True)
    before = dump_of(filled.database, "audit", "audit_heads")
    lose(filled)
    status, told = asked("restore", "b", answers=[PASSPHRASE])
    assert (status, "The backup is whole" in told) == (0, True)
    assert dump_of(filled.database, "audit", "audit_heads") == before
    whole = Path("b").read_bytes()
    Path("b").write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    ran = filled.program("restore", "b", "--verify-only", "--passphrase-file", "passphrase")
    assert (ran.returncode, "or the file is damaged" in ran.stderr) == (1, True)
    ran = filled.program("restore", "b", "--verify-only")
    assert (ran.returncode, "--passphrase-file" in ran.stderr) == (1, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--unencrypted",), "would hold the storage key in clear"),
        (("--recipient", "age1nonsense"), "age1nonsense is no recipient"),
        (("--passphrase-file", "absent"), "the passphrase cannot be read from absent"),
        (("--passphrase-file", "short"), "at least 10 characters"),
        (("--passphrase-file", "latin"), "the passphrase cannot be read from latin: this is not UTF-8 text\n"),
        (("--unencrypted", "--without-keys", "--scratch", "absent"), "there is no folder absent"),
    ],
)
def test_unsafe_or_wrong_backup_options_are_refused(
    filled: ConsoleServer, capsys: pytest.CaptureFixture[str], words: Sequence[str], told: str
) -> None:
    Path("short").write_text("short\n")
    Path("latin").write_bytes(b"long enough \xe4\n")
    assert status_of("backup", "b", *words) == 1
    assert told in capsys.readouterr().err
    assert not [path for path in filled.folder.iterdir() if path.name.strip(".").startswith("b")]
    assert events_in(filled.database)[-1] != "backup.made"


def test_an_existing_file_or_link_is_not_written_over(
    filled: ConsoleServer, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("precious").write_text("precious")
    Path("link").symlink_to("precious")
    Path("folder").mkdir()
    for name, words in (("precious", ()), ("link", ()), ("link", ("--force",)), ("folder", ("--force",))):
        assert status_of("backup", name, *CLEAR, *words) == 1
        assert f"{name} is there already" in capsys.readouterr().err
    assert Path("precious").read_text() == "precious"
    assert status_of("backup", "precious", *CLEAR, "--force") == 0
    assert status_of("restore", "precious", "--verify-only") == 0
    assert filled.database.exists()


def test_an_unwritable_or_unreadable_file_is_reported_as_such(
    filled: ConsoleServer, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_in(filled.folder)
    for name in ("x" * 300, "x" * 250):
        assert status_of("backup", name, *CLEAR) == 1
        assert f"the backup cannot be written to {name}: File name too long" in capsys.readouterr().err
    assert status_of("restore", "absent", "--verify-only") == 1
    assert "the backup absent cannot be read: No such file or directory" in capsys.readouterr().err
    assert status_of("restore", "/dev/null", "--verify-only") == 1
    assert "the backup /dev/null cannot be read: it is no file but a device" in capsys.readouterr().err
    assert files_in(filled.folder) == before


@pytest.mark.parametrize("name", ["var/console.db", "keys/storage.key", "keys/ssh_host_ed25519_key"])
def test_a_backup_does_not_overwrite_its_source(
    filled: ConsoleServer, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    before = files_in(filled.folder)
    assert status_of("backup", name, *CLEAR, "--force") == 1
    assert f"{name} belongs to the store" in capsys.readouterr().err
    assert files_in(filled.folder) == before


def test_a_damaged_or_absent_store_gives_no_backup(filled: ConsoleServer, capsys: pytest.CaptureFixture[str]) -> None:
    raw = bytearray(filled.database.read_bytes())
    raw[4096:4160] = b"\xff" * 64
    filled.database.write_bytes(raw)
    assert status_of("backup", "b", *CLEAR) == 1
    assert "is damaged" in capsys.readouterr().err
    (filled.folder / "keys" / "storage.key").unlink()
    assert status_of("backup", "b", *CLEAR) == 1
    assert "there is no whole store to back up" in capsys.readouterr().err
    assert not Path("b").exists()


def test_a_backup_without_audit_record_is_made_with_a_warning(filled: ConsoleServer) -> None:
    """For example on a read-only disk, when a backup is needed most."""
    with closing(sqlite3.connect(filled.database, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        ran = filled.program("backup", "b", *CLEAR)
    assert ran.returncode == 0, ran.stderr
    assert "the backup is not in the audit: the store is busy" in ran.stderr
    assert verified(Path("b")) == 0


def test_the_record_of_a_backup_makes_no_checkpoint_beside_a_server(filled: ConsoleServer) -> None:
    """Two simultaneous checkpoints may damage a database with SQLite before 3.51.3."""
    with closing(sqlite3.connect(filled.database, isolation_level=None)) as serving:
        serving.execute("PRAGMA wal_autocheckpoint = 0")
        lines = [("x" * 4000,)] * 1500
        serving.execute("BEGIN")
        serving.executemany("INSERT INTO history (user_name, line) VALUES ('admin', ?)", lines)
        serving.execute("COMMIT")
        before = filled.database.read_bytes()
        backup_made("b", *CLEAR)
        assert filled.database.read_bytes() == before
    assert events_in(filled.database)[-1] == "backup.made"


def test_a_store_replaced_during_a_backup_fails_the_backup(
    filled: ConsoleServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Database and keys would be of different stores, and the file could not be restored."""
    copied = snapshot

    def replaced(database: Path, target: Path) -> None:
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("UPDATE store SET value = 'that of another' WHERE name = 'storage key'")
            connection.commit()
        copied(database, target)

    monkeypatch.setattr("server.backup.sqlite_place.snapshot", replaced)
    assert status_of("backup", "b", *CLEAR) == 1
    assert "was replaced meanwhile" in capsys.readouterr().err
    assert not (filled.folder / "b").exists()


def test_a_backup_covers_every_file_name_of_the_keys_folder() -> None:
    assert {*KEY_NAMES} == {"storage.key", HOST_KEY_NAME, NEXT_HOST_KEY_NAME, ECDSA_HOST_KEY_NAME}
