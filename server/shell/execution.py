"""Run one command and record how it ends, for an operator of this node or of another one."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from server.audit.journal import utc_now
from server.commands.context import Context
from server.commands.request import Request
from server.errors import (
    ArgumentError,
    InternalError,
    InterruptedByOperatorError,
    OperatorError,
    PermissionDeniedError,
)
from server.grammar.declare import CHECK, ON, Argument, Option
from server.grammar.explain import usage_hint
from server.log import about
from server.model.events import Event, EventKind
from server.render.reply import Lines, Reply
from server.shell.response import interruption

_log = logging.getLogger("ecss-console.shell")
_NOT_FOR_HANDLERS = {CHECK.name, ON.name}


async def run_authorized(context: Context) -> Reply:
    """Authorize, replace domain names with their declared spelling, and run the handler.

    With `--check` the reply is the plan.
    """
    await context.authorize()
    command = context.command
    takers: tuple[Argument | Option, ...] = (*command.places.values(), *command.arguments, *command.options)
    for taker in takers:
        if taker.kind is not None and taker.kind.granted and context.arguments.get(taker.name):
            declared = await context.services.authorizer.declared(context.arguments[taker.name])
            context.arguments = {**context.arguments, taker.name: declared}
    given = {name: value for name, value in context.arguments.items() if name not in _NOT_FOR_HANDLERS}
    # repeated words follow the other arguments, so pass all arguments by position
    places = [given.pop(each.name) for each in (*command.places.values(), *command.arguments) if each.name in given]
    try:
        reply: Reply = await command.run(context, *places, *context.rest, **given)
    except ArgumentError as error:
        raise ArgumentError(error.message, *error.hints, usage_hint(command)) from error
    return _plan(context) if context.check else reply


@contextmanager
def recording_failures(context: Context) -> Iterator[None]:
    """Record an error or a cancellation of the block. A defect is logged and becomes InternalError."""
    try:
        yield
    except OperatorError as error:
        record(context, error.status, error.message)
        raise
    except asyncio.CancelledError:
        cause = interruption(context.request.dialogue.shutdown)
        record(context, cause.status, cause.kind if isinstance(cause, InterruptedByOperatorError) else cause.message)
        raise
    except Exception as defect:
        incident = log_incident(f"{context.command.path} of {context.operator.name}")
        record(context, InternalError.status, f"incident {incident}")
        raise InternalError(incident) from defect


def record(context: Context, status: int, detail: str = "") -> None:
    """Record the outcome, unless a change has recorded it already."""
    if not context.recorded:
        kind = EventKind.COMMAND_REFUSED if status == PermissionDeniedError.status else EventKind.COMMAND
        context.services.journal.record_soon(context.event(kind, status=status, detail=detail))


def record_unrun(request: Request, path: str, status: int, detail: str) -> None:
    """Record a line that ran no command: help, an unknown command or wrong arguments.

    `path` is that of the command, if the line names one. The record does not contain the words of the line, because one
    of them may be a secret.
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
            command=path,
            status=status,
            detail=request.with_origin(detail),
        )
    )


def log_incident(where: str) -> str:
    """Log the exception being handled, and return its incident number in the log."""
    incident = secrets.token_hex(4).upper()
    _log.exception("incident %s: %s", incident, where, extra=about("defect", incident=incident))
    return incident


def _plan(context: Context) -> Reply:
    return Lines(("Nothing was changed. Without --check this would:", *(f"  {change}" for change in context.plan)))
