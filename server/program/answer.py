"""What the program's command line answers, and the record it leaves of a change."""

from __future__ import annotations

import errno
import getpass
import json
import os
import sys
from collections.abc import Mapping

from server.audit.journal import utc_now
from server.config import Config
from server.errors import StartError
from server.model.events import Event, EventKind
from server.storage.writer import Query


def say(text: str, *, done: bool = True) -> None:
    """Print an answer, a line or more; raises StartError when nobody can read it.

    That tells the answer, lest what is done be lost with it, unless it is not `done`: then it is the caller's to undo.
    """
    try:
        if sys.stdout is None:
            raise _closed()
        sys.stdout.write(_printable(text) + "\n")
        sys.stdout.flush()
    except OSError as error:
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter fails at its end
        message = f"the answer cannot be written: {error.strerror}"
        raise StartError(f"{message}; it was: {text}" if done else message) from error


def _closed() -> OSError:
    return OSError(errno.EBADF, os.strerror(errno.EBADF))


def complain(text: str) -> None:
    """Print a line beside the answer, on standard error if there is one."""
    if sys.stderr is not None:
        sys.stderr.write(f"ecss-console: {_printable(text)}\n")


def _printable(text: str) -> str:
    """Return a text whose control characters are told and not sent: names come from files, too, of anybody."""
    return "".join(each if each.isprintable() or each in "\n\t" else ascii(each)[1:-1] for each in text)


async def record(
    query: Query,
    config: Config,
    command: str,
    given: Mapping[str, object],
    kind: EventKind = EventKind.USER_CHANGE,
) -> None:
    """Record a change made on the console's host, in the transaction of the change."""
    event = Event(
        kind=kind,
        at=utc_now(),
        node=config.node.name,
        user_name=_caller(),
        source="console host",
        session_id="",
        command=f"ecss-console {command}",
        arguments=json.dumps(given),
    )
    query.audit.add(event)


def _caller() -> str:
    """Return who runs the program, for the audit; a container's user may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
