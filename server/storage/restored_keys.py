"""The keys of a restored store, which wait in a folder until the store is in place. Blocking.

A program that was killed after the point of no return leaves the folder. The next program that opens the store finishes
with it, and may repeat steps. Old files are renamed and never deleted.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from server.durable import sync_folder, write_synced
from server.errors import StartError
from server.file_names import KEY_NAMES, KEYS_FOLDER_NAME, RESTORE_PLAN_NAME, STORAGE_KEY_NAME
from server.plain_files import MOST_KEY_BYTES, read_plain
from server.storage.storage_key import parse_storage_key

_ASIDE, _RESTORE = "aside", "restore"
_ASIDE_NAME = re.compile(r"\.before-restore-[0-9]{8}T[0-9]{6}Z(-again){0,99}")
_MOST_PLAN_BYTES = 4_096
_NO_PLAN = f"{RESTORE_PLAN_NAME} is no plan of a restore"


@dataclass(frozen=True, slots=True)
class Ready:
    """Prepared keys by name, and the suffix `aside` for the names of the old files.

    `restore` marks the restored store on PostgreSQL; SQLite has none.
    """

    aside: str
    keys: Mapping[str, bytes] = field(repr=False)
    restore: str = ""


def write_ready(folder: Path, ready: Ready) -> None:
    """Fill a folder with the keys and the plan."""
    (folder / KEYS_FOLDER_NAME).mkdir(mode=0o700)
    for name, content in ready.keys.items():
        write_synced(folder / KEYS_FOLDER_NAME / name, content)
    sync_folder(folder / KEYS_FOLDER_NAME)
    plan = {_ASIDE: ready.aside} | ({_RESTORE: ready.restore} if ready.restore else {})
    write_synced(folder / RESTORE_PLAN_NAME, json.dumps(plan).encode())
    sync_folder(folder)


def read_ready(folder: Path, *files: str) -> Ready | None:
    """Check and return the content of the folder; None if only the empty folder is left to remove.

    Besides the keys, the folder may have the plain `files`. Raises StartError for a folder that no restore has made.
    """
    try:
        _require_folder(folder)
        if not os.path.lexists(folder / RESTORE_PLAN_NAME):
            return None
        plan = json.loads(read_plain(folder / RESTORE_PLAN_NAME, _MOST_PLAN_BYTES, links=False))
        aside, restore = (plan.get(_ASIDE), plan.get(_RESTORE, "")) if isinstance(plan, dict) else (None, "")
        if not isinstance(aside, str) or not _ASIDE_NAME.fullmatch(aside) or not isinstance(restore, str):
            raise _not_from_restore(folder, _NO_PLAN)
        _require_folder(folder / KEYS_FOLDER_NAME)
        names = {path.name for path in (folder / KEYS_FOLDER_NAME).iterdir()}
        if not names <= {*KEY_NAMES}:
            raise _not_from_restore(folder, f"{KEYS_FOLDER_NAME} has files that no backup has")
        keys = {name: read_plain(folder / KEYS_FOLDER_NAME / name, MOST_KEY_BYTES, links=False) for name in names}
        if STORAGE_KEY_NAME in keys:
            parse_storage_key(keys[STORAGE_KEY_NAME], str(folder / KEYS_FOLDER_NAME / STORAGE_KEY_NAME))
        for name in files:
            if os.path.lexists(folder / name) and not stat.S_ISREG((folder / name).lstat().st_mode):
                raise _not_from_restore(folder, f"{name} is no plain file")
    except (OSError, ValueError, RecursionError) as error:
        raise _not_from_restore(folder, getattr(error, "strerror", None) or _NO_PLAN) from error
    return Ready(aside, keys, restore)


def place_keys(ready: Ready, keys_dir: Path) -> list[Path]:
    """Put the keys in their folder; return the new names of the old ones."""
    moved: list[Path] = []
    for name, content in sorted(ready.keys.items()):
        moved += _place_key(content, keys_dir / name, ready.aside)
    sync_folder(keys_dir)
    return moved


def free_aside(now: str, *folders: Path) -> str:
    """Return a suffix for the old files' names that no file in these folders has yet."""
    aside = f".before-restore-{now}"
    while any([*folder.glob(f"*{aside}*")] for folder in folders):
        aside += "-again"
    return aside


def move_aside(path: Path, kept: Path) -> list[Path]:
    """Rename a file if it is there, and return its new name."""
    if not os.path.lexists(path):
        return []
    path.rename(kept)
    return [kept]


def _require_folder(path: Path) -> None:
    if not stat.S_ISDIR(path.lstat().st_mode):
        raise _not_from_restore(path, "it is no folder")


def _not_from_restore(folder: Path, why: str) -> StartError:
    return StartError(f"{folder} was not left by a restore: {why}; look at it and move it away; nothing was changed")


def _place_key(content: bytes, target: Path, aside: str) -> list[Path]:
    """Copy a key, because the keys folder may be on another file system; return the old key's new name."""
    if _has_content(target, content):
        return []
    moved = move_aside(target, target.with_name(target.name + aside))
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
