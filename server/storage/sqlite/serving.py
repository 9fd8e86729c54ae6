"""The server lock: only one server at a time may use a store.

Two servers would share the data safely. But neither would know the other's sessions, limits and penalties: a user who
is disconnected by one would stay connected to the other. Both would also write the audit's log. The kernel releases the
lock when the process dies.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from server.durable import make_folder
from server.errors import StartError
from server.plain_files import read_plain

_MOST_LOCK_BYTES = 32


class HeldError(StartError):
    """Another program holds the server lock."""


@contextmanager
def upgrading(database: Path) -> Iterator[None]:
    """Hold the server lock while a program that is not a server upgrades the schema.

    Raises StartError while a server runs. It would be of an older version and could not use the upgraded store.
    """
    with ExitStack() as held:
        try:
            held.enter_context(serving(database))
        except HeldError as error:
            message = (
                f"the store {database} is of an older schema and served by an older version, which could not go on "
                "when it is upgraded: stop that server first, or use the program of its version; nothing was changed"
            )
            raise StartError(message) from error
        yield


@contextmanager
def serving(database: Path) -> Iterator[None]:
    """Hold the server lock, for a server or for work that must not run beside one.

    Raises StartError when another program holds the lock, or when the lock file cannot be written.

    The lock has its own file, because closing a second descriptor of the database would release SQLite's locks.
    """
    database = database.resolve()
    lock = database.with_name(database.name + ".lock")
    try:
        make_folder(lock.parent)
        descriptor = _lock_file(lock)
    except BlockingIOError as error:
        message = (
            f"another ecss-console serves or restores the store {database}, process {_holder(lock)}: "
            "stop it first, or configure a storage.url of its own for this one"
        )
        raise HeldError(message) from error
    except OSError as error:
        message = f"the store cannot be served: {error}"
        raise StartError(message) from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _lock_file(lock: Path) -> int:
    """Lock and return the file of this name; try again if its former holder has just removed it."""
    while True:
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            message = f"{lock} is no plain file: move it away"
            raise StartError(message)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock.exists() and os.path.samestat(os.fstat(descriptor), lock.stat()):
                os.truncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()}\n".encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _holder(lock: Path) -> str:
    try:
        return read_plain(lock, _MOST_LOCK_BYTES).decode("ascii").strip() or "unknown"
    except (OSError, ValueError):
        return "unknown"
