"""The commands of the nightly backup unit, run as by systemd on the layout of docs/operations.md."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pyrage
from confine import confinable, settings
from console import PROGRAM, ConsoleServer

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd" / "ecss-console-backup.service"
OPERATIONS = ROOT / "docs" / "operations.md"
PLACES = ("/opt/ecss-console/.venv/bin/ecss-console", "/etc/ecss-console/config.yaml", "/var/backups/ecss-console")


def _installed(console: ConsoleServer) -> list[Path]:
    """Create the layout of docs/operations.md and docs/backup.md. Return the values for the unit's `PLACES`."""
    credentials, backups = console.folder / "credentials", console.folder / "backups"
    credentials.mkdir()
    backups.mkdir()
    (console.folder / "keys" / "storage.key").rename(credentials / "storage.key")
    program, config = console.folder / "ecss-console", console.folder / "service.yaml"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(PROGRAM)} "$@"\n')
    program.chmod(0o755)
    keys, database = console.folder / "keys", console.database
    config.write_text(f'storage: {{url: "sqlite:///{database}"}}\nkeys: {{dir: {keys}}}\n')
    return [program, config, backups]


def _run(name: str, places: list[Path], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the unit under its system call filters, with an empty environment."""
    (line,) = settings(UNIT, name)
    for place, here in zip(PLACES, places, strict=True):
        line = line.replace(place, str(here))
    words = [word.replace("$$", "$").replace("%%", "%") for word in shlex.split(line)]
    clean = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment}
    confined = [sys.executable, str(ROOT / "tests" / "support" / "confine.py"), str(UNIT), *words]
    return subprocess.run(confined, env=clean, cwd="/", capture_output=True, text=True, check=False, timeout=60)


def test_the_nightly_unit_makes_backups_that_open_and_removes_old_ones(stopped_console: ConsoleServer) -> None:
    confinable()
    console, identity = stopped_console, pyrage.x25519.Identity.generate()
    places = _installed(console)
    credentials, backups = console.folder / "credentials", places[-1]
    console.start(CREDENTIALS_DIRECTORY=str(credentials))
    console.run("domain/declare biysk.local")
    for name, days in (("old.age", 32), ("older.tar.gz", 60), ("recent.age", 5)):
        (backups / name).touch()
        os.utime(backups / name, (0, time.time() - days * 86_400))
    made = _run("ExecStart", places, CREDENTIALS_DIRECTORY=str(credentials), RECIPIENT=str(identity.to_public()))
    assert made.returncode == 0, made.stderr
    assert _run("ExecStartPost", places).returncode == 0
    (backup,) = (path for path in backups.glob("*T*.age"))
    assert sorted(path.name for path in backups.iterdir() if path != backup) == ["older.tar.gz", "recent.age"]
    (console.folder / "identity").write_text(f"{identity}\n")
    verified = console.program("restore", str(backup), "--verify-only", "--identity", "identity")
    assert verified.returncode == 0, verified.stderr
    assert "1 domain" in verified.stdout


def test_the_nightly_unit_matches_the_operations_page() -> None:
    page = OPERATIONS.read_text(encoding="utf-8")
    (credential,) = settings(UNIT, "LoadCredential")
    _, _, key = credential.partition(":")
    assert f"install -m 0600 /var/lib/ecss-console/keys/storage.key {key}\n" in page
    (line,) = settings(UNIT, "ExecStart")
    assert all(place in line for place in PLACES)
    assert f"cat > {PLACES[1]} <<" in page
    (user,) = settings(UNIT, "User")
    assert f"install -d -m 0700 -o {user} -g {user} /var/lib/ecss-console\n" in page
