"""What of prompt_toolkit must be off in a server with many sessions; the only place that reaches into it.

Its tests fail when a new prompt_toolkit moves what is replaced here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from prompt_toolkit.application import application
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyBindingsBase, KeyPress, merge_key_bindings
from prompt_toolkit.key_binding.bindings.basic import load_basic_bindings
from prompt_toolkit.key_binding.bindings.emacs import load_emacs_bindings, load_emacs_search_bindings


def quieten() -> None:
    """Replace what is process-wide or made anew for each application; safe to call again."""
    for name, replacement in REPLACED.items():
        setattr(application, name, replacement)


@cache
def shared_bindings() -> KeyBindingsBase:
    """Return the emacs bindings, one set for all sessions: the stock loader makes six merged sets for each."""
    return merge_key_bindings([load_basic_bindings(), load_emacs_bindings(), load_emacs_search_bindings()])


@cache
def _no_bindings() -> KeyBindingsBase:
    """Stand in for the keys that turn pages: there are none to turn."""
    return KeyBindings()


@contextmanager
def _no_signal_handler(_handler: Callable[[], None]) -> Iterator[None]:
    """Stand in for the SIGWINCH handler: the process's own terminal is nobody's here."""
    yield


def _no_typeahead(_input: Input, _keys: Sequence[KeyPress] = ()) -> list[KeyPress]:
    """Stand in for the store of keys typed ahead: a `Tty` keeps them, and that store never forgets a session."""
    return []


#: Names in prompt_toolkit's application module, and what stands there in a server.
REPLACED: dict[str, object] = {
    "attach_winch_signal_handler": _no_signal_handler,
    "load_key_bindings": shared_bindings,
    "load_page_navigation_bindings": _no_bindings,
    "get_typeahead": _no_typeahead,
    "store_typeahead": _no_typeahead,
}
