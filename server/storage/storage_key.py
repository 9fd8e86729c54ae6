"""Read the storage key's file as the user who owns its folder. Blocking."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

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
