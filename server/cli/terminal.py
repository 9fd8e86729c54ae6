"""Ask for secrets at the terminal, without echo."""

from __future__ import annotations

import getpass
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from server.errors import StartError


def asked(question: str, what: str, instead: str) -> str:
    """Ask for a secret at the terminal and return it. Raises StartError.

    `what` names the secret in errors, such as `password`. Without a terminal, the error gives the advice `instead`.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        message = f"there is no terminal to ask for the {what}: {instead}"
        raise StartError(message)
    try:
        with ended_at_once():
            return getpass.getpass(question)
    except UnicodeDecodeError:
        message = f"the {what} is no UTF-8 text"
        raise StartError(message) from None  # the original error shows the typed bytes
    except OSError as error:
        message = f"the {what} cannot be read from the terminal: {error.strerror}"
        raise StartError(message) from error


@contextmanager
def ended_at_once() -> Iterator[None]:
    """Let Ctrl-C end a blocking read; asyncio would delay Ctrl-C until the read returns."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
