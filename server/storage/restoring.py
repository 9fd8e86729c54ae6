"""Putting a restored store in place of the old one: whole, or not at all. Blocking.

All of the new store is made ready in a folder beside the database. Giving that folder its final name is the step:
before it nothing has changed, after it whoever opens the store next finishes what is left to do, as often as it
takes. What was there is renamed and never deleted.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from server.errors import StartError
from server.storage.owner import give, give_open
from server.storage.snapshot import sync_folder

_PLAN = "plan.json"
_ASIDE = "aside"
_KEYS = "keys"
_DATABASE = "console.db"
#: Where SQLite's locks of a file lie (source: its file format, "lock byte page"): whoever has the file open in WAL
#: mode holds one of them.
_LOCKS_AT, _LOCKS = 0x40000000, 512
#: The file that counts goes last.
_FILES = ("-wal", "-shm", "-journal", "")


def restoring_folder(database: Path) -> Path:
    """Return where a restored store lies that is to be put in place of this one."""
    return database.with_name(database.name + ".restoring")


@contextmanager
def alone(database: Path) -> Iterator[None]:
    """Keep every other program away from a database, damaged or not; raises StartError when one has it open."""
    if not database.exists():
        yield
        return
    with database.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, _LOCKS, _LOCKS_AT)
        except OSError as error:
            message = f"another program has {database} open: end it first; nothing was changed"
            raise StartError(message) from error
        yield


def make_ready(folder: Path, database: Path, keys: Mapping[str, bytes], aside: str, owner: Path) -> None:
    """Fill an empty folder with a new store; `aside` is what the names of the old files get behind them.

    It belongs to whom the folder `owner` belongs, who finishes what a restore by root may have begun.
    """
    database.rename(folder / _DATABASE)
    (folder / _KEYS).mkdir(mode=0o700)
    for name, content in keys.items():
        write_synced(folder / _KEYS / name, content, owner)
    sync_folder(folder / _KEYS)
    write_synced(folder / _PLAN, json.dumps({_ASIDE: aside}).encode(), owner)
    sync_folder(folder)
    for path in (folder / _DATABASE, folder / _KEYS, folder):
        give(path, owner)


def free_aside(database: Path, keys_dir: Path, now: str) -> str:
    """Return what is put behind the names of what is moved aside, so that nothing has such a name yet."""
    aside = f".before-restore-{now}"
    while any([*folder.glob(f"*{aside}*")] for folder in (database.parent, keys_dir)):
        aside += "-again"
    return aside


def put_in_place(folder: Path, database: Path, keys_dir: Path) -> list[Path]:
    """Take the step with a folder that is ready, and finish; return the old files' new names."""
    folder.rename(restoring_folder(database))
    sync_folder(database.parent)
    return finish(database, keys_dir)


def finish(database: Path, keys_dir: Path) -> list[Path]:
    """Finish what was begun, if something was; return the old files' new names. Call it with the keys folder held."""
    folder = restoring_folder(database)
    if not folder.exists():
        return []
    moved: list[Path] = []
    if (folder / _PLAN).exists():
        aside = str(json.loads((folder / _PLAN).read_bytes())[_ASIDE])
        for key in sorted((folder / _KEYS).iterdir()):
            moved += _place_key(key, keys_dir / key.name, aside)
        sync_folder(keys_dir)
        moved += _place_database(folder / _DATABASE, database, aside)
        (folder / _PLAN).unlink()
        sync_folder(folder)
    shutil.rmtree(folder)
    sync_folder(database.parent)
    return moved


def _place_key(key: Path, target: Path, aside: str) -> list[Path]:
    """Copy, as the keys may lie on another file system."""
    content = key.read_bytes()
    if target.exists() and target.read_bytes() == content:
        return []
    moved = _move_aside(target, aside)
    staged = target.with_name(target.name + ".new")
    staged.unlink(missing_ok=True)
    write_synced(staged, content, target.parent)
    staged.rename(target)
    return moved


def _place_database(new: Path, database: Path, aside: str) -> list[Path]:
    if not new.exists():
        return []
    moved: list[Path] = []
    for ending in _FILES:
        old = database.with_name(database.name + ending)
        if old.exists():
            old.rename(database.with_name(database.name + aside + ending))
            moved.append(database.with_name(database.name + aside + ending))
    sync_folder(database.parent)  # an old -wal beside a new database would be the end of it
    new.rename(database)
    sync_folder(database.parent)
    return moved


def _move_aside(path: Path, aside: str) -> list[Path]:
    if not path.exists():
        return []
    kept = path.with_name(path.name + aside)
    path.rename(kept)
    return [kept]


def write_synced(path: Path, content: bytes, owner: Path) -> None:
    """Write a new file for the owner of the folder `owner` only, down to the disk."""
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600), "wb") as file:
        give_open(file.fileno(), owner)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
