"""Replace the old store by a restored one, completely or not at all. Blocking.

First the whole new store is prepared in a folder beside the database. Renaming that folder to its final name is the
point of no return. Before it nothing has changed. After it, the next program that opens the store finishes the
remaining steps, and may repeat them. Old files are renamed and never deleted.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from server.durable import sync_folder
from server.errors import StartError
from server.file_names import DATABASE_NAME, RESTORE_PLAN_NAME
from server.storage.restored_keys import Ready, move_aside, place_keys, read_ready, write_ready

#: The byte range of SQLite's locks in a file (source: its file format, "lock byte page"). Every program that has the
#: file open in WAL mode locks one of these bytes.
_LOCKS_AT, _LOCKS = 0x40000000, 512
#: SQLite's suffixes of a database's name. The database itself is moved last.
SIDE_FILES = ("-wal", "-shm", "-journal", "")


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
    write_ready(folder, Ready(aside, keys))


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
    ready = read_ready(folder, DATABASE_NAME)
    moved: list[Path] = []
    if ready is not None:
        moved += place_keys(ready, keys_dir)
        moved += _place_database(folder / DATABASE_NAME, database, ready.aside)
        (folder / RESTORE_PLAN_NAME).unlink()
        sync_folder(folder)
    shutil.rmtree(folder)
    sync_folder(database.parent)
    return moved


def _place_database(new: Path, database: Path, aside: str) -> list[Path]:
    if not os.path.lexists(new):
        return []
    moved: list[Path] = []
    for ending in SIDE_FILES:
        old = database.with_name(database.name + ending)
        moved += move_aside(old, database.with_name(database.name + aside + ending))
    sync_folder(database.parent)  # an old -wal file beside a new database would destroy it
    new.rename(database)
    sync_folder(database.parent)
    return moved
