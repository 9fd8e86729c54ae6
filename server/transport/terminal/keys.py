"""Feed prompt_toolkit from a terminal's queue, and define the keys that stop the editor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from prompt_toolkit.filters import Condition, is_searching
from prompt_toolkit.input import Input
from prompt_toolkit.input.ansi_escape_sequences import ANSI_SEQUENCES
from prompt_toolkit.key_binding import KeyBindings, KeyPress
from prompt_toolkit.key_binding.key_processor import KeyPressEvent
from prompt_toolkit.keys import Keys

from server.transport.terminal.bindings import ALT_CHARACTERS, HISTORY_KEYS
from server.transport.terminal.editor_stop import EditorStop
from server.transport.terminal.sequences import PASTE_BEGINS, PASTE_ENDS, is_text, piece_at
from server.transport.terminal.tty import INTERRUPT, Tty

#: More queued characters than a person types ahead. Then the keys take turns with those of other sessions.
_MANY_CHARACTERS = 16
#: The most characters of text that are inserted at once.
_MOST_CHARACTERS_AT_ONCE = 1024
_ESCAPE = "\x1b"


def stop_bindings(tty: Tty, again: Callable[[list[KeyPress]], None], has_history: Callable[[], bool]) -> KeyBindings:
    """Return the bindings that stop the editor.

    prompt_toolkit's own Ctrl-C and Ctrl-D would draw the line again. During a search these bindings are off. The first
    key that needs the earlier lines stops the editor until they are loaded. It is passed to `again`.
    """
    bindings = KeyBindings()
    editing = ~is_searching
    no_history = Condition(lambda: not has_history())

    @bindings.add("?", filter=editing)
    def _explain(event: KeyPressEvent) -> None:
        if len(tty) or tty.ended or event.current_buffer.document.text_before_cursor[-1:].strip():
            event.current_buffer.insert_text("?")
        else:
            event.app.exit(result=EditorStop.EXPLAIN)

    @bindings.add("c-c", filter=editing)
    def _drop(event: KeyPressEvent) -> None:
        event.app.exit(result=EditorStop.DROP)

    @bindings.add("c-d", filter=editing)
    def _leave(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.delete()
        else:
            event.app.exit(result=EditorStop.LEAVE)

    @bindings.add("tab", filter=editing)
    def _complete(event: KeyPressEvent) -> None:
        event.app.exit(result=EditorStop.COMPLETE)

    for keys in HISTORY_KEYS:

        @bindings.add(*keys, filter=no_history, save_before=lambda _event: False)
        def _recall(event: KeyPressEvent) -> None:
            again(event.key_sequence)
            event.app.exit(result=EditorStop.RECALL)

    return bindings


def key_presses(piece: str) -> list[KeyPress]:
    """Return the key presses for a piece of input, or none for an unknown key.

    A run of text becomes a single insertion, like a paste, because prompt_toolkit keeps an object for each key.
    """
    if piece == "?":
        return [KeyPress(piece)]
    if is_text(piece):
        return [KeyPress(Keys.BracketedPaste, piece)]
    known = ANSI_SEQUENCES.get(piece)
    if known is not None:
        return [KeyPress(key, "") for key in (known if isinstance(known, tuple) else (known,))]
    alt = ANSI_SEQUENCES.get(piece[1:], piece[1:])
    return [KeyPress(Keys.Escape, ""), KeyPress(alt, "")] if alt in ALT_CHARACTERS else []


class QueueInput(Input):
    """prompt_toolkit's input, read from the queue of a terminal.

    It reads one key or one run of text per iteration of the event loop. Many queued keys wait for the turns of their
    user. So packets full of keys do not delay other sessions, however many sessions send them. Keys for the next reader
    stay in the queue.
    """

    def __init__(self, tty: Tty, takes: Callable[[int], bool]) -> None:
        """Take the terminal. `takes(n)` tells whether the editor takes n more characters."""
        self._tty = tty
        self._takes = takes
        self._again: list[KeyPress] = []
        self._pasting = self._announced = False
        self._ready: Callable[[], None] | None = None
        self._waiting: asyncio.Future[None] | None = None

    def begin(self) -> None:
        """Begin a new line."""
        self._again, self._pasting = [], False

    def again(self, keys: list[KeyPress]) -> None:
        """Read these keys again, before all others."""
        self._again = keys

    def read_keys(self) -> list[KeyPress]:
        """Return the next key of the queue, and announce the rest."""
        if not self._takes(0):
            return []
        if self._again:
            keys, self._again = self._again, []
            self._announce_what_waits()
            return keys
        if not self._tty.is_writable:
            return []  # the client does not read its output; the terminal calls back when it does
        queued = self._tty.peek(_MOST_CHARACTERS_AT_ONCE)
        piece = piece_at(queued, 0) if queued else ""
        if queued and not piece and self._tty.ended:
            piece = _ESCAPE
        return self._read(piece) if piece else []

    def flush_keys(self) -> list[KeyPress]:
        """Return the Escape key if no other character has followed an escape character in time."""
        queued = self._tty.peek(_MOST_CHARACTERS_AT_ONCE)
        if not queued or piece_at(queued, 0) or not self._takes(0):
            return []
        return self._read(_ESCAPE)

    def _read(self, piece: str) -> list[KeyPress]:
        """Take a piece from the queue and return its keys."""
        meant = self._meant(piece)
        if is_text(meant) and not self._takes(len(meant)):
            return []
        self._tty.take(len(piece))
        self._announce_what_waits()
        return key_presses(meant)

    def _meant(self, piece: str) -> str:
        """Return the piece, or a blank for a tab or control character that is part of a text.

        A tab is a blank when the end of its line has arrived. A bracketed paste is text up to its end mark or the end
        of the line. Some terminals send one, although the server never enables the mode.
        """
        if piece in {PASTE_BEGINS, PASTE_ENDS}:
            self._pasting = piece == PASTE_BEGINS
        elif piece in {"\r", INTERRUPT}:
            self._pasting = False
        pasted = self._pasting and len(piece) == 1 and not is_text(piece)
        ended = piece == "\t" and self._tty.has_line_end
        return " " if pasted or ended else piece

    def _announce_what_waits(self) -> None:
        if len(self._tty) or self._tty.ended or self._again:
            self._announce_soon()

    def _announce_soon(self) -> None:
        """Announce keys once in the next iteration.

        Otherwise each packet would add one more key per iteration.
        """
        if not self._announced:
            self._announced = True
            if len(self._tty) > _MANY_CHARACTERS:
                self._waiting = asyncio.ensure_future(self._announce_in_turn())
            else:
                asyncio.get_running_loop().call_soon(self._announce)

    async def _announce_in_turn(self) -> None:
        await self._tty.turn()
        self._announce()

    def _announce(self) -> None:
        self._announced = False
        if self._ready is not None:
            self._ready()

    @property
    def closed(self) -> bool:
        """Whether no more keys will come."""
        return self._tty.ended and not len(self._tty) and not self._again

    @contextmanager
    def attach(self, input_ready_callback: Callable[[], None]) -> Iterator[None]:
        """Call back for queued input and for new input."""
        self._ready, self._tty.on_input = input_ready_callback, self._announce_soon
        self._announce_what_waits()
        try:
            yield
        finally:
            self._ready = self._tty.on_input = None

    @contextmanager
    def detach(self) -> Iterator[None]:
        """Do nothing: no other application is attached."""
        yield

    def raw_mode(self) -> AbstractContextManager[None]:
        """Do nothing: the server has no terminal to switch."""
        return self.detach()

    def cooked_mode(self) -> AbstractContextManager[None]:
        """Do nothing: the server has no terminal to switch."""
        return self.detach()

    def fileno(self) -> int:
        """Raise NotImplementedError: there is no file descriptor."""
        raise NotImplementedError

    def typeahead_hash(self) -> str:
        """Return a name that is unique to this session."""
        return f"tty-{id(self)}"

    def close(self) -> None:
        """Do nothing: the channel closes the terminal."""
