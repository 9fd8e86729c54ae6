"""One session: a prompt, lines one after another, the current directory, and what interrupts or ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import monotonic

from server.commands.call import Console
from server.encoding import BYTE_ORDER_MARK, save_as_utf_8
from server.errors import ArgumentError, InterruptedByOperatorError, OperatorError, TemporaryError
from server.grammar.secrets import holds_secret
from server.grammar.tokens import takes_time
from server.grammar.tree import Location, shown
from server.model.access import Operator
from server.render.reply import Left, Moved
from server.shell.dispatch import Begun, Outcome, Seat, begin, parting, refused
from server.shell.options import LoginOptions
from server.shell.terminal import EndOfInputError, ForeignEncodingError, LineDroppedError, Room, Terminal
from server.storage.history import LastLines
from server.turns import TURN_SECONDS, Share

_CHARACTERS_PER_WRITE = 32_768


class Session:
    """The shell or the one command of one channel. `run_shell` or `run_command` is awaited once, in its own task."""

    def __init__(self, console: Console, operator: Operator, terminal: Terminal, options: LoginOptions) -> None:
        """Begin in the root directory."""
        self._options = options
        self._console = console
        self._operator = operator
        self._terminal = terminal
        self._typed = LastLines()
        self._task: asyncio.Task[object] | None = None
        self._running = False
        self._interrupted = False
        self._stopping = self._asked_hidden = self._only_command = False
        self._parting = ""
        self.here: Location = ()

    @property
    def prompt(self) -> str:
        """The prompt: `admin@ds1@ecss1:/domain/biysk.local$ `, as `prompt.format` says now."""
        return self._console.current.config.prompt.text(
            user=self._operator.name, node=self._console.node_name, path=shown(self.here)
        )

    async def run_shell(self) -> int:
        """Read and run lines until `exit` or the end of input; return the exit status."""
        try:
            return await self._run_lines()
        except ForeignEncodingError as foreign:
            async with self._console.turns.of(self._operator.name) as share:
                ran = await self._run(refused(self._console, self._seat(share), _unreadable(foreign)))
            return ran.status

    async def _run_lines(self) -> int:
        self._task = asyncio.current_task()
        status = 0
        while not self._stopping:
            try:
                line = await self._terminal.read_line(self.prompt)
                await self._turn_for(line)
            except EndOfInputError:
                return status
            except LineDroppedError:
                status = InterruptedByOperatorError.status
                continue
            except asyncio.CancelledError:
                if not self._stopping:
                    raise
                break
            ran = await self._run_line(line)
            self._remember(line)
            if ran is None:
                continue
            status = ran.status
            if isinstance(ran.reply, Left):
                return ran.reply.status
            if self._options.strict and status:
                return status
            del ran  # its reply may be large, and the next line may come tomorrow
        return self._part()

    async def run_command(self, command: str) -> int:
        """Run the lines of an exec request; return the status of the last."""
        self._only_command = True
        self._task = task = asyncio.current_task()
        status = 0
        for number, line in enumerate(command.removeprefix(BYTE_ORDER_MARK).split("\n")):
            try:
                await self._terminal.drain()
                if number:
                    await asyncio.sleep(0)  # many lines must not hold the other sessions up
                await self._turn_for(line)
            except asyncio.CancelledError:
                if not self._stopping:
                    raise
            if self._stopping:
                return self._part()
            ran = await self._run_line(line.removesuffix("\r"))
            if ran is not None:
                status = ran.status
                if isinstance(ran.reply, Left):
                    return ran.reply.status
                if status == InterruptedByOperatorError.status or (self._options.strict and status):
                    return status
        # a command may have ended its own session
        return TemporaryError.status if task is not None and task.cancelling() else status

    def interrupt(self) -> None:
        """Cancel the command that runs now, if one does; the session lives on."""
        if self._running and self._task is not None and not self._interrupted:
            self._interrupted = True
            self._task.cancel()

    def stop(self, why: str) -> None:
        """End the session: at the prompt now, else when what runs now has ended.

        `why` is a sentence, or empty; a shell is told, and a command that is interrupted.
        """
        self._stopping, self._parting = True, why
        if not self._running and self._task is not None:
            self._task.cancel()

    def _part(self) -> int:
        """Say why the session ends, unless that is said; return its status."""
        if self._parting:
            json, command = self._options.json, self._only_command
            self._terminal.write(parting(self._console, self._parting, json=json, command=command))
        return TemporaryError.status

    async def _turn_for(self, line: str) -> None:
        """Wait for a turn before a line whose words take time to read, as those of many sessions arrive together."""
        if takes_time(line):
            await self._console.turns.of(self._operator.name).turn()

    def _seat(self, share: Share) -> Seat:
        return Seat(
            operator=self._operator,
            here=self.here,
            ask=self._ask,
            ask_hidden=self._ask_hidden,
            read_document=self._read_document,
            show_progress=self._terminal.show_progress,
            typed=self._typed,
            why_cut=self._why_cut,
            share=share,
            json=self._options.json,
        )

    async def _run_line(self, line: str) -> Outcome | None:
        async with self._console.turns.of(self._operator.name) as share:
            begun = begin(self._console, self._seat(share), line)
            return None if begun is None else await self._run(begun)

    async def _run(self, begun: Begun) -> Outcome:
        self._running, self._asked_hidden = True, False
        try:
            ran = await begun.run()
            if ran.status and self._asked_hidden:
                self._terminal.drop_typed_ahead()  # it may be the secret that was to come
            await self._send(ran.pieces, begun.seat.share)
        except asyncio.CancelledError:
            # cancelled once by `interrupt`, and perhaps again because the client is gone
            if not self._interrupted or self._task is None or self._task.uncancel() > 0:
                raise
            ran = begun.cut(self._why_cut())
            self._parting = ""  # it is told by now
            self._terminal.write("".join(ran.pieces))
        finally:
            self._running = self._interrupted = False
        if isinstance(ran.reply, Moved):
            self.here = ran.reply.location
        return ran

    def _why_cut(self) -> OperatorError:
        """Return what a command is told that was interrupted: by the operator, or by the end of the session."""
        if not self._stopping:
            return InterruptedByOperatorError()
        return TemporaryError(self._parting or "the session was ended")

    async def _send(self, pieces: Iterator[str], share: Share) -> None:
        """Write a reply: a short one at once, a long one as fast as the client takes it, letting others run between."""
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
                self._terminal.write("\n")  # what comes next is no part of this line
            raise
        self._terminal.write("".join(waiting))

    async def _ask(self, question: str) -> str | None:
        return await self._asked(question, hidden=False)

    async def _ask_hidden(self, question: str) -> str | None:
        self._asked_hidden = True
        return await self._asked(question, hidden=True)

    async def _read_document(self, question: str, room: Room) -> str | None:
        self._asked_hidden = True
        try:
            return await self._terminal.read_document(question, to_the_end=self._only_command, room=room)
        except EndOfInputError:
            return None
        except LineDroppedError:
            raise InterruptedByOperatorError from None
        except ForeignEncodingError as foreign:
            raise ArgumentError(_unreadable(foreign)) from foreign

    async def _asked(self, question: str, *, hidden: bool) -> str | None:
        try:
            return await self._terminal.ask(question, hidden=hidden)
        except EndOfInputError:
            return None
        except LineDroppedError:
            raise InterruptedByOperatorError from None
        except ForeignEncodingError as foreign:
            raise ArgumentError(_unreadable(foreign)) from foreign

    def _remember(self, line: str) -> None:
        """Keep a line; a comment too, as people put a half-typed line aside behind a `#`."""
        if not line.strip() or holds_secret(self._console.root, self.here, line):
            return
        self._terminal.remember(line)
        if self._terminal.remembers:
            self._console.journal.remember_soon(self._operator, line)
        else:
            self._typed.append(line)


def _unreadable(foreign: ForeignEncodingError) -> str:
    return f"standard input cannot be read, none of it was run: {save_as_utf_8(str(foreign))}"
