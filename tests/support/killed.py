"""Kill a program at every step that it takes, one step later each time."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

_STEPS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.chmod", "sqlite3.connect")
_DONE, _FAILED = 0, 3


class _Steps:
    """Counts steps and kills the process at one of them."""

    def __init__(self, last: int) -> None:
        self._left = last

    def take(self, *_: object) -> None:
        self._left -= 1
        if self._left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _watched(steps: _Steps) -> None:
    """Count calls that change files and every SQL statement, before each is done."""
    connect = sqlite3.connect
    fsync = os.fsync

    def connected(*words: Any, **more: Any) -> sqlite3.Connection:  # noqa: ANN401
        connection: sqlite3.Connection = connect(*words, **more)
        connection.set_trace_callback(steps.take)
        return connection

    def synced(descriptor: int) -> None:
        steps.take()
        fsync(descriptor)
        steps.take()

    sqlite3.connect = connected  # type: ignore[assignment]
    os.fsync = synced  # type: ignore[assignment]
    sys.addaudithook(lambda event, _: steps.take() if event in _STEPS else None)


def in_child(work: Callable[[], object], before: Callable[[], None]) -> int:
    """Do work in a child process; return its exit status, negative for the signal that killed it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fork warns about threads, which the child does not use
        child = os.fork()
    if child == 0:
        status = _FAILED
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            before()
            status = int(work() or _DONE)  # type: ignore[call-overload]
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at_every_step(work: Callable[[], object]) -> Iterator[int]:
    """Yield after each kill, one step later each time, until the work reaches its end."""
    step = 0
    while (status := in_child(work, partial(_watched, _Steps(step)))) == -signal.SIGKILL:
        yield step
        step += 1
    assert status == _DONE, status


def without_room(work: Callable[[], object], most_bytes: int) -> int:
    """Do work with a file size limit, as on a full disk; return its status."""
    return in_child(work, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes)))
