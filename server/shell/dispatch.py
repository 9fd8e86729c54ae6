"""Process every request, typed, piped or exec'd, in one way: match, authorize, run, audit, respond.

Only this module catches operator errors. It records a cancellation and lets it pass.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import replace

from server.audit.journal import utc_now
from server.commands.context import Context
from server.commands.request import Request
from server.errors import (
    ArgumentError,
    CommandError,
    InternalError,
    InterruptedByOperatorError,
    OperatorError,
    PermissionDeniedError,
    UnknownCommandError,
)
from server.grammar.declare import CHECK, Argument, Option
from server.grammar.explain import complaint, page, usage_hint
from server.grammar.filters import JSON
from server.grammar.habits import habit_hints
from server.grammar.match import Incomplete, Invalid, Ready, Unknown
from server.grammar.tree import find, offered
from server.log import about
from server.model.events import Event, EventKind
from server.node.measures import NO_COMMAND, Run
from server.render.filters import filtered
from server.render.reply import Help, Lines, Reply
from server.shell.response import Response, error_response, interruption, reply_response
from server.storage import domains

_log = logging.getLogger("ecss-console.shell")


async def respond(request: Request) -> Response | None:
    """Run a request and return its response; None for an empty line. Raises nothing but CancelledError."""
    if request.is_empty:
        return None
    try:
        with Run(request.services.node.commands, request.watch) as run:
            reply = await _run_with_hints(request, run)
    except InterruptedByOperatorError as error:  # at a question: the terminal has shown its ^C
        return error_response(request, error) if request.json else Response(error.status, iter(()))
    except OperatorError as error:
        return error_response(request, error)
    except Exception:  # noqa: BLE001  a defect of the grammar; defects of handlers are caught where they are recorded
        return error_response(request, InternalError(_incident(f"a line of {request.operator.name}")))
    return reply_response(request, reply)


async def _run_with_hints(request: Request, run: Run) -> Reply:
    """Run the request. If it fails and looks like a habit from another shell, add hints to the error."""
    try:
        return await _run(request, run)
    except (UnknownCommandError, ArgumentError, CommandError) as error:
        error.hints = (*error.hints, *habit_hints(request.line))
        raise


async def _run(request: Request, run: Run) -> Reply:
    outcome = request.match
    if not isinstance(outcome, Unknown) and outcome.command is not None:
        run.path = outcome.command.path
    if not isinstance(outcome, Ready):
        raise await _refusal(request, outcome, run)
    filters = [each for each in outcome.filters if each.name != JSON]
    if outcome.help_wanted:
        _record_unrun(request, run, 0, "help")
        return await filtered(Help(page(outcome.command)), filters, request.share)
    context = Context(request, outcome.command, outcome.arguments, outcome.rest, request.operator)
    try:
        reply = await _run_authorized(context)
    except OperatorError as error:
        _record(context, error.status, error.message)
        raise
    except asyncio.CancelledError:
        cause = interruption(request.dialogue.shutdown)
        _record(context, cause.status, cause.kind if isinstance(cause, InterruptedByOperatorError) else cause.message)
        raise
    except Exception as defect:
        incident = _incident(f"{outcome.command.path} of {request.operator.name}")
        _record(context, InternalError.status, f"incident {incident}")
        raise InternalError(incident) from defect
    _record(context, 0)
    return await filtered(_plan(context) if context.check else reply, filters, request.share)


async def _run_authorized(context: Context) -> Reply:
    """Authorize, replace domain names with their declared spelling, and run the handler."""
    await context.authorize()
    command = context.command
    takers: tuple[Argument | Option, ...] = (*command.places.values(), *command.arguments, *command.options)
    for taker in takers:
        if taker.kind is not None and taker.kind.granted and context.arguments.get(taker.name):
            declared = await context.services.authorizer.declared(context.arguments[taker.name])
            context.arguments = {**context.arguments, taker.name: declared}
    given = {name: value for name, value in context.arguments.items() if name != CHECK.name}
    # repeated words follow the other arguments, so pass all arguments by position
    places = [given.pop(each.name) for each in (*command.places.values(), *command.arguments) if each.name in given]
    try:
        reply: Reply = await command.run(context, *places, *context.rest, **given)
    except ArgumentError as error:
        raise ArgumentError(error.message, *error.hints, usage_hint(command)) from error
    return reply


def _plan(context: Context) -> Reply:
    return Lines(("Nothing was changed. Without --check this would:", *(f"  {change}" for change in context.plan)))


async def _refusal(request: Request, outcome: Incomplete | Invalid | Unknown, run: Run) -> OperatorError:
    """Record a line that does not match a command, and return its error."""
    unknown = isinstance(outcome, Unknown)
    kind = UnknownCommandError if unknown else ArgumentError
    _record_unrun(request, run, kind.status, "no such command" if unknown else "wrong arguments")
    message, hints = complaint(await _without_forbidden_hint(request, outcome))
    return kind(message, *hints)


async def _without_forbidden_hint(
    request: Request, outcome: Incomplete | Invalid | Unknown
) -> Incomplete | Invalid | Unknown:
    """Drop a suggested command that the operator may not run, or whose domain does not exist."""
    if not isinstance(outcome, Unknown) or outcome.near is None:
        return outcome
    services = request.services
    found = find(services.root, request.location, outcome.near.removeprefix("cd "))
    operator = await services.authorizer.current(request.operator)
    if found is None or operator is None:
        return replace(outcome, near=None)
    may = operator.may(found.command.permission) if found.command else offered(found.directory, operator)
    for domain in (text for place, text in found.places if place.kind.granted):
        may = may and operator.reaches(domain)
        if may and not await domains.exists(services.store.read, domain):
            return replace(outcome, near=None, absent=f"domain {domain}")
    return outcome if may else replace(outcome, near=None)


def _record(context: Context, status: int, detail: str = "") -> None:
    """Record the outcome, unless a change has recorded it already."""
    if not context.recorded:
        kind = EventKind.COMMAND_REFUSED if status == PermissionDeniedError.status else EventKind.COMMAND
        context.services.journal.record_soon(context.event(kind, status=status, detail=detail))


def _record_unrun(request: Request, run: Run, status: int, detail: str) -> None:
    """Record a line that ran no command: help, an unknown command or wrong arguments.

    The record does not contain the words of the line, because one of them may be a secret.
    """
    operator = request.operator
    request.services.journal.record_soon(
        Event(
            kind=EventKind.COMMAND,
            at=utc_now(),
            node=request.services.node_name,
            user_name=operator.name,
            source=operator.source,
            session_id=operator.session_id,
            command="" if run.path == NO_COMMAND else run.path,
            status=status,
            detail=detail,
        )
    )


def _incident(where: str) -> str:
    """Log the exception being handled, and return its incident number in the log."""
    incident = secrets.token_hex(4).upper()
    _log.exception("incident %s: %s", incident, where, extra=about("defect", incident=incident))
    return incident
