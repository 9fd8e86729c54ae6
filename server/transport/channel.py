"""One SSH channel: runs a shell or one command, from the first request to the exit status."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

import asyncssh

from server.auth.authorizer import no_more
from server.commands.shared_services import Services
from server.errors import ArgumentError, InternalError, OperatorError, PermissionDeniedError, TemporaryError
from server.log import about
from server.model.access import Operator
from server.model.shutdown import Shutdown
from server.shell.completion import Completion, complete
from server.shell.options import LoginOptions, parse_login_options
from server.shell.session import Session
from server.transport.clients import clamped_size, edits_lines, reflows
from server.transport.terminal.editor import LineEditor
from server.transport.terminal.reader import LineReader
from server.transport.terminal.tty import Tty
from server.transport.unsent import SESSION_BYTES

_log = logging.getLogger("ecss-console.transport")


@dataclass(frozen=True, slots=True)
class ShellSettings:
    """The message of the day, and the name of the prompt's colour."""

    motd: str
    prompt_colour: str


class ChannelOwner(Protocol):
    """The connection of a channel."""

    #: The channels that have a session; a channel adds and removes itself.
    channels: set[ConsoleChannel]

    @property
    def shutdown(self) -> Shutdown | None:
        """The reason why no session may begin any more; None while sessions may begin."""

    def channel_closed(self) -> None:
        """Count a channel as closed."""

    def subsystem_refused(self, name: str) -> None:
        """Record the request for a subsystem."""


