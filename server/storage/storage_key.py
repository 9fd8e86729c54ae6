"""Read and write the storage key's file as the user who owns its folder. Blocking."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from server.durable import sync_folder, write_synced
from server.errors import StartError
from server.plain_files import read_plain
from server.storage.owner import working_for
from server.storage.vault import STORAGE_KEY_BYTES

_MOST_BYTES = 4_096


def storage_key_there(path: Path) -> bool:
    """Tell whether something exists at the storage key's path. Raises OSError or StartError."""
    with working_for(path):
        return path.exists()


def read_storage_key(path: Path) -> bytes:
    """Return the storage key of a file. Raises StartError when it holds none, or OSError."""
    with working_for(path):
        return parse_storage_key(read_plain(path, _MOST_BYTES), str(path))


def parse_storage_key(text: bytes, where: str) -> bytes:
    """Parse the text of a storage key file. Raises StartError, which names `where`, for an invalid key."""
    try:
        raw = base64.b64decode(text, validate=False)
    except binascii.Error:
        raw = b""
    if len(raw) != STORAGE_KEY_BYTES:
        message = f"{where} is no storage key: {STORAGE_KEY_BYTES} bytes in base64 are expected"
        raise StartError(message)
    return raw


def write_new_key(storage_key: Path, raw: bytes) -> None:
    """Write a new storage key under the name that `take_new_key` renames. The folder must be locked."""
    with working_for(storage_key):
        half_written = _half_written(storage_key)
        half_written.unlink(missing_ok=True)
        write_synced(half_written, base64.b64encode(raw) + b"\n")


def take_new_key(storage_key: Path) -> None:
    """Give the new storage key its name. It is on the disk when this returns, or a power cut could lose it."""
    with working_for(storage_key):
        _half_written(storage_key).rename(storage_key)
        sync_folder(storage_key.parent)


def restrict_permissions(keys_dir: Path, storage_key: Path, *databases: Path) -> None:
    """Remove the permissions of group and others on the keys folder and on files with secrets.

    A storage key outside the keys folder keeps its owner and mode: a group may read it, like systemd's credentials.
    Raises StartError when everybody may read it.
    """
    outside = storage_key.parent != keys_dir
    with working_for(storage_key):
        readable = outside and storage_key.stat().st_mode & 0o007
    if readable:
        message = f"everybody may read the storage key {storage_key}: chmod o= it, and think whether it is still secret"
        raise StartError(message)
    if keys_dir.stat().st_mode & 0o077:
        keys_dir.chmod(0o700)
    for path in databases if outside else (*databases, storage_key):
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)


def _half_written(storage_key: Path) -> Path:
    return storage_key.with_name(storage_key.name + ".new")
