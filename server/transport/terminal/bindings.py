"""The key bindings of the line editor: the allow-list in docs/automation.md.

prompt_toolkit's default bindings can repeat a command any number of times, replay macros, start programs and insert
control characters. All sessions share the bindings of this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from prompt_toolkit.filters import is_searching
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.key_binding.bindings import search
from prompt_toolkit.key_binding.bindings.named_commands import get_by_name
from prompt_toolkit.key_binding.key_processor import KeyPressEvent
from prompt_toolkit.keys import Keys

#: One key press, or Escape (Alt) and another key.
_Key = tuple[Keys | str, ...]
_ALT = Keys.Escape

#: The commands by their readline name, with their keys.
_COMMANDS: dict[str, Sequence[_Key]] = {
    "beginning-of-line": [(Keys.Home,), (Keys.ControlA,)],
    "end-of-line": [(Keys.End,), (Keys.ControlE,)],
    "backward-char": [(Keys.Left,), (Keys.ControlB,)],
    "forward-char": [(Keys.Right,), (Keys.ControlF,)],
    "backward-word": [(Keys.ControlLeft,), (_ALT, Keys.Left), (_ALT, "b")],
    "forward-word": [(Keys.ControlRight,), (_ALT, Keys.Right), (_ALT, "f")],
    "unix-word-rubout": [(Keys.ControlW,)],
    "backward-kill-word": [(_ALT, Keys.Backspace)],
    "kill-word": [(_ALT, "d")],
    "kill-line": [(Keys.ControlK,)],
    "unix-line-discard": [(Keys.ControlU,)],
    "yank": [(Keys.ControlY,)],
    "yank-pop": [(_ALT, "y")],
    "transpose-chars": [(Keys.ControlT,)],
    "clear-screen": [(Keys.ControlL,)],
    "accept-line": [(Keys.Enter,)],
}
#: Commands that save only one undo state for several presses in a row.
_ONCE: dict[str, Sequence[_Key]] = {
    "backward-delete-char": [(Keys.Backspace,)],
    "delete-char": [(Keys.Delete,)],
}
#: Commands that need the earlier lines of the user.
_HISTORY: dict[str, Sequence[_Key]] = {
    "previous-history": [(Keys.Up,), (Keys.ControlP,), (Keys.PageUp,)],
    "next-history": [(Keys.Down,), (Keys.ControlN,), (Keys.PageDown,)],
    "beginning-of-history": [(_ALT, "<")],
    "end-of-history": [(_ALT, ">")],
    "yank-last-arg": [(_ALT, ".")],
}
#: Keys that need the earlier lines. The first of these keys reads the lines from the store.
HISTORY_KEYS: tuple[_Key, ...] = (*(key for keys in _HISTORY.values() for key in keys), (Keys.ControlR,))
#: The keys that may follow Escape. The editor ignores all other Alt keys.
ALT_CHARACTERS = frozenset(key[1] for keys in (*_COMMANDS.values(), *_HISTORY.values()) for key in keys if len(key) > 1)


@cache
def shared_bindings() -> KeyBindings:
    """Return the bindings of all sessions."""
    bindings = KeyBindings()
    for name, keys in (*_COMMANDS.items(), *_HISTORY.items()):
        for key in keys:
            bindings.add(*key)(get_by_name(name))
    for name, keys in _ONCE.items():
        for key in keys:
            bindings.add(*key, save_before=_not_in_a_row)(get_by_name(name))
    bindings.add(Keys.ControlUnderscore, save_before=_never)(get_by_name("undo"))
    bindings.add(Keys.BracketedPaste, save_before=_not_in_a_row)(_insert)
    bindings.add(Keys.ControlR)(search.start_reverse_incremental_search)
    _add_search(bindings)
    return bindings


def _add_search(bindings: KeyBindings) -> None:
    """Add the keys that have another meaning during a search."""
    for key in (Keys.ControlR, Keys.Up):
        bindings.add(key)(search.reverse_incremental_search)
    for key in (Keys.ControlS, Keys.Down):
        bindings.add(key)(search.forward_incremental_search)
    for key in (Keys.ControlC, Keys.ControlG):
        bindings.add(key)(search.abort_search)
    bindings.add(Keys.Enter)(search.accept_search)
    bindings.add(Keys.Escape, eager=True)(search.accept_search)
    bindings.add("?", filter=is_searching)(_insert)


def _not_in_a_row(event: KeyPressEvent) -> bool:
    return not event.is_repeat


def _never(_event: KeyPressEvent) -> bool:
    return False


def _insert(event: KeyPressEvent) -> None:
    event.current_buffer.insert_text(event.data)
