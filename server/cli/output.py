"""What a subcommand prints: its answer on standard output, warnings and errors on standard error."""

from __future__ import annotations

import errno
import os
import sys

from server.errors import StartError


def say(text: str, *, done: bool = True) -> None:
    """Print an answer of one or more lines; raises StartError when it cannot be written.

    The error repeats the answer, so that it is not lost. With `done=False` the caller undoes its work instead.
    """
    try:
        if sys.stdout is None:
            raise _closed()
        sys.stdout.write(_printable(text) + "\n")
        sys.stdout.flush()
    except OSError as error:
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter's last flush fails
        message = f"the answer cannot be written: {error.strerror}"
        raise StartError(f"{message}; it was: {text}" if done else message) from error


def _closed() -> OSError:
    return OSError(errno.EBADF, os.strerror(errno.EBADF))


def complain(text: str) -> None:
    """Print a warning or an error on standard error, if it is open."""
    if sys.stderr is not None:
        sys.stderr.write(f"ecss-console: {_printable(text)}\n")


def _printable(text: str) -> str:
    """Escape control characters: names come from files that anybody may have written."""
    return "".join(each if each.isprintable() or each in "\n\t" else ascii(each)[1:-1] for each in text)
