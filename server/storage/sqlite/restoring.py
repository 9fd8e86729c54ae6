"""Putting a restored store in place of the old one: whole, or not at all. Blocking.

All of the new store is made ready in a folder beside the database. Giving that folder its final name is the step:
before it nothing has changed, after it whoever opens the store next finishes what is left to do, as often as it
takes. What was there is renamed and never deleted.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from server.durable import sync_folder, write_synced
from server.errors import StartError
from server.file_names import (
    DATABASE_NAME,
    KEY_NAMES,
    KEYS_FOLDER_NAME,
    RESTORE_PLAN_NAME,
    STORAGE_KEY_NAME,
)
from server.plain_files import MOST_KEY_BYTES, read_plain
from server.storage.storage_key import parse_storage_key

_ASIDE = "aside"
#: Where SQLite's locks of a file lie (source: its file format, "lock byte page"): whoever has the file open in WAL
#: mode holds one of them.
_LOCKS_AT, _LOCKS = 0x40000000, 512
#: What SQLite puts behind the database's name; the file that counts goes last.
SIDE_FILES = ("-wal", "-shm", "-journal", "")
_ASIDE_NAME = re.compile(r"\.before-restore-[0-9]{8}T[0-9]{6}Z(-again){0,99}")
_MOST_PLAN_BYTES = 4_096
_NO_PLAN = f"{RESTORE_PLAN_NAME} is no plan of a restore"


@dataclass(frozen=True, slots=True)
class _Ready:
    """A new store that waits for its place: what the old files' names get behind them, and its keys by name."""

    aside: str
    keys: Mapping[str, bytes] = field(repr=False)


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


def make_ready(folder: Path, database: Path, keys: Mapping[str, bytes], aside: str) -> None:
    """Fill an empty folder with a new store; `aside` is what the names of the old files get behind them."""
    database.rename(folder / DATABASE_NAME)
    (folder / KEYS_FOLDER_NAME).mkdir(mode=0o700)
    for name, content in keys.items():
        write_synced(folder / KEYS_FOLDER_NAME / name, content)
    sync_folder(folder / KEYS_FOLDER_NAME)
    write_synced(folder / RESTORE_PLAN_NAME, json.dumps({_ASIDE: aside}).encode())
    sync_folder(folder)


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
    """Finish what was begun, if something was; return the old files' new names. Call it with the keys folder held.

    Raises StartError and changes nothing where the folder is not as `make_ready` leaves it.
    """
    folder = restoring_folder(database)
    if not os.path.lexists(folder):
        return []
    ready = _looked_through(folder)
    moved: list[Path] = []
    if ready is not None:
        for name, content in sorted(ready.keys.items()):
            moved += _place_key(content, keys_dir / name, ready.aside)
        sync_folder(keys_dir)
        moved += _place_database(folder / DATABASE_NAME, database, ready.aside)
        (folder / RESTORE_PLAN_NAME).unlink()
        sync_folder(folder)
    shutil.rmtree(folder)
    sync_folder(database.parent)
    return moved


def _looked_through(folder: Path) -> _Ready | None:
    """Return what waits in the folder, None where only the folder is left to be removed. Raises StartError."""
    try:
        _require_folder(folder)
        if not os.path.lexists(folder / RESTORE_PLAN_NAME):
            return None
        plan = json.loads(read_plain(folder / RESTORE_PLAN_NAME, _MOST_PLAN_BYTES, links=False))
        aside = plan.get(_ASIDE) if isinstance(plan, dict) else None
        if not isinstance(aside, str) or not _ASIDE_NAME.fullmatch(aside):
            raise _foreign(folder, _NO_PLAN)
        _require_folder(folder / KEYS_FOLDER_NAME)
        names = {path.name for path in (folder / KEYS_FOLDER_NAME).iterdir()}
        if not names <= {*KEY_NAMES}:
            raise _foreign(folder, f"{KEYS_FOLDER_NAME} has files that no backup has")
        keys = {name: read_plain(folder / KEYS_FOLDER_NAME / name, MOST_KEY_BYTES, links=False) for name in names}
        if STORAGE_KEY_NAME in keys:
            parse_storage_key(keys[STORAGE_KEY_NAME], str(folder / KEYS_FOLDER_NAME / STORAGE_KEY_NAME))
        if os.path.lexists(folder / DATABASE_NAME) and not stat.S_ISREG((folder / DATABASE_NAME).lstat().st_mode):
            raise _foreign(folder, f"{DATABASE_NAME} is no plain file")
    except (OSError, ValueError, RecursionError) as error:
        raise _foreign(
            folder, getattr(error, "strerror", None) or f"{RESTORE_PLAN_NAME} is no plan of a restore"
        ) from error
    return _Ready(aside, keys)


def _require_folder(path: Path) -> None:
    if not stat.S_ISDIR(path.lstat().st_mode):
        raise _foreign(path, "it is no folder")


def _foreign(folder: Path, why: str) -> StartError:
    return StartError(f"{folder} was not left by a restore: {why}; look at it and move it away; nothing was changed")


def _place_key(content: bytes, target: Path, aside: str) -> list[Path]:
    """Copy, as the keys may lie on another file system."""
    if _holds(target, content):
        return []
    moved = _move_aside(target, target.with_name(target.name + aside))
    staged = target.with_name(target.name + ".new")
    staged.unlink(missing_ok=True)
    write_synced(staged, content)
    staged.rename(target)
    return moved


def _holds(path: Path, content: bytes) -> bool:
    try:
        return read_plain(path, MOST_KEY_BYTES, links=False) == content
    except OSError:
        return False


def _place_database(new: Path, database: Path, aside: str) -> list[Path]:
    if not os.path.lexists(new):
        return []
    moved: list[Path] = []
    for ending in SIDE_FILES:
        old = database.with_name(database.name + ending)
        moved += _move_aside(old, database.with_name(database.name + aside + ending))
    sync_folder(database.parent)  # an old -wal beside a new database would be the end of it
    new.rename(database)
    sync_folder(database.parent)
    return moved


def _move_aside(path: Path, kept: Path) -> list[Path]:
    if not os.path.lexists(path):
        return []
    path.rename(kept)
    return [kept]
