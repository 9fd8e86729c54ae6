"""The store's files: made on first start, checked on every start, brought up to the program's schema.

What cannot be opened safely is refused with StartError and left untouched: a database without its storage key or
with another one, a newer schema, a damaged file. Blocking; for the time before the loop runs.
"""

from __future__ import annotations

import base64
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from server.durable import locked_folder, make_folder, sync_folder, write_synced
from server.errors import StartError
from server.file_names import STORAGE_KEY_NAME
from server.model.lines import one_line
from server.storage.owner import working_for
from server.storage.sqlite import schema
from server.storage.sqlite.errors import passing_reason
from server.storage.sqlite.restoring import SIDE_FILES, finish, restoring_folder
from server.storage.storage_key import read_storage_key, storage_key_there
from server.storage.vault import Vault, new_storage_key

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A store that can be opened: its absolute path and its vault. `made` tells whether it was made just now."""

    database: Path
    vault: Vault
    made: bool


def prepare(
    database: Path,
    keys_dir: Path,
    *,
    make: bool = True,
    storage_key: Path | None = None,
    upgrading: Callable[[Path], AbstractContextManager[None]] | None = None,
) -> Prepared:
    """Make the store where there is neither database nor storage key, else check and migrate it.

    Without `make` an absent store is refused. `storage_key` may lie outside the keys folder. A store of an older schema
    is migrated inside `upgrading(database)`, which raises StartError where that may not be. Raises StartError with what
    is wrong and how to mend it.
    """
    database = database.absolute()  # a relative `:memory:` would be no file to SQLite
    storage_key = storage_key or keys_dir / STORAGE_KEY_NAME
    staged = database.with_name(database.name + ".new")
    with store_errors():
        finish_restore(database, keys_dir)
        if not storage_key_there(storage_key):
            _refuse_without_key(database, storage_key, make=make)
        with locked_folder(keys_dir):
            made = not database.exists() and not storage_key_there(storage_key)
            if made:
                _make(database, staged, storage_key)
            vault = Vault(read_storage_key(storage_key))
            if not database.exists():
                _finish_or_refuse(database, staged, storage_key)
            found = _check(database, vault)
            _close_to_others(keys_dir, database, storage_key)
            if found < schema.newest():
                with upgrading(database) if upgrading else nullcontext():
                    schema.upgrade(database, vault)
    return Prepared(database, vault, made)


def finish_restore(database: Path, keys_dir: Path) -> None:
    """Finish a restore that was killed behind its step, before anything looks at the store."""
    if os.path.lexists(restoring_folder(database)):
        with locked_folder(keys_dir):
            finish(database, keys_dir)


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn what SQLite and the system say of the store's files into StartError."""
    try:
        yield
    except OSError as error:
        message = f"the store cannot be opened: {error}"
        raise StartError(message) from error
    except sqlite3.Error as error:
        message = f"the store cannot be opened: {passing_reason(error) or error}; nothing was changed"
        raise StartError(message) from error


@contextmanager
def read_errors() -> Iterator[None]:
    """Turn an SQLite error of an open store into StartError, as when its file is replaced between check and use."""
    try:
        yield
    except sqlite3.Error as error:
        message = f"the store cannot be read: {passing_reason(error) or error}"
        raise StartError(message) from error


def _refuse_without_key(database: Path, storage_key: Path, *, make: bool) -> None:
    if database.exists():
        message = (
            f"the database {database} is there but its storage key {storage_key} is not: put the key back; "
            "without it no API key can be read, and nothing was changed"
        )
        raise StartError(message)
    if not make:
        message = f"there is no store, neither {database} nor {storage_key}: ecss-console init makes one"
        raise StartError(message)


