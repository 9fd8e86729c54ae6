"""The server's host key: made on first start, kept in the keys folder. Blocking; for the time before the loop runs."""

from __future__ import annotations

import os
from pathlib import Path

import asyncssh

from server.errors import StartError

HOST_KEY_NAME = "ssh_host_ed25519_key"


def host_key(keys_dir: Path) -> asyncssh.SSHKey:
    """Return the host key, made when there is none. Raises StartError for a file that is no key."""
    path = keys_dir / HOST_KEY_NAME
    try:
        if not path.exists():
            _make(path)
        elif path.stat().st_mode & 0o077:
            path.chmod(0o600)
        return asyncssh.read_private_key(path)
    except (OSError, asyncssh.KeyImportError) as error:
        message = f"the host key {path} cannot be read: {error}"
        raise StartError(message) from error


def _make(path: Path) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519", comment="ecss-console host key")
    _write(path.with_name(path.name + ".pub"), key.export_public_key("openssh"))
    _write(path, key.export_private_key("openssh"))


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, for its owner only."""
    staged = path.with_name(path.name + ".new")
    staged.unlink(missing_ok=True)
    with os.fdopen(os.open(staged, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    staged.rename(path)
