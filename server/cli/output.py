"""The output of subcommands: results on standard output, warnings and errors on standard error."""

from __future__ import annotations

import errno
import os
import sys

from server.errors import StartError


def say(text: str, *, done: bool = True) -> None:
    """Print a result of one or more lines. Raises StartError when it cannot be written.

    The error message repeats the result, so that it is not lost. With `done=False` it does not, because the caller
    rolls back.
    """
    try:
        if sys.stdout is None:
            raise _closed()
        sys.stdout.write(_printable(text) + "\n")
        sys.stdout.flush()
    except OSError as error:
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise Python's flush at exit fails
        message = f"the answer cannot be written: {error.strerror}"
        raise StartError(f"{message}; it was: {text}" if done else message) from error


def _closed() -> OSError:
    return OSError(errno.EBADF, os.strerror(errno.EBADF))


def complain(text: str) -> None:
    """Print a warning or an error on standard error, if it is open."""
    if sys.stderr is not None:
        sys.stderr.write(f"ecss-console: {_printable(text)}\n")


def _printable(text: str) -> str:
    """Escape control characters, because names come from files that other users may have written."""
    return "".join(each if each.isprintable() or each in "\n\t" else ascii(each)[1:-1] for each in text)
