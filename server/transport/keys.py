"""Keys on their way from a terminal's queue to prompt_toolkit, and those that end the editing of a line."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from prompt_toolkit.filters import is_searching
from prompt_toolkit.input import Input
from prompt_toolkit.input.vt100_parser import Vt100Parser
from prompt_toolkit.key_binding import KeyBindings, KeyPress
from prompt_toolkit.key_binding.key_processor import KeyPressEvent
from prompt_toolkit.keys import Keys

from server.transport.ending import Ending
from server.transport.tty import Tty

#: Characters after which no more is read before they have been acted on.
_STOPS = "\r\t\x03\x04"
_RUNS = re.compile(r"[^\x00-\x1f\x7f-\x9f]{2,}|[\s\S]")
_OPEN_ESCAPE = re.compile(r"\x1b(\[[0-9;?]*|O)?\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
#: What terminals report by themselves; without a binding it would be inserted as text.
_REPORTS = frozenset(
    {Keys.CPRResponse, Keys.Vt100MouseEvent, Keys.WindowsMouseEvent, Keys.Ignore, Keys.ScrollUp, Keys.ScrollDown}
)
_NOT_FOR_A_LINE = ("c-o", "c-q", "c-z")


def _visible(key: KeyPress) -> KeyPress:
    """Return text without the control characters that a paste may bring; they would be drawn."""
    if key.key == Keys.BracketedPaste or (len(key.data) == 1 and key.key == key.data):
        return KeyPress(key.key, _CONTROL.sub(" ", key.data))
    return key


def ending_bindings(tty: Tty) -> KeyBindings:
    """Return the bindings that end editing; the stock ones for Ctrl-C and Ctrl-D draw the line once more.

    While the history is searched, keys belong to the search.
    """
    bindings = KeyBindings()
    editing = ~is_searching

    @bindings.add("?", filter=editing)
    def _explain(event: KeyPressEvent) -> None:
        if len(tty) or event.current_buffer.document.text_before_cursor[-1:].strip():
            event.current_buffer.insert_text("?")
        else:
            event.app.exit(result=Ending.EXPLAIN)

    @bindings.add("c-c", filter=editing)
    def _drop(event: KeyPressEvent) -> None:
        event.app.exit(result=Ending.DROP)

    @bindings.add("c-d", filter=editing)
    def _leave(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.delete()
        else:
            event.app.exit(result=Ending.LEAVE)

    @bindings.add("tab", filter=editing)
    def _complete(event: KeyPressEvent) -> None:
        event.app.exit(result=Ending.COMPLETE)

    for key in _NOT_FOR_A_LINE:  # they would put control characters or a second line into the line

        @bindings.add(key)
        def _ignore(_event: KeyPressEvent) -> None:
            pass

    return bindings


class QueueInput(Input):
    """prompt_toolkit's input from the terminal's queue: at most one line at a time, runs of text as one insert."""

    def __init__(self, tty: Tty, takes: Callable[[int], bool]) -> None:
        """Take the terminal; `takes` is asked whether so many more characters may be read."""
        self._tty = tty
        self._takes = takes
        self._parsed: list[KeyPress] = []
        self._parser = Vt100Parser(self._parsed.append)
        self._open_escape = False

    def read_keys(self) -> list[KeyPress]:
        """Return the keys of the next part of the queue; the rest, if any, is announced again."""
        if not self._takes(len(self._tty)):
            return []
        text = self._tty.take_through(_STOPS)
        if self._open_escape:
            self._parser.feed(text)
        else:
            for run in _RUNS.findall(text) if "\x1b" not in text else [text]:
                self._feed(run)
        self._open_escape = _OPEN_ESCAPE.search(text) is not None
        if len(self._tty):
            asyncio.get_running_loop().call_soon(self._announce)
        return self._take()

    def flush_keys(self) -> list[KeyPress]:
        """Return what an escape that nothing follows turns out to be."""
        self._parser.flush()
        self._open_escape = False
        return self._take()

    def _announce(self) -> None:
        if self._tty.on_input is not None:
            self._tty.on_input()

    def _feed(self, run: str) -> None:
        if len(run) > 1 and "\x1b" not in run:
            self._parsed.append(KeyPress(Keys.BracketedPaste, run))
        else:
            self._parser.feed(run)

    def _take(self) -> list[KeyPress]:
        keys = [_visible(key) for key in self._parsed if key.key not in _REPORTS]
        self._parsed.clear()
        return keys

    @property
    def closed(self) -> bool:
        """Whether no more keys will come."""
        return self._tty.ended and not len(self._tty)

    @contextmanager
    def attach(self, input_ready_callback: Callable[[], None]) -> Iterator[None]:
        """Call back for what is queued now and for what comes."""
        self._tty.on_input = input_ready_callback
        if len(self._tty) or self._tty.ended:
            asyncio.get_running_loop().call_soon(self._announce)
        try:
            yield
        finally:
            self._tty.on_input = None

    @contextmanager
    def detach(self) -> Iterator[None]:
        """Nothing is attached outside of this class."""
        yield

    def raw_mode(self) -> AbstractContextManager[None]:
        """There is no terminal of ours to switch."""
        return self.detach()

    def cooked_mode(self) -> AbstractContextManager[None]:
        """There is no terminal of ours to switch."""
        return self.detach()

    def fileno(self) -> int:
        """There is no file descriptor."""
        raise NotImplementedError

    def typeahead_hash(self) -> str:
        """Keep one session's keys from another."""
        return f"tty-{id(self)}"

    def close(self) -> None:
        """The terminal is closed by its channel."""
