"""The server's host keys, in the keys folder. All functions block.

One key is in use. During a rotation there is also a next key. The server announces it to clients after their login
(`hostkeys-00@openssh.com`), so they trust it before it is used. The private key file decides: each read repairs the
public key file, so a program killed at any point leaves working keys.

The policy `compatible` adds an ECDSA key for old libraries without Ed25519. A rotation does not change it, because
these libraries ignore announced keys. To replace it, remove its file and reload.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from server.durable import locked_folder, sync_folder, write_synced
from server.errors import StartError
from server.file_names import ECDSA_HOST_KEY_NAME, HOST_KEY_NAME, NEXT_HOST_KEY_NAME
from server.plain_files import MOST_KEY_BYTES, plain, read_plain

_ED25519, _ECDSA = "ssh-ed25519", "ecdsa-sha2-nistp256"


@dataclass(frozen=True, slots=True)
class HostKeys:
    """The key in use, the next key during a rotation, and the ECDSA key if configured."""

    used: asyncssh.SSHKey
    next: asyncssh.SSHKey | None
    ecdsa: asyncssh.SSHKey | None = None

    @property
    def announced(self) -> list[asyncssh.SSHKey]:
        """The keys announced to clients: first the key in use, last the next key."""
        return [key for key in (self.used, self.ecdsa, self.next) if key is not None]

    @property
    def in_use(self) -> dict[str, str]:
        """The fingerprints of the keys in use, by their names in the audit."""
        keys = {"host_key": self.used, "ecdsa_host_key": self.ecdsa}
        return {name: fingerprint_of(key) for name, key in keys.items() if key is not None}

    @property
    def fingerprints(self) -> list[str]:
        """The fingerprints of the announced keys, in the same order."""
        return [fingerprint_of(key) for key in self.announced]


def host_keys(keys_dir: Path, *, make: bool = True, ecdsa: bool = False) -> HostKeys:
    """Return the host keys, with `ecdsa` also the ECDSA key. Raises StartError.

    With `make` it locks the folder and makes missing keys. Without `make` a missing ECDSA key is None.
    """
    path, following = keys_dir / HOST_KEY_NAME, keys_dir / NEXT_HOST_KEY_NAME
    with locked_folder(keys_dir) if make else nullcontext():  # two programs at once must not make two keys
        if make and not path.exists():
            _make(path)
        if make and ecdsa and not (keys_dir / ECDSA_HOST_KEY_NAME).exists():
            _make(keys_dir / ECDSA_HOST_KEY_NAME, _ECDSA)
        used, after = _read(path), _read(following) if following.exists() else None
        return HostKeys(used, after, ecdsa_host_key(keys_dir) if ecdsa else None)


def ecdsa_host_key(keys_dir: Path) -> asyncssh.SSHKey | None:
    """Return the ECDSA host key, or None without one. Raises StartError."""
    path = keys_dir / ECDSA_HOST_KEY_NAME
    return _read(path, _ECDSA) if path.exists() else None


def make_ecdsa_host_key(keys_dir: Path) -> None:
    """Make the ECDSA host key in a running server, which must not wait for the folder's lock.

    Raises StartError.
    """
    with _folder_if_free(keys_dir):
        if not (keys_dir / ECDSA_HOST_KEY_NAME).exists():
            _make(keys_dir / ECDSA_HOST_KEY_NAME, _ECDSA)


def make_next(keys_dir: Path) -> HostKeys:
    """Make the next host key, with both its files or none. Raises StartError when a rotation has begun already."""
    if host_keys(keys_dir).next is not None:
        message = (
            f"a rotation is under way, {keys_dir / NEXT_HOST_KEY_NAME} is the next host key: "
            "ecss-console hostkey rotate --finish takes it into use"
        )
        raise StartError(message)
    try:
        _make(keys_dir / NEXT_HOST_KEY_NAME)
    except BaseException:
        drop_next(keys_dir)  # no record names it, and the next start would announce it
        raise
    return host_keys(keys_dir)


def drop_next(keys_dir: Path) -> None:
    """Remove the next host key, just made and not announced yet. Raises StartError."""
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
        following.replace(path)  # this one step is the rotation
        _public(following).replace(_public(path))  # a rename works even on a full disk
        sync_folder(keys_dir)
    except OSError as error:
        message = f"the host key {path} cannot be replaced: {error.strerror}"
        raise StartError(message) from error
    return host_keys(keys_dir, make=False)


def fingerprint_of(key: asyncssh.SSHKey) -> str:
    """Return `SHA256:…`, as clients show it when they ask whether to trust the host."""
    return key.get_fingerprint()


def fingerprint_in(private_key: bytes) -> str:
    """Return the fingerprint of the private key in a file's content, or a text for an unreadable key."""
    try:
        return fingerprint_of(asyncssh.import_private_key(private_key))
    except asyncssh.KeyImportError:
        return "no key that can be read"


@contextmanager
def _folder_if_free(keys_dir: Path) -> Iterator[None]:
    """Lock the keys folder. Raises StartError while another program has locked it."""
    try:
        descriptor = os.open(keys_dir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(descriptor)
    except OSError as error:
        message = f"the keys folder {keys_dir} is in use or cannot be opened ({error.strerror}): reload again"
        raise StartError(message) from error


def _read(path: Path, algorithm: str = "") -> asyncssh.SSHKey:
    try:
        with plain(path) as descriptor:
            if os.fstat(descriptor).st_mode & 0o077:
                os.fchmod(descriptor, 0o600)
        key = asyncssh.import_private_key(read_plain(path, MOST_KEY_BYTES))
        if algorithm and key.get_algorithm() != algorithm:
            message = f"the host key {path} is {key.get_algorithm()}: {algorithm} is expected"
            raise StartError(message)
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


def _make(path: Path, algorithm: str = _ED25519) -> None:
    key = asyncssh.generate_private_key(algorithm, comment="ecss-console host key")
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
