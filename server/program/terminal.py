"""What the program asks at a terminal: secrets, which are not echoed."""

from __future__ import annotations

import getpass
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from server.errors import StartError


def asked(question: str, what: str, instead: str) -> str:
    """Return the secret that somebody types, `what` it is; StartError says what to do `instead` of typing it."""
    if sys.stdin is None or not sys.stdin.isatty():
        message = f"there is no terminal to ask for the {what}: {instead}"
        raise StartError(message)
    try:
        with ended_at_once():
            return getpass.getpass(question)
    except UnicodeDecodeError:
        message = f"the {what} is no UTF-8 text"
        raise StartError(message) from None  # the other error shows what was typed


@contextmanager
def ended_at_once() -> Iterator[None]:
    """Let Ctrl-C end a wait for input: the event loop around it would take it for something to do when it is over."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