class ConsoleChannel(asyncssh.SSHServerSession[bytes]):
    """One channel. asyncssh calls its methods for the requests of the client."""

    def __init__(
        self, owner: ChannelOwner, services: Services, operator: Operator, login_options: str, settings: ShellSettings
    ) -> None:
        """Take the user and the login options. Wrong options end the session with an error."""
        self._owner = owner
        self._settings = settings
        self._services = services
        self._operator = operator
        self._login_options = login_options
        self._refusal = ""
        self._term: str | None = None
        self._size = (0, 0)
        self._command: str | None = None
        self._channel: asyncssh.SSHServerChannel[bytes]
        self._tty: Tty | None = None
        self._session: Session | None = None
        self._editor: LineEditor | None = None
        self._reader: LineReader | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def idle_seconds(self) -> float | None:
        """The seconds since the last input; None while a command runs."""
        return monotonic() - self._tty.last_input if self._tty is not None and self._tty.reading else None

    def tell(self, text: str) -> None:
        """Show a line to a person at the prompt; scripts do not get it."""
        if self._reader is not None:
            self._reader.tell(text)

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        """Take the channel."""
        self._channel = chan
        chan.set_write_buffer_limits(SESSION_BYTES, SESSION_BYTES // 2)

    def pty_requested(self, term_type: str, term_size: tuple[int, int, int, int], _term_modes: object) -> bool:
        """Grant a terminal."""
        self._term, self._size = term_type, term_size[:2]
        return True

    def shell_requested(self) -> bool:
        """Grant a shell."""
        return True

    def exec_requested(self, command: str) -> bool:
        """Note the command to run."""
        self._command = command
        return True

    def subsystem_requested(self, subsystem: str) -> bool:
        """Refuse every subsystem."""
        self._owner.subsystem_refused(subsystem)
        return False

    def session_started(self) -> None:
        """Begin the session. All requests that prepare it have arrived."""
        share = self._services.turns.of(self._operator.name)
        self._tty = tty = Tty(self._channel, pty=self._term is not None, interrupt=self._interrupt, share=share)
        try:
            options = parse_login_options(self._login_options)
        except ValueError as wrong:
            options, self._refusal = LoginOptions(), str(wrong)
        if self._command is None and self._edits_lines(options):
            if self._settings.motd and not self._refusal:
                tty.write(self._settings.motd.rstrip("\n") + "\n")
            size = clamped_size(*self._size)
            self._editor = LineEditor(tty, size, self._complete, self._recall, self._settings.prompt_colour)
            self._editor.reflows = reflows(self._client_version, self._term or "")
        # without a terminal, a session with JSON output writes nothing but its documents
        self._reader = reader = LineReader(tty, self._editor, prompts=tty.pty or not options.json)
        self._session = session = Session(self._services, self._operator, reader, options)
        self._owner.channels.add(self)
        shutdown = self._owner.shutdown
        if shutdown is not None:  # the channel was opened before the shutdown began
            session.stop(shutdown)
        self._task = asyncio.get_running_loop().create_task(self._run(tty, session))

    def data_received(self, data: bytes, _datatype: object) -> None:
        """Queue input for the session."""
        if self._tty is not None:
            self._tty.feed(data)

    def eof_received(self) -> bool:
        """Go on writing after the client has closed its side."""
        if self._tty is not None:
            self._tty.end()
        return True

    def signal_received(self, signal: str) -> None:
        """Act on `signal INT` as on Ctrl-C; signals that end a process end the session.

        Before the session has started, ignore all signals.
        """
        if self._tty is None:
            return
        if signal == "INT":
            self._tty.interrupt()
        elif signal in {"HUP", "TERM", "KILL"}:
            self.stop(Shutdown(f"the client sent signal {signal}"), now=True)

    def break_received(self, _msec: int) -> bool:
        """Act on a break as on Ctrl-C."""
        self.signal_received("INT")
        return self._tty is not None

    def terminal_size_changed(self, width: int, height: int, _pixwidth: int, _pixheight: int) -> None:
        """Draw the line again for the new size."""
        self._size = (width, height)
        if self._editor is not None:
            self._editor.resize(*clamped_size(width, height))

    def pause_writing(self) -> None:
        """Pause the output, because the client does not read."""
        if self._tty is not None:
            self._tty.pause_writing()

    def resume_writing(self) -> None:
        """Resume the output, because the client reads again."""
        if self._tty is not None:
            self._tty.resume_writing()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Cancel the running command and drop typed-ahead input, because the client is gone."""
        self._owner.channel_closed()
        if self._tty is not None and self._task is not None:
            self._tty.abandon()
            self._task.cancel()

    def stop(self, shutdown: Shutdown, *, now: bool) -> None:
        """End the session after its running command. With `now`, interrupt the command."""
        if self._session is not None:
            self._session.stop(shutdown)
            if now:
                self._session.interrupt()

    async def _run(self, tty: Tty, session: Session) -> None:
        try:
            status = await self._status(tty, session)
            tty.flush()
            self._channel.exit(status)
        finally:
            self._owner.channels.discard(self)

    async def _status(self, tty: Tty, session: Session) -> int:
        if self._refusal:
            return _ended_by(ArgumentError(self._refusal), tty)
        try:
            if self._command is None and not await self._may_work():
                return _ended_by(PermissionDeniedError(no_more(self._operator.name)), tty)
            if self._command is not None:
                return await session.run_command(self._command)
            return await session.run_shell()
        except Exception:  # noqa: BLE001  the client gets a status and the log a traceback
            incident = secrets.token_hex(4).upper()
            extra = about("defect", incident=incident, user=self._operator.name, session=self._operator.session_id)
            _log.exception("incident %s: session of %s", incident, self._operator.name, extra=extra)
            return _ended_by(InternalError(incident), tty)

    async def _may_work(self) -> bool:
        """Check the user again.

        A certificate was checked against the user's state at the time when the client gave the name.
        """
        try:
            return await self._services.authorizer.current(self._operator) is not None
        except TemporaryError:
            return True  # every command is authorized again

    def _edits_lines(self, options: LoginOptions) -> bool:
        if options.plain or self._term is None:
            return False
        return options.rich or edits_lines(self._client_version, self._term, *self._size)

    @property
    def _client_version(self) -> str:
        return str(self._channel.get_extra_info("client_version", ""))

    def _interrupt(self) -> None:
        if self._session is not None:
            self._session.interrupt()

    async def _complete(self, text: str) -> Completion:
        operator = await self._services.authorizer.current(self._operator)
        if operator is None:
            return Completion("", ())
        return await complete(self._services, operator, self._session.location if self._session else (), text)

    async def _recall(self) -> Sequence[str]:
        try:
            return await self._services.journal.earlier_lines(self._operator)
        except TemporaryError:
            return ()  # a session without history is better than none


def _ended_by(error: OperatorError, tty: Tty) -> int:
    """Write the error that ends the session, and return its exit status."""
    tty.write("".join(f"{line}\n" for line in error.lines()))
    return error.status
