"""Backups and restores that are killed, interrupted or out of disk space."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from backups import (
    CLEAR,
    IDENTITY,
    LOCKS,
    backup_made,
    dump_of,
    events_in,
    killed_behind_its_step,
    lose,
    status_of,
    verified,
)
from console import ConsoleServer
from killed import in_child, killed_at_every_step, without_room

from server.backup import create, restore
from server.cli import backup as backup_subcommand
from server.cli import restore as restore_subcommand


def _copies(filled: ConsoleServer, folder: Path) -> Iterator[None]:
    """Yield copies of the store's current folder."""
    shutil.copytree(filled.folder, folder, ignore=shutil.ignore_patterns("*.before-restore-*"))
    while True:
        yield
        for name in ("var", "keys"):
            shutil.rmtree(filled.folder / name)
            shutil.copytree(folder / name, filled.folder / name)
        for path in filled.folder.glob(".b*"):
            path.unlink()


@pytest.mark.slow
def test_a_backup_killed_at_any_step_leaves_no_partial_file(
    filled: ConsoleServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = dump_of(filled.database)
    copies = _copies(filled, tmp_path_factory.mktemp("kept") / "kept")
    next(copies)
    killed = 0
    for _ in killed_at_every_step(lambda: status_of("backup", "b", *CLEAR)):
        killed += 1
        if Path("b").exists():
            assert verified(Path("b")) == 0
            Path("b").unlink()
        assert dump_of(filled.database, "audit", "audit_heads") == [
            line for line in before if 'INTO "audit' not in line
        ]
        assert status_of("audit", "verify") == 0
        next(copies)
    assert killed > 30
    assert verified(Path("b")) == 0
    assert not list(filled.database.parent.glob("*.scratch-*"))


@pytest.mark.slow
def test_a_restore_killed_at_any_step_leaves_the_old_or_new_store(
    filled: ConsoleServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The replaced store has other keys and changes in its -wal, so the restore has the most steps."""
    backup = backup_made("b", *CLEAR)
    new = dump_of(filled.database, "audit", "audit_heads"), (filled.folder / "keys" / "storage.key").read_bytes()
    lose(filled)
    assert status_of("init") == 0
    filled.start()
    filled.stop(9)
    assert filled.database.with_name("console.db-wal").exists()
    copies = _copies(filled, tmp_path_factory.mktemp("kept") / "kept")
    next(copies)
    key = (filled.folder / "keys" / "storage.key").read_bytes()
    with closing(sqlite3.connect(tmp_path_factory.mktemp("old") / "old")) as connection:
        connection.execute("SELECT 1")
    old: tuple[list[str], bytes] | None = None
    states = []
    for _ in killed_at_every_step(lambda: status_of("restore", backup, "--force", "--foreign")):
        assert status_of("user", "list") == 0, "the next program that opens the store finishes, or finds the old one"
        found = dump_of(filled.database, "audit", "audit_heads"), (filled.folder / "keys" / "storage.key").read_bytes()
        old = old or found
        states.append(found == new)
        assert found in (old, new)
        assert status_of("audit", "verify") == 0
        assert not list(filled.database.parent.glob("*.restoring"))
        next(copies)
    assert old is not None
    assert old[1] == key
    assert len(states) > 60
    assert states == sorted(states), "old first, then new"
    assert (states[0], states[-1]) == (False, True)
    assert states.count(True) > 10


@pytest.mark.parametrize("words", [CLEAR, ("--recipient", IDENTITY.to_public())])
def test_without_room_there_is_no_backup(filled: ConsoleServer, words: Sequence[str]) -> None:
    before = dump_of(filled.database)
    size = backup_made("b", *words).stat().st_size
    Path("b").unlink()
    refused = 0
    for most_bytes in (
        1,
        size // 2,
        size - 1,
        filled.database.stat().st_size - 1,
        filled.database.stat().st_size + 4096,
    ):
        status = without_room(lambda: status_of("backup", "b", *words), most_bytes)
        refused += bool(status)
        assert Path("b").exists() == (status == 0)
        assert not [path for path in filled.folder.iterdir() if path.name.endswith(".partial")]
        assert not list(filled.database.parent.glob("*.scratch-*"))
    assert refused >= 4
    assert dump_of(filled.database, "audit", "audit_heads") == [line for line in before if 'INTO "audit' not in line]


def test_a_backup_finishes_a_restore_that_was_killed(filled: ConsoleServer) -> None:
    """One storage key was restored and the other was not, and the backup once failed on the mismatch."""
    backup = backup_made("b", *CLEAR)
    key = (filled.folder / "keys" / "storage.key").read_bytes()
    lose(filled)
    assert status_of("init") == 0
    killed_behind_its_step(backup)
    assert (filled.folder / "keys" / "storage.key").read_bytes() != key
    assert verified(backup_made("after", *CLEAR)) == 0
    assert (filled.folder / "keys" / "storage.key").read_bytes() == key
    assert events_in(filled.database)[-2:] == ["backup.restored", "backup.made"]


def _ended_in(place: object, name: str, number: signal.Signals) -> None:
    """Send a signal whenever a function is called, even where the test runner ignores the signal."""
    called = getattr(place, name)
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    def call(*words: Any, **more: Any) -> Any:  # noqa: ANN401
        os.kill(os.getpid(), number)
        return called(*words, **more)

    setattr(place, name, call)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_no_copy_of_the_store(
    filled: ConsoleServer, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """A closed terminal once left the decrypted backup with all password hashes in TMPDIR."""
    backup = backup_made("b", *CLEAR)
    scratch = filled.folder / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    before = sorted(path for path in filled.folder.rglob("*") if path.name != "console.db")

    for program, name in ((restore, "contents"), (create, "contents"), (create, "_read_back")):
        words = ("backup", "b2", *CLEAR) if program is create else ("restore", backup, "--verify-only")
        assert in_child(partial(status_of, *words), partial(_ended_in, program, name, number)) == 130
        assert sorted(path for path in filled.folder.rglob("*") if path.name != "console.db") == before


def test_ctrl_c_ends_an_encryption_cleanly(filled: ConsoleServer) -> None:
    """The message was once "the backup cannot be encrypted: KeyboardInterrupt:"."""
    before = sorted(filled.folder.rglob("*"))
    set_trap = partial(_ended_in, create._Hashing, "write", signal.SIGINT)  # noqa: SLF001  what the library calls
    assert in_child(partial(status_of, "backup", "b", *LOCKS["recipient"][0]), set_trap) == 130
    assert sorted(filled.folder.rglob("*")) == before


def test_a_signal_after_the_commit_does_not_claim_nothing_was_changed(filled: ConsoleServer) -> None:
    def set_trap(program: object, step: str) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            _ended_in(program, step, number)

    assert in_child(partial(status_of, "backup", "b", *CLEAR), partial(set_trap, backup_subcommand, "_tell")) == 0
    assert events_in(filled.database)[-1] == "backup.made"
    assert in_child(partial(status_of, "restore", "b", "--force"), partial(set_trap, restore_subcommand, "_told")) == 0
    assert events_in(filled.database)[-1] == "backup.restored"
