"""Encrypt backups in the age format (age-encryption.org/v1), so that the program `age` can open them.

Blocking. Encryption to recipients takes bounded memory. Encryption with a passphrase keeps the whole file in memory
several times. age's scrypt also takes about a second and half a gigabyte.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from io import BytesIO
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import pyrage

from server.encoding import BYTE_ORDER_MARK, decoded
from server.errors import StartError
from server.plain_files import MOST_TEXT_BYTES, read_named
from server.storage.owner import opened_file

#: The limit of data that is encrypted with a passphrase.
MOST_PASSPHRASE_BYTES = 512 * 1024 * 1024
_AGE = b"age-encryption.org/v1\n"
_GZIP = b"\x1f\x8b"
_IDENTITY_EXPECTED = "a file of age-keygen or an SSH key of RSA or Ed25519 without a passphrase is expected"
_T = TypeVar("_T")


class Lock(Enum):
    """How a backup is encrypted."""

    NONE = "not encrypted"
    PASSPHRASE = "encrypted with a passphrase"  # noqa: S105  no passphrase
    RECIPIENT = "encrypted to recipients"


@dataclass(frozen=True)
class Keys:
    """The secrets that encrypt or decrypt a backup, hidden in `repr`.

    Without any the backup is unencrypted.
    """

    passphrase: str | None = field(default=None, repr=False)
    recipients: Sequence[str] = ()
    identities: Sequence[object] = field(default=(), repr=False)

    @property
    def lock(self) -> Lock:
        """How these keys encrypt a backup."""
        if self.passphrase is not None:
            return Lock.PASSPHRASE
        return Lock.RECIPIENT if self.recipients else Lock.NONE


def opened_backup(path: Path) -> IO[bytes]:
    """Open the file of a backup. Raises StartError when it is unreadable or not a regular file."""
    try:
        return os.fdopen(opened_file(path), "rb")
    except OSError as error:
        message = f"the backup {path} cannot be read: {error.strerror}"
        raise StartError(message) from error


def lock_of(backup: IO[bytes], name: Path) -> Lock:
    """Return how a backup is encrypted, and rewind the file. Raises StartError when it is not a backup."""
    beginning = backup.read(64)
    backup.seek(0)
    if beginning.startswith(_AGE):
        return Lock.PASSPHRASE if beginning[len(_AGE) :].startswith(b"-> scrypt ") else Lock.RECIPIENT
    if beginning.startswith(_GZIP):
        return Lock.NONE
    message = f"{name} is no backup of ecss-console: neither an age file nor a tar.gz"
    raise StartError(message)


def check_recipients(recipients: Sequence[str]) -> None:
    """Raise StartError for a text that is not a recipient."""
    _recipients(recipients)


def encrypt(write: Callable[[IO[bytes]], None], target: IO[bytes], keys: Keys) -> None:
    """Call `write` with a stream, and encrypt to `target` the bytes it writes.

    Raises StartError or OSError.
    """
    if keys.lock is Lock.NONE:
        write(target)
    elif keys.passphrase is not None:
        plain = _Limited()
        write(plain)
        target.write(pyrage.passphrase.encrypt(plain.getvalue(), keys.passphrase))
    else:
        recipients = _recipients(keys.recipients)
        piped = _Piped(write)
        source, kept = _Remembering(piped.end), _Remembering(target)
        try:
            pyrage.encrypt_io(source, kept, recipients)
        except pyrage.EncryptError as error:
            raise kept.failed or source.failed or StartError(f"the backup cannot be encrypted: {error}") from error
        finally:
            piped.close()
        piped.check()
        if kept.failed is not None:  # pyrage ignores a failure of the last write
            raise kept.failed


def decrypt(read: Callable[[IO[bytes]], _T], source: IO[bytes], lock: Lock, keys: Keys) -> _T:
    """Call `read` with the decrypted stream of `source`, and return its result.

    Raises StartError for wrong keys, and for a changed or truncated file. `read` must not trust any byte before this
    function returns.
    """
    if lock is Lock.NONE:
        return _read_to_end(read, source)
    if lock is Lock.PASSPHRASE:
        return _read_to_end(read, BytesIO(_opened(source.read(), keys.passphrase or "")))
    piped = _Piped(lambda pipe: pyrage.decrypt_io(source, pipe, [*keys.identities]))
    try:
        return _read_to_end(read, piped.end)
    finally:
        piped.close()
        if isinstance(piped.failed, pyrage.DecryptError):
            message = f"no identity opens the file, or it is damaged ({_in_a_line(piped.failed)})"
            raise StartError(message) from piped.failed


def _opened(sealed: bytes, passphrase: str) -> bytes:
    """Decrypt with a passphrase. Only in older backups is a byte order mark part of the passphrase."""
    without_mark = passphrase.removeprefix(BYTE_ORDER_MARK)
    if without_mark != passphrase:
        with suppress(pyrage.DecryptError):
            return cast("bytes", pyrage.passphrase.decrypt(sealed, without_mark))
    try:
        return cast("bytes", pyrage.passphrase.decrypt(sealed, passphrase))
    except pyrage.DecryptError as error:
        message = f"the passphrase is wrong, or the file is damaged ({_in_a_line(error)})"
        raise StartError(message) from error


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())


class _Limited(BytesIO):
    """A buffer in memory with a limit."""

    def write(self, data: Any, /) -> int:  # noqa: ANN401  any object with a buffer
        if self.tell() + len(data) > MOST_PASSPHRASE_BYTES:
            message = (
                f"the store is too large for a passphrase, which takes {MOST_PASSPHRASE_BYTES // 1024**2} MB of packed "
                "data: give --recipient, which has no limit"
            )
            raise StartError(message)
        return super().write(data)


class _Remembering:
    """A stream that keeps the exception of its last call, even Ctrl-C, because pyrage replaces it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.failed: BaseException | None = None

    def read(self, size: int = -1) -> bytes:
        with self._remembered():
            return self._stream.read(size)

    def write(self, data: bytes) -> int:
        with self._remembered():
            return self._stream.write(data)

    def flush(self) -> None:
        with self._remembered():
            self._stream.flush()

    @contextmanager
    def _remembered(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.failed = error
            raise


class _Piped:
    """A thread that writes into a pipe. The caller reads from `end`."""

    def __init__(self, work: Callable[[IO[bytes]], None]) -> None:
        reading, writing = os.pipe()
        self.end: IO[bytes] = os.fdopen(reading, "rb")
        self.failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work, os.fdopen(writing, "wb")), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close the pipe, so that the thread's next write fails, and wait for the thread."""
        self.end.close()
        self._thread.join()

    def check(self) -> None:
        """Raise the exception that ended the thread, if any."""
        if self.failed is not None:
            raise self.failed

    def _run(self, work: Callable[[IO[bytes]], None], pipe: IO[bytes]) -> None:
        try:
            work(pipe)
        except BaseException as error:  # noqa: BLE001  `check` raises it
            self.failed = error
        finally:
            try:
                pipe.close()
            except OSError as error:
                self.failed = self.failed or error


