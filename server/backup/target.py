"""The file of a new backup. It gets its final name only when it is complete and checked. Blocking."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from server.errors import StartError
from server.storage.owner import opened_folder

#: Errors of file systems without hard links, such as those on USB sticks.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


@dataclass(frozen=True, slots=True)
class Target:
    """An open file with a temporary name.

    The folder stays open, because its path may later name another folder.
    """

    file: IO[bytes]
    _folder: int
    _partial: str
    _path: Path

    def size_bytes(self) -> int:
        """Return the size of the file."""
        return os.fstat(self.file.fileno()).st_size

    def take_name(self, *, replace: bool) -> None:
        """Give the finished file its name. Without `replace`, raises StartError when the name is taken by now."""
        with writing(self._path):
            if replace or not self._linked():
                os.rename(self._partial, self._path.name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            os.fsync(self._folder)

    def _linked(self) -> bool:
        """Give the name without replacing a file. Returns False on a file system without hard links."""
        name, at = self._path.name, self._folder
        try:
            os.link(self._partial, name, src_dir_fd=at, dst_dir_fd=at, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS or _found(at, name) is not None:
                raise
            return False
        os.unlink(self._partial, dir_fd=at)
        return True


@contextmanager
def target(path: Path) -> Iterator[Target]:
    """Open the file for a backup.

    At the block's end it is removed unless it has its name. Raises StartError.
    """
    with writing(path):
        folder = opened_folder(path.parent)
    try:
        partial = f".{path.name}.{secrets.token_hex(4)}.partial"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with writing(path):
            descriptor = os.open(partial, flags, 0o600, dir_fd=folder)
        try:
            with os.fdopen(descriptor, "w+b") as file:
                yield Target(file, folder, partial, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(partial, dir_fd=folder)
    finally:
        os.close(folder)


def refuse_target(path: Path, own: Iterable[Path], *, replace: bool) -> None:
    """Raise StartError for a path that a backup must not overwrite. `own` are the files of the store."""
    if not path.parent.is_dir():
        message = f"there is no folder {path.parent}"
        raise StartError(message)
    with writing(path):
        folder = opened_folder(path.parent)
        try:
            found = _found(folder, path.name)
        finally:
            os.close(folder)
        if found is None:
            return
        if not replace or not stat.S_ISREG(found.st_mode):
            how = "give --force to replace it" if stat.S_ISREG(found.st_mode) else "it is no plain file"
            message = f"{path} is there already: {how}; nothing was written"
            raise StartError(message)
        if any(each.exists() and os.path.samestat(found, each.stat()) for each in own):
            message = f"{path} belongs to the store itself; nothing was written"
            raise StartError(message)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn OSError into a StartError about the backup's file."""
    try:
        yield
    except OSError as error:
        message = f"the backup cannot be written to {path}: {error.strerror}"
        raise StartError(message) from error


def _found(folder: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
