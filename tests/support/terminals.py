"""A person at a terminal, and terminals without a server, for tests of editors and readers."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence

from console import PROMPT, ConsoleServer

from server.shell.completion import Completion
from server.transport.terminal.editor import LineEditor
from server.transport.terminal.reader import LineReader
from server.transport.terminal.tty import Tty

PERSON = {"client_version": "OpenSSH_9.9"}  # gets the line editor, as people do


async def no_completion(_text: str) -> Completion:
    """Offer nothing."""
    return Completion("", ())


class Sink:
    """A channel that keeps the sent text."""

    def __init__(self) -> None:
        self.sent = b""

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.sent += data

    def pause_reading(self) -> None:
        """Go on sending."""

    def resume_reading(self) -> None:
        """Go on sending."""


def a_terminal(earlier: Sequence[str] = ()) -> tuple[Tty, Sink, LineEditor, LineReader]:
    """Return a person's terminal."""

    async def recall() -> Sequence[str]:
        return earlier

    sink = Sink()
    tty = Tty(sink, pty=True, interrupt=lambda: None)
    editor = LineEditor(tty, (80, 24), no_completion, recall)
    return tty, sink, editor, LineReader(tty, editor)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that has no event."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def typed(tty: Tty, *keys: str) -> None:
    """Type keys one by one, each after the one before has been handled."""
    for key in keys:
        tty.feed(key.encode())
        await until(lambda: not len(tty))
        for _ in range(3):  # the line editor leaves and enters prompt_toolkit for some keys
            await asyncio.sleep(0)


class Person:
    """A person at a tmux terminal."""

    def __init__(self, console: ConsoleServer, socket: str, columns: int = 100, rows: int = 30) -> None:
        self._tmux = ["tmux", "-S", socket, "-f", "/dev/null"]
        command = shlex.join(console.ssh_words()) + "; echo status $?; sleep 60"
        self._run("new-session", "-d", "-s", "t", "-x", str(columns), "-y", str(rows), command)
        self.sees(PROMPT.rstrip())

    def _run(self, *words: str) -> str:
        ran = subprocess.run([*self._tmux, *words], capture_output=True, text=True, check=True)
        return ran.stdout

    def types(self, *keys: str) -> None:
        """Press keys, as tmux names them; text in one piece for each word."""
        for key in keys:
            self._run("send-keys", "-t", "t", "--", key)
            time.sleep(0.05)

    def pastes(self, text: str) -> None:
        """Paste as a terminal does."""
        self._run("set-buffer", text)
        self._run("paste-buffer", "-t", "t")

    def screen(self, *, colours: bool = False) -> str:
        """Return the terminal's display without the empty rows below."""
        return self._run("capture-pane", "-t", "t", "-p", *(["-e"] if colours else [])).rstrip("\n")

    def everything(self) -> str:
        """Return all output since the terminal was opened, with rows that scrolled off."""
        return self._run("capture-pane", "-t", "t", "-p", "-S", "-").rstrip("\n")

    def cursor(self) -> int:
        """Return the cursor's column."""
        return int(self._run("display-message", "-t", "t", "-p", "#{cursor_x}"))

    def stands_at(self, column: int) -> None:
        """Wait until the cursor is in this column."""
        deadline = time.monotonic() + 15
        while (found := self.cursor()) != column:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)

    def resizes(self, columns: int) -> None:
        """Give the terminal another width."""
        self._run("resize-window", "-t", "t", "-x", str(columns), "-y", "30")
        time.sleep(0.3)

    def sees(self, text: str) -> str:
        """Wait until the screen shows the text; return the screen."""
        deadline = time.monotonic() + 15
        while text not in (screen := self.screen()):
            assert time.monotonic() < deadline, f"{text!r} does not come:\n{screen}"
            time.sleep(0.05)
        return screen

    def sees_all(self, pattern: str) -> None:
        """Wait until the screen matches a regular expression, of several lines too: a screen may be half drawn."""
        deadline = time.monotonic() + 15
        while not re.search(pattern, screen := self.screen(), re.MULTILINE):
            assert time.monotonic() < deadline, f"{pattern!r} does not come:\n{screen}"
            time.sleep(0.05)

    def sees_at_end(self, text: str) -> None:
        """Wait until the screen ends with the text."""
        deadline = time.monotonic() + 15
        while not (screen := self.screen()).endswith(text):
            assert time.monotonic() < deadline, f"{text!r} does not come last:\n{screen}"
            time.sleep(0.05)

    def leaves(self) -> None:
        """End tmux."""
        self._run("kill-server")
