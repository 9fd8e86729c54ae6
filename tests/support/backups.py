"""Backups made and restored by the program in the test's process."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pyrage
from console import ConsoleServer
from killed import in_child

from server.__main__ import main
from server.storage.sqlite import restoring

HERE = "domain/biysk.local/integrations"
PASSPHRASE = "correct horse battery staple"
IDENTITY = pyrage.x25519.Identity.generate()
CLEAR = ("--unencrypted", "--storage-key-in-clear")


def status_of(*words: object) -> int:
    """Run the program in this process, at a tenth of the cost of a new one. Return its status."""
    return main([str(word) for word in words])


def backup_made(name: str, *words: object) -> Path:
    """Make a backup of this name in the current folder."""
    assert status_of("backup", name, *words) == 0
    return Path(name).absolute()


def dump_of(database: Path, *but: str) -> list[str]:
    """Return a database as SQL statements, without these tables."""
    with closing(sqlite3.connect(database)) as connection:
        return [line for line in connection.iterdump() if not any(f'INTO "{table}"' in line for table in but)]


def events_in(database: Path) -> list[str]:
    """Return the kinds of the audit's records, in order."""
    with closing(sqlite3.connect(database)) as connection:
        return [event for (event,) in connection.execute("SELECT event FROM audit ORDER BY id")]


def files_in(folder: Path) -> dict[str, bytes]:
    """Return the contents of a folder by the paths of the files."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lose(console: ConsoleServer) -> None:
    """Delete the store and its keys."""
    for name in ("var", "keys"):
        shutil.rmtree(console.folder / name)


LOCKS = {
    "recipient": (("--recipient", IDENTITY.to_public()), ("--identity", "identity")),
    "clear": (CLEAR, ()),
}


def verified(backup: Path, *words: object) -> int:
    """Return the status of `restore --verify-only` with the options in `words`."""
    return status_of("restore", backup, "--verify-only", *words)


def killed_behind_its_step(backup: Path) -> None:
    """Start a restore and kill it when the new store is ready but not yet in place."""

    def kill(*_: object) -> list[Path]:
        os.kill(os.getpid(), signal.SIGKILL)
        return []

    killed = in_child(
        lambda: status_of("restore", backup, "--force", "--foreign"), lambda: setattr(restoring, "finish", kill)
    )
    assert killed == -signal.SIGKILL
