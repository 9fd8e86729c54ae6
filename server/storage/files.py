"""The store's files: made on first start, checked on every start, brought up to the program's schema.

What cannot be opened safely is refused with StartError and left untouched: a database without its storage key or
with another one, a newer schema, a damaged file. Blocking; for the time before the loop runs.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from server.errors import StartError
from server.storage.chain import BEGINNING, Beginning
from server.storage.temporary import passing_reason
from server.storage.vault import STORAGE_KEY_BYTES, Vault, new_storage_key

STORAGE_KEY_NAME = "storage.key"
_CHAIN_MIGRATION = 3
_TABLE = re.compile(r"^CREATE TABLE (\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A store that can be opened: its absolute path and its vault. `made` tells whether it was made just now."""

    database: Path
    vault: Vault
    made: bool


def prepare(database: Path, keys_dir: Path, *, make: bool = True, storage_key: Path | None = None) -> Prepared:
    """Make the store where there is neither database nor storage key, else check and migrate it.

    Without `make` an absent store is refused. `storage_key` may lie outside the keys folder. Raises StartError with
    what is wrong and how to mend it.
    """
    database = database.absolute()  # a relative `:memory:` would be no file to SQLite
    storage_key = storage_key or keys_dir / STORAGE_KEY_NAME
    staged = database.with_name(database.name + ".new")
    try:
        if not storage_key.exists():
            _refuse_without_key(database, storage_key, make=make)
        with _locked_folder(keys_dir):
            made = not database.exists() and not storage_key.exists()
            if made:
                _make(database, staged, storage_key)
            vault = Vault(_storage_key(storage_key))
            if not database.exists():
                _finish_or_refuse(database, staged, storage_key)
            schema = _check(database, vault)
            _close_to_others(keys_dir, database, storage_key)
            if schema < max(_migrations()):
                _migrate(database, vault)
    except OSError as error:
        message = f"the store cannot be opened: {error}"
        raise StartError(message) from error
    except sqlite3.Error as error:
        message = f"the store cannot be opened: {passing_reason(error) or error}; nothing was changed"
        raise StartError(message) from error
    return Prepared(database, vault, made)


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
    _migrate(staged, Vault(raw))
    with closing(_connect(staged)) as connection:
        connection.execute("INSERT INTO store (name, value) VALUES ('storage key', ?)", (Vault(raw).fingerprint,))
    half_written = storage_key.with_name(storage_key.name + ".new")
    half_written.unlink(missing_ok=True)
    descriptor = os.open(half_written, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(base64.b64encode(raw) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    sync_folder(database.parent)
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


def _storage_key(path: Path) -> bytes:
    try:
        raw = base64.b64decode(path.read_bytes(), validate=False)
    except binascii.Error:
        raw = b""
    if len(raw) != STORAGE_KEY_BYTES:
        message = f"{path} is no storage key: {STORAGE_KEY_BYTES} bytes in base64 are expected"
        raise StartError(message)
    return raw


def _check(database: Path, vault: Vault) -> int:
    """Return the schema's number. Looks without touching: without locks or side files where nobody has it open."""
    try:
        verdict, values = _looked_at(database)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        if isinstance(error, sqlite3.DatabaseError) and passing_reason(error):
            raise
        verdict, values = str(error), {}
    schema = values.get("schema", "")
    if verdict != "ok" or not re.fullmatch(r"[1-9][0-9]{0,8}", schema):
        what = "the number of its schema is missing" if verdict == "ok" else verdict
        message = f"the database {database} is damaged ({what}): restore it from a backup; nothing was changed"
        raise StartError(message)
    if values.get("storage key") != vault.fingerprint:
        message = f"the database {database} was made with another storage key: put its own key back"
        raise StartError(message)
    newest = max(_migrations())
    if int(schema) > newest:
        message = (
            f"the database {database} has schema {values['schema']}, this program knows {newest}: "
            "install the newer program; nothing was changed"
        )
        raise StartError(message)
    return int(schema)


def _looked_at(database: Path) -> tuple[str, dict[str, str]]:
    """Return SQLite's verdict on the file, or a table that is missing, and what the store says of itself."""
    in_use = database.with_name(database.name + "-wal").exists()
    mode = "mode=ro" if in_use else "mode=ro&immutable=1"
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?{mode}", uri=True)) as connection:
        verdict = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        values = {str(name): str(value) for name, value in connection.execute("SELECT name, value FROM store")}
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    missing = set(_TABLE.findall(_migrations()[1])) - tables
    return (f"the table {min(missing)} is missing" if missing else verdict), values


def _migrate(database: Path, vault: Vault) -> None:
    """Run the migrations that are missing, each whole or not at all."""
    with closing(_connect(database)) as connection:
        tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'store'").fetchone()[0]
        select = "SELECT value FROM store WHERE name = 'schema'"
        done = int(connection.execute(select).fetchone()[0]) if tables else 0
        for number, script in sorted(_migrations().items()):
            if number <= done:
                continue
            connection.execute("BEGIN IMMEDIATE")
            for statement in _statements(script):
                connection.execute(statement)
            if number == _CHAIN_MIGRATION:
                _mark_beginning(connection, vault)
            connection.execute(
                "INSERT INTO store (name, value) VALUES ('schema', ?) ON CONFLICT (name) DO UPDATE SET value = ?",
                (str(number), str(number)),
            )
            connection.execute("COMMIT")


def _mark_beginning(connection: sqlite3.Connection, vault: Vault) -> None:
    """Sign which records are from before the chain, so that no later one can be passed off as such."""
    beginning = Beginning(*connection.execute("SELECT coalesce(max(id), 0), count(*) FROM audit").fetchone())
    connection.execute(
        "INSERT OR REPLACE INTO store (name, value) VALUES (?, ?)", (BEGINNING, vault.audit.mark(beginning))
    )


def _connect(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(database, isolation_level=None)


def _migrations() -> dict[int, str]:
    """Return the migrations by number, from `migrations/0001_first.sql` and its followers."""
    folder = files("server.storage") / "migrations"
    scripts = [file for file in folder.iterdir() if file.name.endswith(".sql")]
    return {int(file.name.partition("_")[0]): file.read_text(encoding="utf-8") for file in scripts}


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _close_to_others(keys_dir: Path, database: Path, storage_key: Path) -> None:
    """Take away what group and others may do with the keys folder and files that hold secrets.

    A storage key in a place of its own belongs to whoever put it there, may be read by a group (as systemd's
    credentials are) and is not changed. Raises StartError when everybody may read it.
    """
    outside = storage_key.parent != keys_dir
    if outside and storage_key.stat().st_mode & 0o007:
        message = f"everybody may read the storage key {storage_key}: chmod o= it, and think whether it is still secret"
        raise StartError(message)
    if keys_dir.stat().st_mode & 0o077:
        keys_dir.chmod(0o700)
    for path in (database,) if outside else (database, storage_key):
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """Hold the keys folder so that two programs do not make two stores at once."""
    make_folder(folder)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder for its owner only, and those above it, so that they survive a crash."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make names that were given or taken in a folder survive a crash."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