def _read_to_end(read: Callable[[IO[bytes]], _T], source: IO[bytes]) -> _T:
    found = read(source)
    if source.read(1):
        message = "the file is damaged: something follows the archive"
        raise StartError(message)
    return found


def _recipients(texts: Sequence[str]) -> list[object]:
    return [_recipient(text) for text in texts]


def _recipient(text: str) -> object:
    kind = pyrage.ssh if text.startswith("ssh-") else pyrage.x25519
    try:
        return kind.Recipient.from_str(text)
    except pyrage.RecipientError as error:
        expected = "age1… of age-keygen, or the line of an SSH public key of RSA or Ed25519, is expected"
        message = f"{text} is no recipient: {expected}"
        raise StartError(message) from error


def identities_of(paths: Sequence[Path]) -> list[object]:
    """Read identities from age-keygen files and from SSH private keys without a passphrase.

    Raises StartError.
    """
    return [each for path in paths for each in _identities(path)]


def _identities(path: Path) -> list[object]:
    try:
        text = decoded(read_named(path, MOST_TEXT_BYTES))
        if text.startswith("-----BEGIN"):
            return [pyrage.ssh.Identity.from_buffer(text.encode())]
        lines = [line.strip() for line in text.splitlines()]
        found: list[object] = [
            pyrage.x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#")
        ]
    except (OSError, ValueError, pyrage.IdentityError) as error:
        why = _IDENTITY_EXPECTED
        if isinstance(error, OSError):
            why = str(error.strerror)
        elif isinstance(error, ValueError):
            why = f"{error}; {_IDENTITY_EXPECTED}"
        message = f"the identity {path} cannot be read: {why}"
        raise StartError(message) from error
    return found
