"""Consistent copies of a database that other programs write to, and checks of them. Blocking."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from server.errors import StartError
from server.model.lines import one_line
from server.storage.owner import working_for
from server.storage.sqlite.errors import is_full

_TRIES, _RETRY_SECONDS = 50, 0.02

_SCHEMA_DIGITS = 9


@contextmanager
def copying(folder: Path) -> Iterator[None]:
    """Raise StartError if there is no room in `folder` for the copy of the database made inside."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        if not is_full(error):
            raise
        where = folder.absolute()
        message = f"there is no room for a copy of the database in {where}: --scratch DIR takes a folder elsewhere"
        raise StartError(message) from error


def snapshot(database: Path, target: Path) -> None:
    """Write all committed data to `target`: one synced file that only its owner can read.

    Deleted data is not copied. Other programs continue to read and write. Raises OSError, FileExistsError if the target
    exists, or sqlite3.Error; an unfinished copy is removed.
    """
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600))
    try:
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.execute("VACUUM INTO ?", (str(target),))
        with target.open("rb") as file:
            os.fsync(file.fileno())
    except BaseException:
        target.unlink()
        raise


def damage(connection: sqlite3.Connection) -> str | None:
    """Return the first damage or orphaned row that SQLite finds in a whole database; None if sound."""
    verdict = str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
    if verdict != "ok":
        return one_line(verdict)
    orphan = connection.execute("PRAGMA foreign_key_check").fetchone()
    return None if orphan is None else one_line(f"a row of {orphan[0]} belongs to no row of {orphan[2]}")


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the number of rows of each table."""
    tables = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name"
    ).fetchall()
    return {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for (name,) in tables}


@dataclass(frozen=True, slots=True)
class Contents:
    """The content of a database. `damage` is None for a sound one; otherwise the rest may be empty."""

    damage: str | None
    schema: int = 0
    storage_key: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)


def contents(database: Path) -> Contents:
    """Read all of a database that no program writes to."""
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            found = damage(connection)
            said = {str(name): str(value) for name, value in connection.execute("SELECT name, value FROM store")}
            number = said.get("schema", "")
            if found is None and not (number.isdecimal() and number.isascii() and len(number) < _SCHEMA_DIGITS):
                found = "the number of its schema is missing"
            return Contents(found, 0 if found else int(number), said.get("storage key", ""), counts(connection))
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        return Contents(one_line(error))


def storage_key_of(database: Path) -> str:
    """Return the fingerprint of a database's storage key; empty if it cannot be read."""
    if not database.is_file():
        return ""
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            found = connection.execute("SELECT value FROM store WHERE name = 'storage key'").fetchone()
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        return ""
    return str(found[0]) if found else ""


@contextmanager
def scratch_folder(database: Path, folder: Path | None = None) -> Iterator[Path]:
    """Give a temporary folder for files as secret as the database; by default beside the database.

    It is removed when the block ends. The folders that killed programs have left are removed first.
    """
    folder = folder or database.parent
    prefix = f"{database.name}.scratch-"
    for left in folder.glob(f"{prefix}*"):
        with _locked_folder(left) as alone:
            if alone:
                _empty_and_remove(left)
    with ExitStack() as stack:
        made = _make_folder(prefix, folder)
        # another program may have removed the new folder as left behind
        while not (stack.enter_context(_locked_folder(made)) and made.exists()):
            made = _make_folder(prefix, folder)
        try:
            yield made
        finally:
            _remove(made)


def _make_folder(prefix: str, folder: Path) -> Path:
    """Make a new folder that the store's owner owns, even in a folder of root's (see --scratch)."""
    uid, gid = os.geteuid(), os.getegid()
    with working_for(folder, shared=True):
        made = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
        if os.geteuid() != uid:
            os.chown(made, uid, gid, follow_symlinks=False)
    try:
        made.stat()
    except PermissionError as error:
        _empty_and_remove(made)
        message = f"the owner of the store cannot work in {folder}: --scratch DIR takes a folder that he can reach"
        raise StartError(message) from error
    return made


def _remove(folder: Path) -> None:
    """Remove a folder in which an interrupted thread may still be opening a database."""
    for _ in range(_TRIES):
        _empty_and_remove(folder)
        if not folder.exists():
            return
        time.sleep(_RETRY_SECONDS)


def _empty_and_remove(folder: Path) -> None:
    """Remove a folder and its content as far as possible; the content as its owner, who is not root."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError), working_for(folder.parent, shared=True):
        folder.rmdir()


@contextmanager
def _locked_folder(folder: Path) -> Iterator[bool]:
    """Lock a folder; give False when another program holds it or it is not a folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)
