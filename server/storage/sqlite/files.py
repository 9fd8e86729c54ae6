"""The store's files: create them at the first start, check them at every start, upgrade their schema.

Unsafe stores are refused with StartError and left unchanged: a database without its storage key or with another one, a
newer schema, a damaged file. Blocking; for use before the event loop runs.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from server.durable import locked_folder, make_folder, sync_folder
from server.errors import StartError
from server.file_names import STORAGE_KEY_NAME
from server.model.lines import one_line
from server.storage.sqlite import schema
from server.storage.sqlite.errors import temporary_reason
from server.storage.sqlite.restoring import SIDE_FILES, finish, restoring_folder
from server.storage.storage_key import (
    read_storage_key,
    restrict_permissions,
    storage_key_there,
    take_new_key,
    write_new_key,
)
from server.storage.vault import Vault, new_storage_key

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A store that can be opened: its absolute path and its vault. `made` means that it is new."""

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
    """Create the store when neither database nor storage key exists; otherwise check and upgrade it.

    Without `make`, an absent store is refused. `storage_key` may be outside the keys folder. A store of an older schema
    is upgraded inside `upgrading(database)`, which raises StartError when an upgrade is not allowed. Every StartError
    says what is wrong and how to mend it.
    """
    database = database.absolute()  # SQLite would not treat a relative `:memory:` as a file
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
            restrict_permissions(keys_dir, storage_key, database)
            if found < schema.newest():
                with upgrading(database) if upgrading else nullcontext():
                    schema.upgrade(database, vault)
    return Prepared(database, vault, made)


def finish_restore(database: Path, keys_dir: Path) -> None:
    """Finish a restore that was killed after its point of no return, before any use of the store."""
    if os.path.lexists(restoring_folder(database)):
        with locked_folder(keys_dir):
            finish(database, keys_dir)


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn errors of SQLite and of the system about the store's files into StartError."""
    try:
        yield
    except OSError as error:
        message = f"the store cannot be opened: {error}"
        raise StartError(message) from error
    except sqlite3.Error as error:
        message = f"the store cannot be opened: {temporary_reason(error) or error}; nothing was changed"
        raise StartError(message) from error


@contextmanager
def read_errors() -> Iterator[None]:
    """Turn an SQLite error of an open store into StartError, as when its file is replaced between check and use."""
    try:
        yield
    except sqlite3.Error as error:
        message = f"the store cannot be used: {temporary_reason(error) or error}"
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
    """Create the database under another name, then its key, then rename the database.

    After a crash at any point, the next start can tell which step was the last.
    """
    make_folder(database.parent)
    staged.unlink(missing_ok=True)
    raw = new_storage_key()
    os.close(os.open(staged, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    schema.make(staged, Vault(raw))
    write_new_key(storage_key, raw)
    sync_folder(database.parent)
    take_new_key(storage_key)  # a power cut must not leave a database without its key
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
    """Return the schema number of a store without changing or upgrading it. Raises StartError."""
    with store_errors():
        return _check(database, vault)


def _check(database: Path, vault: Vault) -> int:
    """Return the schema number. Unless the store is open, the check makes no locks or side files."""
    try:
        verdict, values = _inspect(database)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        if isinstance(error, sqlite3.DatabaseError) and temporary_reason(error):
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


def _inspect(database: Path) -> tuple[str, dict[str, str]]:
    """Return SQLite's verdict on the file, or a missing table, and the values of the table `store`.

    Without locks, a file may look damaged while another program writes it. Then it is read again.
    """
    _refuse_unless_plain(database)
    while True:
        before = _stamp(database)
        try:
            result = _inspect_once(database, "mode=ro" if before.in_use else "mode=ro&immutable=1")
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            if _stamp(database) == before:
                raise
        else:
            if result[0] == "ok" or _stamp(database) == before:
                return result


def _refuse_unless_plain(database: Path) -> None:
    """Raise StartError for anything but a file; SQLite would wait for ever on a FIFO."""
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
    """Return a stamp that changes when a program writes the file, or begins to."""
    found = database.stat()
    return _Stamp(found.st_mtime_ns, found.st_size, database.with_name(database.name + "-wal").exists())


def _inspect_once(database: Path, mode: str) -> tuple[str, dict[str, str]]:
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?{mode}", uri=True)) as connection:
        verdict = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        values = {str(name): str(value) for name, value in connection.execute("SELECT name, value FROM store")}
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    number = values.get("schema", "")
    missing = schema.tables_of(int(number) if _NUMBER.fullmatch(number) else 1) - tables
    return (f"the table {min(missing)} is missing" if missing else verdict), values
