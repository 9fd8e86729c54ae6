"""Read only regular files of limited size, whatever another user has put in their place. Blocking.

Opening a FIFO blocks the event loop until some process writes to it. A device may never end, and a huge file fills the
memory. So the type is checked before and after opening, and the size is limited.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Keys and certificates take a few kilobytes; an RSA host key of 16,384 bits takes 13.
MOST_KEY_BYTES = 65_536
#: A configuration takes a few kilobytes. The limit leaves room for long lists of networks and a long greeting.
MOST_TEXT_BYTES = 262_144

_KINDS = (
    (stat.S_ISDIR, "folder"),
    (stat.S_ISLNK, "link"),
    (stat.S_ISFIFO, "FIFO"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)


def open_plain(path: Path | str, *, links: bool = True, folder: int | None = None) -> int:
    """Open a regular file for reading and return its descriptor. Raises OSError for anything else.

    Without `links` it refuses a symbolic link too. A relative path starts from the folder with the descriptor `folder`.
    """
    _refuse_unless_plain(os.stat(path, dir_fd=folder, follow_symlinks=links), path)  # opening a device may change it
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW)
    descriptor = os.open(path, flags, dir_fd=folder)
    try:
        _refuse_unless_plain(os.fstat(descriptor), path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_plain(path: Path | str, most_bytes: int, *, links: bool = True) -> bytes:
    """Return the content of a regular file.

    Raises OSError for anything else, and for more than `most_bytes`.
    """
    with plain(path, links=links) as descriptor:
        return _bounded(descriptor, most_bytes, path)


@contextmanager
def plain(path: Path | str, *, links: bool = True) -> Iterator[int]:
    """Open a regular file for the block and give its descriptor. Raises OSError for anything else."""
    descriptor = open_plain(path, links=links)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_named(path: Path, most_bytes: int) -> bytes:
    """Read a file named on the command line.

    It may be a pipe, as in `--passphrase-file <(pass show backup)`.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        return _bounded(descriptor, most_bytes, path)
    finally:
        os.close(descriptor)


def _refuse_unless_plain(found: os.stat_result, path: Path | str) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(found.st_mode)), "something else")
        raise OSError(errno.EINVAL, f"it is no file but a {kind}; a plain file is expected", str(path))


def _bounded(descriptor: int, most_bytes: int, path: Path | str) -> bytes:
    content = b""
    while chunk := os.read(descriptor, most_bytes + 1 - len(content)):
        content += chunk
        if len(content) > most_bytes:
            raise OSError(errno.EFBIG, f"it is larger than {most_bytes:,} bytes", str(path))
    return content
