"""What of prompt_toolkit must be off in a server with many sessions; the only place that reaches into it.

Its tests fail when a new prompt_toolkit moves what is replaced here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from prompt_toolkit.application import application
from prompt_toolkit.key_binding import KeyBindingsBase, merge_key_bindings
from prompt_toolkit.key_binding.bindings.basic import load_basic_bindings
from prompt_toolkit.key_binding.bindings.emacs import load_emacs_bindings

REPLACED = ("attach_winch_signal_handler", "load_key_bindings", "load_page_navigation_bindings")


def quieten() -> None:
    """Replace what is process-wide or made anew for each application; safe to call again."""
    setattr(application, REPLACED[0], _no_signal_handler)
    setattr(application, REPLACED[1], shared_bindings)
    setattr(application, REPLACED[2], shared_bindings)


@cache
def shared_bindings() -> KeyBindingsBase:
    """Return the emacs bindings, one set for all sessions: the stock loader makes six merged sets for each."""
    return merge_key_bindings([load_basic_bindings(), load_emacs_bindings()])


@contextmanager
def _no_signal_handler(_handler: Callable[[], None]) -> Iterator[None]:
    """Stand in for the SIGWINCH handler: the process's own terminal is nobody's here."""
    yield
