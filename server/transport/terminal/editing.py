"""prompt_toolkit's application for one session.

`editor.prepare` imports this module late, because that is slow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prompt_toolkit.application import Application, create_app_session
from prompt_toolkit.buffer import Buffer, EditReadOnlyBuffer
from prompt_toolkit.clipboard import InMemoryClipboard
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.layout import BufferControl, HSplit, Layout, SearchBufferControl, Window
from prompt_toolkit.output import DummyOutput
from prompt_toolkit.renderer import Renderer
from prompt_toolkit.search import SearchDirection, SearchState
from prompt_toolkit.styles import DummyStyle

from server.transport.terminal.editor_stop import EditorStop
from server.transport.terminal.keys import QueueInput, stop_bindings
from server.transport.terminal.prompt_toolkit_patches import BoundedBuffer
from server.transport.terminal.screen import Screen
from server.transport.terminal.tty import Tty

#: The number of killed texts that can be yanked. Each may be as long as a line.
_MOST_KILLED = 10
#: The longest text to search for. The time of a search grows with its length times the length of the line.
_MOST_SEARCHED_CHARACTERS = 100


class Editing:
    """prompt_toolkit's application for one session: its buffer, its input, and the screen that shows them."""

    def __init__(self, tty: Tty, most_characters: int, *, reflows: bool) -> None:
        """Take the terminal. A line longer than `most_characters` continues in the plain editor.

        `reflows` tells whether the terminal rewraps its rows when its width changes.
        """
        self._most_characters = most_characters
        self._recalled = False
        self.input = QueueInput(tty, self._takes)
        self.screen = Screen(tty.write, reflows=reflows)
        self.buffer = BoundedBuffer(most_characters, self._accept)
        searched = SearchBufferControl(BoundedBuffer(_MOST_SEARCHED_CHARACTERS))
        self._line = BufferControl(buffer=self.buffer, search_buffer_control=searched, preview_search=True)
        self._application: Application[EditorStop] = Application(
            layout=Layout(HSplit([Window(self._line), Window(searched)])),
            key_bindings=stop_bindings(tty, self.input.again, lambda: self._recalled),
            clipboard=InMemoryClipboard(max_size=_MOST_KILLED),
            include_default_pygments_style=False,
            enable_page_navigation_bindings=False,
            terminal_size_polling_interval=None,
            input=self.input,
            output=DummyOutput(),
        )
        self._application.renderer = _ScreenRenderer(self.screen, self._line, most_characters)
        self._application.key_processor.after_key_press += self._check

    def begin(self) -> None:
        """Begin a new line. Earlier lines are read when a key needs them."""
        self._recalled = False
        self.input.begin()
        self.buffer.history = InMemoryHistory()
        self.buffer.reset()
        self._application.layout.focus(self._line)

    def recall(self, lines: Sequence[str]) -> None:
        """Use these earlier lines, the oldest first, until the line is finished."""
        self._recalled = True
        self.buffer.history = InMemoryHistory(lines)

    async def keys(self) -> EditorStop:
        """Handle keys until one of them, or the end of input, stops the editor."""
        try:
            # without its own session, prompt_toolkit has one current application for the whole process, and keys typed
            # at one terminal would act in another
            with create_app_session(input=self.input, output=self._application.output):
                return await self._application.run_async(
                    pre_run=self.buffer.load_history_if_not_yet_loaded if self._recalled else None,
                    set_exception_handler=False,
                    handle_sigint=False,
                )
        except EOFError:
            return EditorStop.LEAVE

    def insert(self, text: str) -> None:
        """Insert text at the cursor, if it fits."""
        try:
            self.buffer.insert_text(text)
        except EditReadOnlyBuffer:
            return

    def announce(self, text: str, prompt: str, painted: str, columns: int) -> None:
        """Show a line of text, then the edited line again."""
        self.screen.leave()
        self.screen.write(f"{text}\n{painted}")
        self.screen.begin(prompt, columns, painted)
        self.screen.show(self.buffer.text, self.buffer.cursor_position)

    def _takes(self, more: int) -> bool:
        """Tell whether the editor takes `more` characters now. Otherwise they stay in the queue."""
        if self._application.is_done:
            return False
        # during a search the text to search for has its own limit, and no match is chosen yet
        if self._application.layout.is_searching or len(self.buffer.text) + more <= self._most_characters:
            return True
        self._application.exit(result=EditorStop.TOO_LONG)
        return False

    def _check(self, _sender: object) -> None:
        """Stop for the plain editor when a recalled line is too long."""
        self._takes(0)

    def _accept(self, _buffer: Buffer) -> bool:
        self._application.exit(result=EditorStop.ACCEPT)
        return True


class _ScreenRenderer(Renderer):
    """Replaces the renderer of prompt_toolkit: the `Screen` draws the only line."""

    def __init__(self, screen: Screen, control: BufferControl, most_characters: int) -> None:
        super().__init__(DummyStyle(), DummyOutput())
        self._line = screen
        self._control = control
        self._most_characters = most_characters

    def render(self, app: Application[Any], layout: Layout, is_done: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        buffer, search = self._control.buffer, self._control.search_buffer_control
        if search is not None and layout.current_control is search and not is_done:
            found = buffer.document_for_search(SearchState(search.buffer.text, SearchDirection.BACKWARD))
            self._line.search(search.buffer.text, found.text[: self._most_characters])
        elif len(buffer.text) <= self._most_characters:  # the plain editor shows a longer line
            self._line.show(buffer.text, buffer.cursor_position)

    def erase(self, leave_alternate_screen: bool = True) -> None:  # noqa: FBT001, FBT002
        """Do nothing: only the screen erases."""

    def clear(self) -> None:
        self._line.clear()
