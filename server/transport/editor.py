"""The line editor for people: prompt_toolkit's keys and buffer over a `Tty`, drawn by `Screen`.

Made at the first key that is not part of a complete line, reused for all prompts of the session. prompt_toolkit reads
at most one line at a time and never writes: what stands on the screen is the `Screen`'s alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from prompt_toolkit.application import Application, create_app_session
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.layout import BufferControl, HSplit, Layout, SearchBufferControl, Window
from prompt_toolkit.output import DummyOutput
from prompt_toolkit.renderer import Renderer
from prompt_toolkit.search import SearchDirection, SearchState
from prompt_toolkit.styles import DummyStyle
from rich.cells import cell_len

from server.errors import OperatorError
from server.shell.completion import Completion
from server.shell.terminal import EndOfInputError, LineDroppedError
from server.transport.keys import Ending, QueueInput, ending_bindings
from server.transport.plain import PlainEditor
from server.transport.screen import Screen
from server.transport.tty import Tty

Complete = Callable[[str], Awaitable[Completion]]
Recall = Callable[[], Awaitable[list[str]]]

_MOST_EDITED_CHARACTERS = 1000
_MOST_LISTED = 100
#: What begins each colour of `prompt.colour`.
COLOURS = {"none": ""} | {
    name: f"\x1b[3{number}m"
    for number, name in enumerate(("red", "green", "yellow", "blue", "magenta", "cyan"), start=1)
}


class LineEditor:
    """Edits one line after another on one terminal."""

    def __init__(
        self, tty: Tty, size: tuple[int, int], complete: Complete, recall: Recall, colour: str = "none"
    ) -> None:
        """Take the terminal with its (columns, rows), what Tab asks, what gives the user's earlier lines.

        `colour` of the prompt is one of the configuration's names.
        """
        self._colour = COLOURS[colour]
        self._tty = tty
        self._columns, self._rows = size
        self._complete = complete
        self._recall = recall
        self._typed: list[str] = []
        self._running: _Running | None = None
        self._editing = False
        self._prompt = ""

    async def edit(self, prompt: str) -> str:
        """Return one line; the prompt is on the screen already. Raises EndOfInputError or LineDroppedError."""
        if self._tty.ended or len(self._tty) > _MOST_EDITED_CHARACTERS:
            return await PlainEditor(self._tty).edit(prompt)
        if self._running is None:
            self._running = _Running(self._tty, await self._recall())
        self._running.begin(self._typed)
        self._prompt = prompt
        self._editing = True
        try:
            return await self._line(self._running, prompt)
        finally:
            self._editing = False

    def painted(self, prompt: str) -> str:
        """Return the prompt in its colour; its last two characters have none, for those who look for `$ `."""
        return f"{self._colour}{prompt[:-2]}\x1b[0m{prompt[-2:]}" if self._colour else prompt

    def announce(self, text: str) -> bool:
        """Show a line of text, and the one that is edited below it; False when none is."""
        if self._running is None or not self._editing:
            return False
        self._running.announce(text, self._prompt, self.painted(self._prompt), self._columns)
        return True

    def remember(self, line: str) -> None:
        """Add a line to what the arrow keys bring back."""
        if line.strip() and line not in self._typed[-1:]:
            self._typed.append(line)

    def resize(self, columns: int, rows: int) -> None:
        """The terminal has another size now."""
        self._columns, self._rows = columns, rows
        if self._running is not None and self._editing:
            self._running.screen.resize(columns)

    async def _line(self, running: _Running, prompt: str) -> str:
        running.screen.begin(prompt, self._columns, self.painted(prompt))
        listed = ""
        while True:
            ending = await running.keys()
            text = running.buffer.text
            match ending:
                case Ending.ACCEPT:
                    running.screen.leave()
                    return text
                case Ending.DROP:
                    running.screen.leave("^C")
                    raise LineDroppedError
                case Ending.LEAVE:
                    running.screen.leave()
                    if text:
                        return text
                    raise EndOfInputError
                case Ending.TOO_LONG:
                    running.screen.show(text, len(text))
                    return await PlainEditor(self._tty).edit(prompt, text)
                case Ending.COMPLETE:
                    listed = await self._tab(running, prompt, listed)
                case Ending.EXPLAIN:
                    self._list(running, prompt, await self._found(running))

    async def _tab(self, running: _Running, prompt: str, tabbed: str) -> str:
        """Complete at the cursor; a second Tab at the same place lists the candidates. Returns the place."""
        here = running.buffer.document.text_before_cursor
        found = await self._found(running)
        if found.insert:
            running.buffer.insert_text(found.insert)
        elif here == tabbed:
            self._list(running, prompt, found)
        return here + found.insert

    async def _found(self, running: _Running) -> Completion:
        try:
            return await self._complete(running.buffer.document.text_before_cursor)
        except OperatorError:
            return Completion("", ())  # completion is a comfort: the command itself will say what is wrong

    def _list(self, running: _Running, prompt: str, found: Completion) -> None:
        """Show below the line what can come next, and the line once more below that."""
        if found.candidates or found.hints:
            running.screen.leave()
            painted = self.painted(prompt)
            self._tty.write(_listing(found, self._columns) + painted)
            running.screen.begin(prompt, self._columns, painted)


def _listing(found: Completion, columns: int) -> str:
    """Lay the candidates out one a line, each with its word of help; of paths, what their last segment can be."""
    shown = found.candidates[:_MOST_LISTED]
    words = [*found.hints, *((_last_segment(candidate.text), candidate.help) for candidate in shown)]
    width = max(cell_len(word) for word, _ in words)
    lines = [f"{word.ljust(width)}  {text}".rstrip()[: columns - 1] for word, text in words]
    if len(found.candidates) > len(shown):
        lines.append("… and more, type on")
    return "".join(f"{line}\n" for line in lines)


def _last_segment(path: str) -> str:
    return path[path.rstrip("/").rfind("/") + 1 :]


class _Buffer(Buffer):
    """A line that nobody remembers unless `LineEditor.remember` is told so: it may hold a secret."""

    def append_to_history(self) -> None:
        """Add nothing: `begin` adds what may be kept."""


class _Running:
    """prompt_toolkit's application for one session: its buffer, its input, and the screen that shows them."""

    def __init__(self, tty: Tty, lines: list[str]) -> None:
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
        if len(self.buffer.text) + more <= _MOST_EDITED_CHARACTERS:
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
