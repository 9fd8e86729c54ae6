"""What of prompt_toolkit is replaced in a server with many sessions; the only place that reaches into it.

Its tests fail when a new prompt_toolkit moves what is replaced here.
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

from server.transport.bindings import shared_bindings

#: So many states of a line can be undone.
_MOST_UNDONE = 50


def quieten() -> None:
    """Replace what is process-wide or made anew for each application; safe to call again."""
    for name, replacement in REPLACED.items():
        setattr(application, name, replacement)


class BoundedBuffer(Buffer):
    """A line of bounded length that is in no history: it may hold a secret, and the session knows what is kept.

    No key inserts beyond the limit: not a yank, a completion, or a word of an earlier line. A longer earlier line can
    be recalled, and only shortened.
    """

    def __init__(self, most_characters: int, accept_handler: Callable[[Buffer], bool] | None = None) -> None:
        """Take the limit, and for the line itself what Enter calls."""
        self._most_characters = most_characters
        super().__init__(enable_history_search=True, multiline=False, accept_handler=accept_handler)

    def append_to_history(self) -> None:
        """Add nothing."""

    def set_document(self, value: Document, bypass_readonly: bool = False) -> None:  # noqa: FBT001, FBT002
        """Set text and cursor; a text that is too long ends the command of the key, and changes nothing."""
        if len(self.text) < len(value.text) > self._most_characters:
            raise EditReadOnlyBuffer
        super().set_document(value, bypass_readonly)

    def save_to_undo_stack(self, clear_redo_stack: bool = True) -> None:  # noqa: FBT001, FBT002
        """Save the state for undo, and forget the oldest beyond the limit."""
        super().save_to_undo_stack(clear_redo_stack)
        del self._undo_stack[:-_MOST_UNDONE]

    def _search(
        self,
        search_state: SearchState,
        include_current_position: bool = False,  # noqa: FBT001, FBT002
        count: int = 1,  # noqa: ARG002  no key repeats a search
    ) -> tuple[int, int] | None:
        """Return the line and the place in it that is found next.

        The stock search makes documents and expressions of every line at every key, which takes milliseconds.
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
