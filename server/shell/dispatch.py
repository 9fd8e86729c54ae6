"""Process every request, typed, piped or exec'd, in one way: match, authorize, run, audit, respond.

Only this module catches operator errors. It records a cancellation and lets it pass.
"""

from __future__ import annotations

from dataclasses import replace

from server.commands.context import Context
from server.commands.request import Request
from server.errors import (
    ArgumentError,
    CommandError,
    InternalError,
    InterruptedByOperatorError,
    OperatorError,
    UnknownCommandError,
)
from server.grammar.declare import ON
from server.grammar.explain import complaint, page
from server.grammar.filters import JSON
from server.grammar.habits import habit_hints
from server.grammar.match import Incomplete, Invalid, Ready, Unknown
from server.grammar.tree import find, offered
from server.node.measures import Run
from server.render.filters import filtered
from server.render.reply import Help
from server.shell.execution import log_incident, record, record_unrun, recording_failures, run_authorized
from server.shell.on_nodes import run_on_nodes
from server.shell.response import Response, Result, error_response, reply_response
from server.storage import domains


async def respond(request: Request) -> Response | None:
    """Run a request and return its response; None for an empty line. Raises nothing but CancelledError."""
    if request.is_empty:
        return None
    try:
        with Run(request.services.node.commands, request.watch) as run:
            result = await _run_with_hints(request, run)
            run.error = result.error
    except InterruptedByOperatorError as error:  # at a question: the terminal has shown its ^C
        return error_response(request, error) if request.json else Response(error.status, iter(()))
    except OperatorError as error:
        return error_response(request, error)
    except Exception:  # noqa: BLE001  a defect of the grammar; defects of handlers are caught where they are recorded
        return error_response(request, InternalError(log_incident(f"a line of {request.operator.name}")))
    return reply_response(request, result)


async def _run_with_hints(request: Request, run: Run) -> Result:
    """Run the request. If it fails and looks like a habit from another shell, add hints to the error."""
    try:
        return await _run(request, run)
    except (UnknownCommandError, ArgumentError, CommandError) as error:
        error.hints = (*error.hints, *habit_hints(request.line))
        raise


async def _run(request: Request, run: Run) -> Result:
    outcome = request.match
    if not isinstance(outcome, Unknown) and outcome.command is not None:
        run.path = outcome.command.path
    if not isinstance(outcome, Ready):
        raise await _refusal(request, outcome, run)
    filters = [each for each in outcome.filters if each.name != JSON]
    if outcome.help_wanted:
        record_unrun(request, run.recorded_path, 0, "help")
        return Result(await filtered(Help(page(outcome.command)), filters, request.share))
    context = Context(request, outcome.command, outcome.arguments, outcome.rest, request.operator)
    choice = outcome.arguments.get(ON.name) if outcome.command.on_nodes else None
    with recording_failures(context):
        result = await run_on_nodes(context, choice) if choice else Result(await run_authorized(context))
    record(context, result.status, result.error.message if result.error else "")
    shown = await filtered(result.reply, filters, request.share)
    return replace(result, reply=shown, unconfirmed=context.unconfirmed)


async def _refusal(request: Request, outcome: Incomplete | Invalid | Unknown, run: Run) -> OperatorError:
    """Record a line that does not match a command, and return its error."""
    unknown = isinstance(outcome, Unknown)
    kind = UnknownCommandError if unknown else ArgumentError
    record_unrun(request, run.recorded_path, kind.status, "no such command" if unknown else "wrong arguments")
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
