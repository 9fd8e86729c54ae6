"""The host keys of the server, in the keys folder. All functions block.

One key is in use. During a rotation there is a next key too: clients learn it after their login
(`hostkeys-00@openssh.com`) and trust it before it comes into use. The private file counts: each read repairs the public
file from it, so a program killed at any point leaves keys that work.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from server.errors import StartError
from server.plain_files import MOST_KEY_BYTES, plain, read_plain
from server.storage.files import locked_folder
from server.storage.restoring import write_synced
from server.storage.snapshot import sync_folder

HOST_KEY_NAME = "ssh_host_ed25519_key"
NEXT_HOST_KEY_NAME = "ssh_host_ed25519_key_next"


@dataclass(frozen=True, slots=True)
class HostKeys:
    """The key in use, and the next key during a rotation."""

    used: asyncssh.SSHKey
    next: asyncssh.SSHKey | None

    @property
    def announced(self) -> list[asyncssh.SSHKey]:
        """The keys that clients learn; the first is in use."""
        return [self.used] if self.next is None else [self.used, self.next]

    @property
    def fingerprints(self) -> list[str]:
        """The fingerprints of the announced keys, in the same order."""
        return [fingerprint_of(key) for key in self.announced]


def host_keys(keys_dir: Path, *, make: bool = True) -> HostKeys:
    """Return the host keys; `make` locks the folder and makes a missing key. Raises StartError."""
    path, following = keys_dir / HOST_KEY_NAME, keys_dir / NEXT_HOST_KEY_NAME
    with locked_folder(keys_dir) if make else nullcontext():  # two that begin at once make one
        if make and not path.exists():
            _make(path)
        return HostKeys(_read(path), _read(following) if following.exists() else None)


def make_next(keys_dir: Path) -> HostKeys:
    """Make the next host key. Raises StartError when a rotation has begun already."""
    if host_keys(keys_dir).next is not None:
        message = (
            f"a rotation is under way, {keys_dir / NEXT_HOST_KEY_NAME} is the next host key: "
            "ecss-console hostkey rotate --finish takes it into use"
        )
        raise StartError(message)
    _make(keys_dir / NEXT_HOST_KEY_NAME)
    return host_keys(keys_dir)


def drop_next(keys_dir: Path) -> None:
    """Remove a next host key that was just made and is not announced. Raises StartError."""
    path = keys_dir / NEXT_HOST_KEY_NAME
    try:
        for each in (path, _public(path)):
            each.unlink(missing_ok=True)
        sync_folder(keys_dir)
    except OSError as error:
        message = (
            f"the next host key {path} is not recorded and must be removed before the next start: {error.strerror}"
        )
        raise StartError(message) from error


def keys_to_finish(keys_dir: Path) -> HostKeys:
    """Return the host keys of a rotation. The caller locks the folder. Raises StartError."""
    keys = host_keys(keys_dir, make=False)
    if keys.next is None:
        message = "there is no next host key: ecss-console hostkey rotate makes one"
        raise StartError(message)
    return keys


def take_next(keys_dir: Path) -> HostKeys:
    """Replace the host key with the next one, and delete the old one. Raises StartError."""
    keys_to_finish(keys_dir)
    path, following = keys_dir / HOST_KEY_NAME, keys_dir / NEXT_HOST_KEY_NAME
    try:
        following.replace(path)  # the rotation happens in this one step
        _public(following).replace(_public(path))  # a rename works on a full disk too
        sync_folder(keys_dir)
    except OSError as error:
        message = f"the host key {path} cannot be replaced: {error.strerror}"
        raise StartError(message) from error
    return host_keys(keys_dir, make=False)


def fingerprint_of(key: asyncssh.SSHKey) -> str:
    """Return `SHA256:…`, as clients show it when they ask whether to trust the host."""
    return key.get_fingerprint()


def fingerprint_in(private_key: bytes) -> str:
    """Return the fingerprint of the private key in this file content, or a text when there is none."""
    try:
        return fingerprint_of(asyncssh.import_private_key(private_key))
    except asyncssh.KeyImportError:
        return "no key that can be read"


def _read(path: Path) -> asyncssh.SSHKey:
    try:
        with plain(path) as descriptor:
            if os.fstat(descriptor).st_mode & 0o077:
                os.fchmod(descriptor, 0o600)
        key = asyncssh.import_private_key(read_plain(path, MOST_KEY_BYTES))
        public = key.export_public_key("openssh")
        if not _holds(_public(path), public):
            _write(_public(path), public)
    except (OSError, asyncssh.KeyImportError) as error:
        message = f"the host key {path} cannot be read: {getattr(error, 'strerror', None) or error}"
        raise StartError(message) from error
    return key


def _holds(path: Path, content: bytes) -> bool:
    try:
        return read_plain(path, MOST_KEY_BYTES) == content
    except OSError:
        return False  # the caller writes the file again


def _make(path: Path) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519", comment="ecss-console host key")
    try:
        _write(path, key.export_private_key("openssh"))
        _write(_public(path), key.export_public_key("openssh"))
    except OSError as error:
        message = f"the host key {path} cannot be made: {error}"
        raise StartError(message) from error


def _public(path: Path) -> Path:
    return path.with_name(path.name + ".pub")


def _write(path: Path, content: bytes) -> None:
    """Write a file atomically, readable by its owner only."""
    staged = path.with_name(path.name + ".new")
    staged.unlink(missing_ok=True)
    write_synced(staged, content)
    staged.rename(path)
    sync_folder(path.parent)
