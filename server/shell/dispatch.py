"""The one path for every line, typed, piped or exec'd: tokens, match, authorise, run, audit, reply.

Only here is an operator's error caught. A cancellation is recorded and passes.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from server.audit.journal import utc_now
from server.auth.standing import no_more
from server.commands.call import Ask, Call, Console, ReadDocument, ShowProgress
from server.commands.domains import admit_to_domain
from server.errors import (
    ArgumentError,
    CommandError,
    InternalError,
    InterruptedByOperatorError,
    OperatorError,
    PermissionDeniedError,
    TemporaryError,
    UnknownCommandError,
)
from server.grammar.declare import CHECK, Argument, Option
from server.grammar.explain import complaint, page, usage_hint
from server.grammar.filters import JSON, wants_json
from server.grammar.habits import habit_hints
from server.grammar.match import Incomplete, Invalid, Ready, Unknown, match
from server.grammar.tokens import Line, tokenize
from server.grammar.tree import Location, find, offered
from server.log import about
from server.model.access import Operator
from server.model.events import Event, EventKind
from server.node.measures import NO_COMMAND, Run, Stopwatch
from server.render.document import error_document, reply_document
from server.render.filters import filtered
from server.render.reply import Help, Left, Lines, Moved, Reply, Script
from server.render.text import Footer, error_text, reply_text
from server.storage import domains
from server.storage.engine import Read
from server.turns import Share

_log = logging.getLogger("ecss-console.shell")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a line. `pieces` are the whole reply, footer included, to be written in order."""

    status: int
    pieces: Iterator[str]
    reply: Reply | None = None


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a line comes from: who, in which directory, how to ask back, what was typed there before.

    With `json` every reply is a document. `show_progress` is for people only. `why_cut()` tells, when a line is
    cancelled, what its client will be told. `share` is what the line may take of the loop, of threads and of memory.
    """

    operator: Operator
    here: Location
    ask: Ask
    ask_hidden: Ask
    read_document: ReadDocument
    show_progress: ShowProgress
    typed: Sequence[str]
    why_cut: Callable[[], OperatorError]
    share: Share
    json: bool = False


@dataclass(frozen=True, slots=True)
class Begun:
    """A line that is on its way: `run` it once; where that is cancelled, `cut` is what the client is told."""

    console: Console
    seat: Seat
    line: Line
    at: datetime
    watch: Stopwatch

    @property
    def footer(self) -> Footer:
        """The footer of a reply that ends now."""
        return Footer(self.at, self.watch.milliseconds, self.console.nodes)

    async def run(self) -> Outcome:
        """Run the line. Raises nothing but CancelledError."""
        try:
            with Run(self.console.node.commands, self.watch) as run:
                reply = await self._reply(run)
        except InterruptedByOperatorError as error:  # at a question: the terminal has shown its ^C
            return self.cut(error) if self.seat.json else Outcome(error.status, iter(()))
        except OperatorError as error:
            return self.cut(error)
        except Exception:  # noqa: BLE001  of the grammar: those of a handler are caught where they are recorded
            return self.cut(InternalError(_incident(f"a line of {self.seat.operator.name}")))
        if self.seat.json:
            return Outcome(0, reply_document(reply, self.footer), reply)
        if isinstance(reply, Moved | Left | Script):
            return Outcome(0, reply_text(reply), reply)
        return Outcome(0, _pieces(reply, self.footer), reply)

    async def _reply(self, run: Run) -> Reply:
        """Run the line; where it fails, add hints for habits of other shells that its words show."""
        try:
            return await _run(self.console, self.seat, self.line, self.watch, run)
        except (UnknownCommandError, ArgumentError, CommandError) as error:
            hints = habit_hints(self.line)
            if not hints:
                raise
            raise type(error)(error.message, *error.hints, *hints) from error

    def cut(self, error: OperatorError) -> Outcome:
        """Return what an error makes of the line: Ctrl-C is a bare `^C`, all else has its footer."""
        return Outcome(error.status, self._error_pieces(error))

    def _error_pieces(self, error: OperatorError) -> Iterator[str]:
        if self.seat.json:
            yield error_document(error, self.footer)
            return
        yield error_text(error)
        if not isinstance(error, InterruptedByOperatorError):
            yield self.footer.text()


def begin(console: Console, seat: Seat, text: str) -> Begun | None:
    """Begin with a line; None for an empty one and a comment."""
    line = tokenize(text)
    if not (line.words or line.filters or line.mistake):
        return None
    if not seat.json and wants_json(line.filters):
        seat = replace(seat, json=True)
    return Begun(console, seat, line, datetime.now().astimezone(), Stopwatch())


def refused(console: Console, seat: Seat, mistake: str) -> Begun:
    """Return what refuses input of which no line can be made."""
    return Begun(console, seat, Line((), mistake=mistake), datetime.now().astimezone(), Stopwatch())


def parting(console: Console, why: str, *, json: bool, command: bool) -> str:
    """Return what a session that is ended from outside is told: a line at its prompt, else an error or a document."""
    error = TemporaryError(why)
    if json:
        return error_document(error, Footer(datetime.now().astimezone(), 0, console.nodes))
    return error_text(error) if command else f"\n{why}\n"


async def _run(console: Console, seat: Seat, line: Line, watch: Stopwatch, run: Run) -> Reply:
    outcome = match(console.root, seat.here, line)
    if not isinstance(outcome, Unknown) and outcome.command is not None:
        run.path = outcome.command.path
    if not isinstance(outcome, Ready):
        kind = UnknownCommandError if isinstance(outcome, Unknown) else ArgumentError
        detail = "no such command" if kind is UnknownCommandError else "wrong arguments"
        _record_unrun(console, seat.operator, run, kind.status, detail)
        message, hints = complaint(await _permitted(console, seat, outcome))
        raise kind(message, *hints)
    filters = [each for each in outcome.filters if each.name != JSON]
    if outcome.help_wanted:
        _record_unrun(console, seat.operator, run, 0, "help")
        return await filtered(Help(page(outcome.command)), filters, seat.share)
    check = bool(outcome.arguments.get(CHECK.name)) if CHECK in outcome.command.options else False
    call = Call(
        console=console,
        operator=seat.operator,
        here=seat.here,
        command=outcome.command,
        arguments=outcome.arguments,
        rest=outcome.rest,
        gate=_admitted,
        ask=None if seat.json else seat.ask,
        ask_hidden=None if seat.json else seat.ask_hidden,
        read_document=seat.read_document,
        show_progress=None if seat.json else seat.show_progress,
        share=seat.share,
        typed=seat.typed,
        check=check,
        json=seat.json,
        watch=watch,
    )
    try:
        reply = await _authorised(call)
    except OperatorError as error:
        _record(call, error.status, error.message)
        raise
    except asyncio.CancelledError:
        why = seat.why_cut()
        _record(call, why.status, why.kind if isinstance(why, InterruptedByOperatorError) else why.message)
        raise
    except Exception as defect:
        incident = _incident(f"{outcome.command.path} of {seat.operator.name}")
        _record(call, InternalError.status, f"incident {incident}")
        raise InternalError(incident) from defect
    _record(call, 0)
    return await filtered(_checked(call) if call.check else reply, filters, call.share)


def _incident(where: str) -> str:
    """Log the defect that is being handled, and return what it can be found by."""
    incident = secrets.token_hex(4).upper()
    _log.exception("incident %s: %s", incident, where, extra=about("defect", incident=incident))
    return incident


async def _admitted(call: Call, read: Read | None) -> Operator:
    """Pass the one gate, or raise PermissionDeniedError: deny by default, whether what is named exists or not.

    Returns the operator as it stands now: what was granted may have been revoked since the login.
    """
    command, operator = call.command, await call.console.standings.of(call.operator, read)
    if operator is None:
        raise PermissionDeniedError(no_more(call.operator.name))
    asked = [option.relation.permission for option in command.options if call.arguments.get(option.name)]
    for permission in (command.permission, *asked):
        if permission is not None and not operator.may(permission):
            message = f"{command.path} needs {permission.value}, which {operator.role.value} has not"
            raise PermissionDeniedError(message)
    for taker in (*command.places.values(), *command.arguments):
        if taker.kind.granted and taker.name in call.arguments:
            admit_to_domain(operator, call.arguments[taker.name])
    return operator


async def _authorised(call: Call) -> Reply:
    """Run the handler behind the gate; domains have the names that they were declared with, for replies and records."""
    await call.pass_gate()
    command = call.command
    takers: tuple[Argument | Option, ...] = (*command.places.values(), *command.arguments, *command.options)
    for taker in takers:
        if taker.kind is not None and taker.kind.granted and call.arguments.get(taker.name):
            declared = await call.console.standings.declared(call.arguments[taker.name])
            call.arguments = {**call.arguments, taker.name: declared}
    given = {name: value for name, value in call.arguments.items() if name != CHECK.name}
    # words that repeat come after those that are named, and so all of these go by position
    places = [given.pop(each.name) for each in (*command.places.values(), *command.arguments) if each.name in given]
    try:
        reply: Reply = await command.run(call, *places, *call.rest, **given)
    except ArgumentError as error:
        raise ArgumentError(error.message, *error.hints, usage_hint(command)) from error
    return reply


def _checked(call: Call) -> Reply:
    return Lines(("Nothing was changed. Without --check this would:", *(f"  {what}" for what in call.plan)))


def _record(call: Call, status: int, detail: str = "") -> None:
    """Record what is not recorded with its change."""
    if not call.recorded:
        kind = EventKind.COMMAND_REFUSED if status == PermissionDeniedError.status else EventKind.COMMAND
        call.console.journal.record_soon(call.event(kind, status=status, detail=detail))


async def _permitted(
    console: Console, seat: Seat, outcome: Incomplete | Invalid | Unknown
) -> Incomplete | Invalid | Unknown:
    """Suggest nothing that the operator may not run, as completion does not, nor in a domain that is not there."""
    if not isinstance(outcome, Unknown) or outcome.near is None:
        return outcome
    found = find(console.root, seat.here, outcome.near.removeprefix("cd "))
    operator = await console.standings.of(seat.operator)
    if found is None or operator is None:
        return replace(outcome, near=None)
    may = operator.may(found.command.permission) if found.command else offered(found.directory, operator)
    for domain in (text for place, text in found.places if place.kind.granted):
        may = may and operator.reaches(domain)
        if may and not await domains.exists(console.store.read, domain):
            return replace(outcome, near=None, absent=f"domain {domain}")
    return outcome if may else replace(outcome, near=None)


def _record_unrun(console: Console, operator: Operator, run: Run, status: int, detail: str) -> None:
    """Record a line that asked for help, was no command, or not as it must be.

    Without its words, as a secret may be among them.
    """
    console.journal.record_soon(
        Event(
            kind=EventKind.COMMAND,
            at=utc_now(),
            node=console.node_name,
            user_name=operator.name,
            source=operator.source,
            session_id=operator.session_id,
            command="" if run.path == NO_COMMAND else run.path,
            status=status,
            detail=detail,
        )
    )


def _pieces(reply: Reply, footer: Footer) -> Iterator[str]:
    yield from reply_text(reply)
    yield footer.text()
