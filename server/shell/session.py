"""One session: prompts, lines, the current directory, interrupts and the end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import monotonic

from server.commands.request import Request
from server.commands.shared_services import Services
from server.cooperative import TURN_SECONDS, Share
from server.encoding import BYTE_ORDER_MARK
from server.errors import InterruptedByOperatorError, TemporaryError
from server.grammar.tokens import Line, takes_time, tokenize
from server.grammar.tree import Location, shown
from server.model.access import Operator
from server.model.shutdown import Shutdown
from server.render.reply import ChangeDirectory, Exit
from server.shell.dialogue import TerminalDialogue, unreadable_input
from server.shell.dispatch import respond
from server.shell.options import LoginOptions
from server.shell.response import Response, error_response, interruption, shutdown_notice
from server.shell.terminal import EndOfInputError, ForeignEncodingError, LineDroppedError, Terminal
from server.storage.history import LastLines

_CHARACTERS_PER_WRITE = 32_768


class Session:
    """The shell or the exec request of one channel.

    Await `run_shell` or `run_command` once, in its own task.
    """

    def __init__(self, services: Services, operator: Operator, terminal: Terminal, options: LoginOptions) -> None:
        """Begin in the root directory."""
        self._options = options
        self._services = services
        self._operator = operator
        self._terminal = terminal
        self._dialogue = TerminalDialogue(terminal)
        self._typed = LastLines()
        self._task: asyncio.Task[object] | None = None
        self._running = self._interrupted = self._shutdown_told = False
        self._only_command = False
        self.location: Location = ()

    @property
    def prompt(self) -> str:
        """The prompt: `admin@ds1@ecss1:/domain/biysk.local$ `, in the configured format."""
        return self._services.current.config.prompt.text(
            user=self._operator.name, node=self._services.node_name, path=shown(self.location)
        )

    async def run_shell(self) -> int:
        """Read and run lines until `exit` or the end of input; return the exit status."""
        try:
            return await self._run_lines()
        except ForeignEncodingError as foreign:
            response = await self._respond("", Line((), mistake=unreadable_input(foreign)))
            return TemporaryError.status if response is None else response.status

    async def _run_lines(self) -> int:
        self._task = asyncio.current_task()
        status = 0
        while not self._dialogue.shutdown:
            try:
                line = await self._terminal.read_line(self.prompt)
                await self._turn_for(line)
            except EndOfInputError:
                return status
            except LineDroppedError:
                status = InterruptedByOperatorError.status
                continue
            except asyncio.CancelledError:
                if not self._dialogue.shutdown:
                    raise
                break
            response = await self._respond(line)
            if response is None:
                continue
            status = response.status
            if isinstance(response.reply, Exit):
                return response.reply.status
            if self._options.strict and status:
                return status
            del response  # frees a large reply, because the next line may come much later
        return self._end()

    async def run_command(self, command: str) -> int:
        """Run the lines of an exec request, and return the status of the last line."""
        self._only_command = self._dialogue.reads_to_the_end = True
        self._task = task = asyncio.current_task()
        status = 0
        for number, line in enumerate(command.removeprefix(BYTE_ORDER_MARK).split("\n")):
            try:
                await self._terminal.drain()
                if number:
                    await asyncio.sleep(0)  # many lines must not delay the other sessions
                await self._turn_for(line)
            except asyncio.CancelledError:
                if not self._dialogue.shutdown:
                    raise
            if self._dialogue.shutdown:
                return self._end()
            response = await self._respond(line.removesuffix("\r"))
            if response is not None:
                status = response.status
                if isinstance(response.reply, Exit):
                    return response.reply.status
                if status == InterruptedByOperatorError.status or (self._options.strict and status):
                    return status
        # a command may have ended its own session
        return TemporaryError.status if task is not None and task.cancelling() else status

    def interrupt(self) -> None:
        """Cancel the running command, if there is one. The session goes on."""
        if self._running and self._task is not None and not self._interrupted:
            self._interrupted = True
            self._task.cancel()

    def stop(self, shutdown: Shutdown) -> None:
        """End the session: at once at the prompt, otherwise after the running command.

        A client that has a shell, or whose command is interrupted, sees the sentence of `shutdown`.
        """
        self._dialogue.shutdown = shutdown
        if not self._running and self._task is not None:
            self._task.cancel()

    def _end(self) -> int:
        """Show the client why the session ends, unless it was shown before. Return the exit status."""
        shutdown = self._dialogue.shutdown
        if shutdown is not None and shutdown.sentence and not self._shutdown_told:
            json, command = self._options.json, self._only_command
            self._terminal.write(shutdown_notice(self._services, shutdown, json=json, command=command))
        return TemporaryError.status

    async def _turn_for(self, line: str) -> None:
        """Wait for a turn before parsing a long line, because many sessions may send one at the same time."""
        if takes_time(line):
            await self._services.turns.of(self._operator.name).turn()

    async def _respond(self, text: str, line: Line | None = None) -> Response | None:
        """Run one line, write its response and return it; None for an empty line."""
        async with self._services.turns.of(self._operator.name) as share:
            request = Request(
                services=self._services,
                operator=self._operator,
                location=self.location,
                text=text,
                line=tokenize(text) if line is None else line,
                dialogue=self._dialogue,
                share=share,
                typed=self._typed,
                json_session=self._options.json,
            )
            response = await self._run(request)
        if not self._only_command:
            self._remember(request)
        return response

    async def _run(self, request: Request) -> Response | None:
        self._running, self._dialogue.asked_hidden = True, False
        try:
            response = await respond(request)
            if response is None:
                return None
            if response.status and self._dialogue.asked_hidden:
                self._terminal.drop_typed_ahead()  # it may be the secret
            await self._send(response.pieces, request.share)
        except asyncio.CancelledError:
            # `interrupt` has cancelled the task once; a second cancellation means that the client is gone
            if not self._interrupted or self._task is None or self._task.uncancel() > 0:
                raise
            response = error_response(request, interruption(self._dialogue.shutdown))
            self._shutdown_told = self._dialogue.shutdown is not None
            self._terminal.write("".join(response.pieces))
        finally:
            self._running = self._interrupted = False
        if isinstance(response.reply, ChangeDirectory):
            self.location = response.reply.location
        return response

    async def _send(self, pieces: Iterator[str], share: Share) -> None:
        """Write a reply: a short one at once, a long one in turns, as fast as the client reads."""
        waiting: list[str] = []
        size, began, written = 0, monotonic(), ""
        try:
            for piece in pieces:
                waiting.append(piece)
                size += len(piece)
                if size >= _CHARACTERS_PER_WRITE:
                    self._terminal.write("".join(waiting))
                    waiting, size, written = [], 0, piece
                    await self._terminal.drain()
                elif monotonic() - began < TURN_SECONDS:
                    continue
                await share.turn()
                began = monotonic()
        except asyncio.CancelledError:
            if written and not written.endswith("\n"):
                self._terminal.write("\n")  # start a new line for the next text
            raise
        self._terminal.write("".join(waiting))

    def _remember(self, request: Request) -> None:
        """Keep a line in the history.

        Keep comments too: people put `#` before a half-typed line to finish it later.
        """
        if not request.text.strip() or request.holds_secret:
            return
        self._terminal.remember(request.text)
        if self._terminal.remembers:
            self._services.journal.remember_soon(self._operator, request.text)
        else:
            self._typed.append(request.text)
