"""What ends a word of the program in the midst: Ctrl-C, and signals that would leave copies of the store behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, with KeyboardInterrupt; what is ignored stays so."""
    before = {number: signal.getsignal(number) for number in _ENDING}
    for number, handler in before.items():
        if handler is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def go_through() -> None:
    """Ignore them up to the end of that block: from here on `nothing was changed` would be wrong."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
