"""An attacker with write access to the backup folder plants a backup."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from backups import CLEAR, backup_made, dump_of, files_in, lose, status_of, verified
from console import ConsoleServer

from server.backup.archive import Manifest, pack, unpack
from server.storage.vault import Vault

FORGED = "its storage key is that of this console; its audit is as it was"


@pytest.fixture
def foreign(filled: ConsoleServer) -> Path:
    """A backup of another console that has a user `mallory`."""
    kept = filled.folder / "kept"
    kept.mkdir()
    for name in ("var", "keys"):
        shutil.copytree(filled.folder / name, kept / name)
    lose(filled)
    assert status_of("init") == 0
    key = filled.folder / "id_admin.pub"
    assert status_of("user", "add", "mallory", "--authorized-key", key) == 0
    made = backup_made("foreign", *CLEAR)
    lose(filled)
    for name in ("var", "keys"):
        (kept / name).rename(filled.folder / name)
    return made


def test_attack_a_backup_of_another_console_is_rejected(
    filled: ConsoleServer, foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = backup_made("ours", *CLEAR)
    before = dump_of(filled.database), files_in(filled.folder / "keys")
    assert verified(ours) == 0
    assert "its storage key is that of this console" in capsys.readouterr().out
    for words in (("--verify-only",), ("--force",)):
        assert status_of("restore", foreign, *words) == 1
        told = capsys.readouterr()
        assert "the backup is of another console" in told.err
        assert "Its users would log in here" in told.err
        assert "--foreign" in told.err
        assert "is that of this console;" not in told.out
    assert (dump_of(filled.database), files_in(filled.folder / "keys")) == before
    assert status_of("restore", foreign, "--foreign") == 1
    assert "there is a store already" in capsys.readouterr().err
    assert status_of("restore", foreign, "--verify-only", "--foreign") == 0
    assert status_of("restore", foreign, "--force", "--foreign") == 0
    assert status_of("user", "list") == 0
    assert "mallory" in capsys.readouterr().out


def test_attack_a_foreign_backup_is_rejected_without_a_storage_key(
    filled: ConsoleServer, foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The database names the storage key that made it. An unreadable database names none."""
    ours = backup_made("ours", *CLEAR)
    (filled.folder / "keys" / "storage.key").unlink()
    assert status_of("restore", foreign, "--force") == 1
    assert "the backup is of another console" in capsys.readouterr().err
    (filled.folder / "keys" / "storage.key").write_text("torn")
    assert status_of("restore", foreign, "--force") == 1
    (filled.folder / "keys" / "storage.key").unlink()
    assert status_of("restore", ours, "--force") == 0
    assert status_of("user", "list") == 0


def test_a_restore_on_a_new_machine_warns_of_the_unverified_origin(
    filled: ConsoleServer, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = backup_made("ours", *CLEAR)
    lose(filled)
    for words in (("--verify-only",), ()):
        assert status_of("restore", ours, *words) == 0
        assert "nothing here can tell whose backup this is" in capsys.readouterr().err
    assert status_of("user", "list") == 0


def _rewritten(filled: ConsoleServer, source: Path, change: Callable[[Manifest], Manifest]) -> Path:
    """Return a backup with a changed manifest, signed with its storage key."""
    folder = filled.folder / "opened"
    folder.mkdir()
    with source.open("rb") as file:
        unpacked = unpack(file, folder)
    manifest = change(unpacked.manifest)
    vault = Vault(base64.b64decode(unpacked.keys["storage.key"]))
    signed = replace(manifest, mac="")
    made = filled.folder / "rewritten"
    with made.open("wb") as file:
        mac = vault.backup_mac(signed.signed_part())
        pack(file, replace(signed, mac=mac), unpacked.keys, unpacked.database)
    return made


def test_attack_manifest_text_cannot_forge_report_lines(
    filled: ConsoleServer, foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Line breaks once forged a clean result, and bidirectional text hid the text before it."""
    evil = f"x\n{FORGED}\r\x1b[2J\u202e\u2028{FORGED}\u0085{'y' * 5000}"
    made = _rewritten(
        filled,
        foreign,
        lambda manifest: replace(manifest, node=evil, made_by=evil, made_at=evil, counts=manifest.counts),
    )
    capsys.readouterr()
    assert status_of("restore", made, "--verify-only") == 1
    told = capsys.readouterr()
    lines = (told.out + told.err).splitlines()
    assert not [line for line in lines if line.startswith(FORGED)]
    assert all(character.isprintable() for line in lines for character in line)
    assert max(map(len, lines)) < 1000


@pytest.mark.parametrize(
    "change",
    [
        {"heads": {"a\nb": "c\nd"}},
        {"findings": ["x\ny"] * 5000},
        {"counts": {"x\ny": 1}},
        {"counts": {"users": 10**4000}},
    ],
    ids=["heads", "findings", "tables", "numbers"],
)
def test_attack_each_manifest_item_stays_on_its_own_line(
    filled: ConsoleServer, foreign: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    made = _rewritten(filled, foreign, lambda manifest: replace(manifest, **change))
    capsys.readouterr()
    assert status_of("restore", made, "--verify-only", "--foreign") == 1
    told = capsys.readouterr().err
    assert "the backup is damaged" in told
    assert len(told.splitlines()) < 50
    assert max(map(len, told.splitlines())) < 400


@pytest.mark.usefixtures("filled")
def test_attack_a_finding_in_a_manifest_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names of audit nodes come from the store, so an attacker chooses them."""
    monkeypatch.setattr("server.backup.create.findings", lambda _: [f"x\n{FORGED}"] * 30)
    backup = backup_made("b", *CLEAR)
    monkeypatch.setattr("server.backup.create.findings", lambda _: [f"x\n{FORGED}"] * 30)
    capsys.readouterr()
    assert verified(backup) == 0
    told = capsys.readouterr().err
    assert told.count("\\n") == 20
    assert "and 10 more" in told
