"""Patches of prompt_toolkit for a server with many sessions. Only this module uses its internals.

The tests of this module fail when a new version of prompt_toolkit changes a patched part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from prompt_toolkit.application import application
from prompt_toolkit.buffer import Buffer, EditReadOnlyBuffer
from prompt_toolkit.document import Document
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyBindingsBase, KeyPress
from prompt_toolkit.search import SearchDirection, SearchState

from server.transport.terminal.bindings import shared_bindings

#: The number of undo states of a line.
_MOST_UNDONE = 50


def apply_patches() -> None:
    """Replace functions that use global state or repeat work for each application.

    It is safe to call twice.
    """
    for name, replacement in REPLACED.items():
        setattr(application, name, replacement)


class BoundedBuffer(Buffer):
    """A line of limited length that does not record a history.

    The session decides which lines to keep, because a line may hold a secret. No key can insert text beyond the limit:
    no yank, no completion, no word of an earlier line. A recalled line may be longer, but can then only be shortened.
    """

    def __init__(self, most_characters: int, accept_handler: Callable[[Buffer], bool] | None = None) -> None:
        """Take the limit, and the function that Enter calls."""
        self._most_characters = most_characters
        super().__init__(enable_history_search=True, multiline=False, accept_handler=accept_handler)

    def append_to_history(self) -> None:
        """Do nothing: the session keeps the history."""

    def set_document(self, value: Document, bypass_readonly: bool = False) -> None:  # noqa: FBT001, FBT002
        """Set text and cursor.

        Raises EditReadOnlyBuffer for a text that is too long, which ends the key's command.
        """
        if len(self.text) < len(value.text) > self._most_characters:
            raise EditReadOnlyBuffer
        super().set_document(value, bypass_readonly)

    def save_to_undo_stack(self, clear_redo_stack: bool = True) -> None:  # noqa: FBT001, FBT002
        """Save the state for undo, and drop the oldest states beyond the limit."""
        super().save_to_undo_stack(clear_redo_stack)
        del self._undo_stack[:-_MOST_UNDONE]

    def _search(
        self,
        search_state: SearchState,
        include_current_position: bool = False,  # noqa: FBT001, FBT002
        count: int = 1,  # noqa: ARG002  no key repeats a search
    ) -> tuple[int, int] | None:
        """Return the line and the position of the next match.

        prompt_toolkit's own search creates objects for every line at every key, which takes milliseconds.
        """
        text, lines, at = search_state.text, list(self._working_lines), self.working_index
        cursor = self.cursor_position
        if search_state.direction == SearchDirection.BACKWARD:
            place = lines[at].rfind(text, 0, cursor)
            others = [*range(at - 1, -1, -1), len(lines) - 1]
        else:
            place = lines[at].find(text, cursor + (not include_current_position))
            others = [*range(at + 1, len(lines)), 0]
        if place >= 0:
            return at, place
        found = next((each for each in others if text in lines[each]), None)
        if found is None:
            return None
        place = (
            lines[found].rfind(text) if search_state.direction == SearchDirection.BACKWARD else lines[found].find(text)
        )
        return found, place


@cache
def _no_bindings() -> KeyBindingsBase:
    """Replace the key bindings for scrolling pages, which the editor does not have."""
    return KeyBindings()


@contextmanager
def _no_signal_handler(_handler: Callable[[], None]) -> Iterator[None]:
    """Replace the SIGWINCH handler: no session uses the terminal of the process."""
    yield


def _no_typeahead(_input: Input, _keys: Sequence[KeyPress] = ()) -> list[KeyPress]:
    """Replace the global store of typed-ahead keys, which never forgets a session. A `Tty` keeps the keys."""
    return []


#: The names in prompt_toolkit's application module, and their replacements.
REPLACED: dict[str, object] = {
    "attach_winch_signal_handler": _no_signal_handler,
    "load_key_bindings": shared_bindings,
    "load_page_navigation_bindings": _no_bindings,
    "get_typeahead": _no_typeahead,
    "store_typeahead": _no_typeahead,
}
