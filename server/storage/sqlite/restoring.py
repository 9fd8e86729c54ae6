"""Replace the old store by a restored one, completely or not at all. Blocking.

First the whole new store is prepared in a folder beside the database. Renaming that folder to its final name is the
point of no return. Before it nothing has changed. After it, the next program that opens the store finishes the
remaining steps, and may repeat them. Old files are renamed and never deleted.
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
#: The byte range of SQLite's locks in a file (source: its file format, "lock byte page"). Every program that has the
#: file open in WAL mode locks one of these bytes.
_LOCKS_AT, _LOCKS = 0x40000000, 512
#: SQLite's suffixes of a database's name. The database itself is moved last.
SIDE_FILES = ("-wal", "-shm", "-journal", "")
_ASIDE_NAME = re.compile(r"\.before-restore-[0-9]{8}T[0-9]{6}Z(-again){0,99}")
_MOST_PLAN_BYTES = 4_096
_NO_PLAN = f"{RESTORE_PLAN_NAME} is no plan of a restore"


@dataclass(frozen=True, slots=True)
class _Ready:
    """A prepared store: the suffix `aside` for the names of the old files, and the new keys by name."""

    aside: str
    keys: Mapping[str, bytes] = field(repr=False)


def restoring_folder(database: Path) -> Path:
    """Return the folder of a restored store that is going to replace this database."""
    return database.with_name(database.name + ".restoring")


@contextmanager
def alone(database: Path) -> Iterator[None]:
    """Lock out all other programs from a database, even a damaged one; StartError if one has it open."""
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
    """Fill an empty folder with a new store; `aside` is the suffix for the names of the old files."""
    database.rename(folder / DATABASE_NAME)
    (folder / KEYS_FOLDER_NAME).mkdir(mode=0o700)
    for name, content in keys.items():
        write_synced(folder / KEYS_FOLDER_NAME / name, content)
    sync_folder(folder / KEYS_FOLDER_NAME)
    write_synced(folder / RESTORE_PLAN_NAME, json.dumps({_ASIDE: aside}).encode())
    sync_folder(folder)


def free_aside(database: Path, keys_dir: Path, now: str) -> str:
    """Return a suffix for the old files' names that no file has yet."""
    aside = f".before-restore-{now}"
    while any([*folder.glob(f"*{aside}*")] for folder in (database.parent, keys_dir)):
        aside += "-again"
    return aside


def put_in_place(folder: Path, database: Path, keys_dir: Path) -> list[Path]:
    """Rename the prepared folder, which is the point of no return, and finish.

    Returns the old files' new names.
    """
    folder.rename(restoring_folder(database))
    sync_folder(database.parent)
    return finish(database, keys_dir)


def finish(database: Path, keys_dir: Path) -> list[Path]:
    """Finish a restore, if one was begun; return the old files' new names. Lock the keys folder first.

    Raises StartError and changes nothing when the folder is not as `make_ready` leaves it.
    """
    folder = restoring_folder(database)
    if not os.path.lexists(folder):
        return []
    ready = _read_prepared(folder)
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


def _read_prepared(folder: Path) -> _Ready | None:
    """Check and return the content of the folder; None if only the empty folder is left to remove.

    Raises StartError for a folder that no restore has made.
    """
    try:
        _require_folder(folder)
        if not os.path.lexists(folder / RESTORE_PLAN_NAME):
            return None
        plan = json.loads(read_plain(folder / RESTORE_PLAN_NAME, _MOST_PLAN_BYTES, links=False))
        aside = plan.get(_ASIDE) if isinstance(plan, dict) else None
        if not isinstance(aside, str) or not _ASIDE_NAME.fullmatch(aside):
            raise _not_from_restore(folder, _NO_PLAN)
        _require_folder(folder / KEYS_FOLDER_NAME)
        names = {path.name for path in (folder / KEYS_FOLDER_NAME).iterdir()}
        if not names <= {*KEY_NAMES}:
            raise _not_from_restore(folder, f"{KEYS_FOLDER_NAME} has files that no backup has")
        keys = {name: read_plain(folder / KEYS_FOLDER_NAME / name, MOST_KEY_BYTES, links=False) for name in names}
        if STORAGE_KEY_NAME in keys:
            parse_storage_key(keys[STORAGE_KEY_NAME], str(folder / KEYS_FOLDER_NAME / STORAGE_KEY_NAME))
        if os.path.lexists(folder / DATABASE_NAME) and not stat.S_ISREG((folder / DATABASE_NAME).lstat().st_mode):
            raise _not_from_restore(folder, f"{DATABASE_NAME} is no plain file")
    except (OSError, ValueError, RecursionError) as error:
        raise _not_from_restore(
            folder, getattr(error, "strerror", None) or f"{RESTORE_PLAN_NAME} is no plan of a restore"
        ) from error
    return _Ready(aside, keys)


def _require_folder(path: Path) -> None:
    if not stat.S_ISDIR(path.lstat().st_mode):
        raise _not_from_restore(path, "it is no folder")


def _not_from_restore(folder: Path, why: str) -> StartError:
    return StartError(f"{folder} was not left by a restore: {why}; look at it and move it away; nothing was changed")


def _place_key(content: bytes, target: Path, aside: str) -> list[Path]:
    """Copy a key, because the keys folder may be on another file system; return the old key's new name."""
    if _has_content(target, content):
        return []
    moved = _move_aside(target, target.with_name(target.name + aside))
    staged = target.with_name(target.name + ".new")
    staged.unlink(missing_ok=True)
    write_synced(staged, content)
    staged.rename(target)
    return moved


def _has_content(path: Path, content: bytes) -> bool:
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
    sync_folder(database.parent)  # an old -wal file beside a new database would destroy it
    new.rename(database)
    sync_folder(database.parent)
    return moved


def _move_aside(path: Path, kept: Path) -> list[Path]:
    if not os.path.lexists(path):
        return []
    path.rename(kept)
    return [kept]
