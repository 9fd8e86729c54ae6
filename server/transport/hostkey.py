"""The server's host keys, in the keys folder. Blocking; for the time before the loop runs.

One is in use. While a rotation is under way there is a next one beside it: clients are told of it after their login
(`hostkeys-00@openssh.com`) and trust it by the time it comes into use. The private file counts; its public half is
mended from it whenever the keys are read, so a program killed at any point leaves keys that work.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from server.durable import locked_folder, sync_folder, write_synced
from server.errors import StartError
from server.plain_files import MOST_KEY_BYTES, plain, read_plain

HOST_KEY_NAME = "ssh_host_ed25519_key"
NEXT_HOST_KEY_NAME = "ssh_host_ed25519_key_next"


@dataclass(frozen=True, slots=True)
class HostKeys:
    """The key in use, and the one that follows it while a rotation is under way."""

    used: asyncssh.SSHKey
    next: asyncssh.SSHKey | None

    @property
    def announced(self) -> list[asyncssh.SSHKey]:
        """What clients are told of; the first is the one in use."""
        return [self.used] if self.next is None else [self.used, self.next]

    @property
    def fingerprints(self) -> list[str]:
        """What clients see of those, in their order."""
        return [fingerprint_of(key) for key in self.announced]


def host_keys(keys_dir: Path, *, make: bool = True) -> HostKeys:
    """Return the host keys; with `make`, which holds the folder, one where there is none. Raises StartError."""
    path, following = keys_dir / HOST_KEY_NAME, keys_dir / NEXT_HOST_KEY_NAME
    with locked_folder(keys_dir) if make else nullcontext():  # two that begin at once make one
        if make and not path.exists():
            _make(path)
        return HostKeys(_read(path), _read(following) if following.exists() else None)


def make_next(keys_dir: Path) -> HostKeys:
    """Make the next host key. Raises StartError when there is one already."""
    if host_keys(keys_dir).next is not None:
        message = (
            f"a rotation is under way, {keys_dir / NEXT_HOST_KEY_NAME} is the next host key: "
            "ecss-console hostkey rotate --finish takes it into use"
        )
        raise StartError(message)
    _make(keys_dir / NEXT_HOST_KEY_NAME)
    return host_keys(keys_dir)


def drop_next(keys_dir: Path) -> None:
    """Remove a next host key that was made just now and may not be announced. Raises StartError where that fails."""
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
    """Return the host keys of a rotation that is under way; call it with the folder held. Raises StartError without."""
    keys = host_keys(keys_dir, make=False)
    if keys.next is None:
        message = "there is no next host key: ecss-console hostkey rotate makes one"
        raise StartError(message)
    return keys


def take_next(keys_dir: Path) -> HostKeys:
    """Take the next host key into use in place of the old one, which is gone then. Raises StartError without one."""
    keys_to_finish(keys_dir)
    path, following = keys_dir / HOST_KEY_NAME, keys_dir / NEXT_HOST_KEY_NAME
    try:
        following.replace(path)  # this is the step: before it all is old, after it all is new
        _public(following).replace(_public(path))  # nothing is written: a full disk is no obstacle
        sync_folder(keys_dir)
    except OSError as error:
        message = f"the host key {path} cannot be replaced: {error.strerror}"
        raise StartError(message) from error
    return host_keys(keys_dir, make=False)


def fingerprint_of(key: asyncssh.SSHKey) -> str:
    """Return `SHA256:…`, as clients show it when they ask whether to go on."""
    return key.get_fingerprint()


def fingerprint_in(private_key: bytes) -> str:
    """Return the same of the content of a private key's file, whatever is in that."""
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
        return False  # whatever it is, the key's public half takes its place


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
    """Write a file whole or not at all, for its owner only."""
    staged = path.with_name(path.name + ".new")
    staged.unlink(missing_ok=True)
    write_synced(staged, content)
    staged.rename(path)
    sync_folder(path.parent)