def _make(database: Path, staged: Path, storage_key: Path) -> None:
    """Make the database aside, then its key, then put the database in place: a crash between leaves no riddle."""
    make_folder(database.parent)
    staged.unlink(missing_ok=True)
    raw = new_storage_key()
    os.close(os.open(staged, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    schema.make(staged, Vault(raw))
    with working_for(storage_key):
        half_written = storage_key.with_name(storage_key.name + ".new")
        half_written.unlink(missing_ok=True)
        write_synced(half_written, base64.b64encode(raw) + b"\n")
    sync_folder(database.parent)
    with working_for(storage_key):
        half_written.rename(storage_key)
        sync_folder(storage_key.parent)  # a power cut must not leave a database whose key is gone
    staged.rename(database)
    sync_folder(database.parent)


def _finish_or_refuse(database: Path, staged: Path, storage_key: Path) -> None:
    if staged.exists():
        staged.rename(database)
        return
    message = (
        f"the storage key {storage_key} is there but its database {database} is not: put the database back, "
        "or move the key away to begin with an empty store"
    )
    raise StartError(message)


def check(database: Path, vault: Vault) -> int:
    """Return the schema's number of a store, which is neither changed nor upgraded. Raises StartError."""
    with store_errors():
        return _check(database, vault)


def _check(database: Path, vault: Vault) -> int:
    """Return the schema's number. Looks without touching: without locks or side files where nobody has it open."""
    try:
        verdict, values = _looked_at(database)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        if isinstance(error, sqlite3.DatabaseError) and passing_reason(error):
            raise
        verdict, values = str(error), {}
    number = values.get("schema", "")
    if verdict != "ok" or not _NUMBER.fullmatch(number):
        what = "the number of its schema is missing" if verdict == "ok" else one_line(verdict)
        message = f"the database {database} is damaged ({what}): restore it from a backup; nothing was changed"
        raise StartError(message)
    if values.get("storage key") != vault.fingerprint:
        message = f"the database {database} was made with another storage key: put its own key back"
        raise StartError(message)
    if int(number) > schema.newest():
        message = (
            f"the database {database} has schema {number}, this program knows {schema.newest()}: "
            "install the newer program; nothing was changed"
        )
        raise StartError(message)
    return int(number)


def _looked_at(database: Path) -> tuple[str, dict[str, str]]:
    """Return SQLite's verdict on the file, or a table that is missing, and what the store says of itself.

    A file that another program writes meanwhile may look damaged, as nothing is locked: it is looked at again.
    """
    _refuse_unless_plain(database)
    while True:
        before = _stamp(database)
        try:
            looked = _look(database, "mode=ro" if before.in_use else "mode=ro&immutable=1")
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            if _stamp(database) == before:
                raise
        else:
            if looked[0] == "ok" or _stamp(database) == before:
                return looked


def _refuse_unless_plain(database: Path) -> None:
    """Raise StartError for a FIFO, on which SQLite would wait for ever, and for whatever else is no file."""
    for ending in SIDE_FILES:
        path = database.with_name(database.name + ending)
        if path.exists() and not path.is_file():
            message = f"{path} is no plain file: move it away, or restore the store from a backup; nothing was changed"
            raise StartError(message)


@dataclass(frozen=True, slots=True)
class _Stamp:
    changed_ns: int
    size_bytes: int
    in_use: bool


def _stamp(database: Path) -> _Stamp:
    """Return what is another one when somebody has written the file, or begun to."""
    found = database.stat()
    return _Stamp(found.st_mtime_ns, found.st_size, database.with_name(database.name + "-wal").exists())


def _look(database: Path, mode: str) -> tuple[str, dict[str, str]]:
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?{mode}", uri=True)) as connection:
        verdict = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        values = {str(name): str(value) for name, value in connection.execute("SELECT name, value FROM store")}
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    number = values.get("schema", "")
    missing = schema.tables_of(int(number) if _NUMBER.fullmatch(number) else 1) - tables
    return (f"the table {min(missing)} is missing" if missing else verdict), values


def _close_to_others(keys_dir: Path, database: Path, storage_key: Path) -> None:
    """Take away what group and others may do with the keys folder and files that hold secrets.

    A storage key in a place of its own belongs to whoever put it there, may be read by a group (as systemd's
    credentials are) and is not changed. Raises StartError when everybody may read it.
    """
    outside = storage_key.parent != keys_dir
    with working_for(storage_key):
        readable = outside and storage_key.stat().st_mode & 0o007
    if readable:
        message = f"everybody may read the storage key {storage_key}: chmod o= it, and think whether it is still secret"
        raise StartError(message)
    if keys_dir.stat().st_mode & 0o077:
        keys_dir.chmod(0o700)
    for path in (database,) if outside else (database, storage_key):
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
