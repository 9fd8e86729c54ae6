"""prompt_toolkit's application for one session. Imported when the console listens already: see `editor.prepare`."""

from __future__ import annotations

from typing import Any

from prompt_toolkit.application import Application, create_app_session
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.layout import BufferControl, HSplit, Layout, SearchBufferControl, Window
from prompt_toolkit.output import DummyOutput
from prompt_toolkit.renderer import Renderer
from prompt_toolkit.search import SearchDirection, SearchState
from prompt_toolkit.styles import DummyStyle

from server.transport.ending import Ending
from server.transport.keys import QueueInput, ending_bindings
from server.transport.screen import Screen
from server.transport.tty import Tty


class _Buffer(Buffer):
    """A line that nobody remembers unless `LineEditor.remember` is told so: it may hold a secret."""

    def append_to_history(self) -> None:
        """Add nothing: `begin` adds what may be kept."""


class Editing:
    """prompt_toolkit's application for one session: its buffer, its input, and the screen that shows them."""

    def __init__(self, tty: Tty, lines: list[str], most_characters: int) -> None:
        """Take the terminal and the user's earlier lines; one that grows longer goes on in the plain editor."""
        self._most_characters = most_characters
        self.input = QueueInput(tty, self._takes)
        self.screen = Screen(tty.write)
        self._history = InMemoryHistory(lines)
        self._added = 0
        self.buffer = _Buffer(
            history=self._history, enable_history_search=True, multiline=False, accept_handler=self._accept
        )
        searched = SearchBufferControl(Buffer(multiline=False))
        self._line = BufferControl(buffer=self.buffer, search_buffer_control=searched, preview_search=True)
        self._application: Application[Ending] = Application(
            layout=Layout(HSplit([Window(self._line), Window(searched)])),
            key_bindings=ending_bindings(tty),
            include_default_pygments_style=False,
            enable_page_navigation_bindings=False,
            terminal_size_polling_interval=None,
            input=self.input,
            output=DummyOutput(),
        )
        self._application.renderer = _ScreenRenderer(self.screen, self._line)

    def begin(self, lines: list[str]) -> None:
        """Begin a new line; `lines` were typed since the session began, behind those from earlier sessions."""
        for line in lines[self._added :]:
            if line not in self._history.get_strings()[-1:]:
                self._history.append_string(line)
        self._added = len(lines)
        self.buffer.reset()

    async def keys(self) -> Ending:
        """Act on keys until one of them, or the end of input, ends that."""
        try:
            # without a session of its own, prompt_toolkit keeps one current application for the whole process, and
            # the keys of one terminal would act in another
            with create_app_session(input=self.input, output=self._application.output):
                return await self._application.run_async(
                    pre_run=self.buffer.load_history_if_not_yet_loaded,
                    set_exception_handler=False,
                    handle_sigint=False,
                )
        except EOFError:
            return Ending.LEAVE

    def announce(self, text: str, prompt: str, painted: str, columns: int) -> None:
        """Show a line of text below what is edited, and that once more below the text."""
        self.screen.leave()
        self.screen.write(f"{text}\n{painted}")
        self.screen.begin(prompt, columns, painted)
        self.screen.show(self.buffer.text, self.buffer.cursor_position)

    def _takes(self, more: int) -> bool:
        """Tell whether so many more characters may be read now; the rest stays in the queue."""
        if self._application.is_done:
            return False
        if len(self.buffer.text) + more <= self._most_characters:
            return True
        self._application.exit(result=Ending.TOO_LONG)
        return False

    def _accept(self, _buffer: Buffer) -> bool:
        self._application.exit(result=Ending.ACCEPT)
        return True


class _ScreenRenderer(Renderer):
    """Stands where prompt_toolkit draws its layout: there is one line, and the `Screen` shows it."""

    def __init__(self, screen: Screen, control: BufferControl) -> None:
        super().__init__(DummyStyle(), DummyOutput())
        self._line = screen
        self._control = control

    def render(self, app: Application[Any], layout: Layout, is_done: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        buffer, search = self._control.buffer, self._control.search_buffer_control
        if search is not None and layout.current_control is search and not is_done:
            found = buffer.document_for_search(SearchState(search.buffer.text, SearchDirection.BACKWARD))
            self._line.search(search.buffer.text, found.text)
        else:
            self._line.show(buffer.text, buffer.cursor_position)

    def erase(self, leave_alternate_screen: bool = True) -> None:  # noqa: FBT001, FBT002
        """Nothing is erased behind the screen's back."""

    def clear(self) -> None:
        self._line.clear()
