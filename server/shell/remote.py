"""Answer the questions of other nodes: run a line for an operator who is logged in there."""

from __future__ import annotations

from dataclasses import dataclass

from server.commands.context import Context
from server.commands.documents import Room
from server.commands.node_messages import Question, answer_text, read_question
from server.commands.request import Request
from server.commands.shared_services import Services
from server.cooperative import Share
from server.errors import ArgumentError, CommandError, InternalError, OperatorError, UnknownCommandError
from server.grammar.declare import ON
from server.grammar.explain import complaint
from server.grammar.match import Ready, Unknown
from server.grammar.tokens import Line, Word
from server.model.access import Operator, Role
from server.model.shutdown import Shutdown
from server.node.measures import Run
from server.render.merging import as_table
from server.render.reply import Table
from server.shell.execution import log_incident, record, record_unrun, recording_failures, run_authorized


@dataclass
class _NobodyThere:
    """The dialogue of a command whose operator is at another node: every question stays without an answer."""

    shutdown: Shutdown | None = None

    async def ask(self, question: str, *, hidden: bool) -> None:
        """Return no answer."""

    async def read_document(self, question: str, room: Room) -> None:
        """Return no document."""

    def show_progress(self, text: str) -> None:
        """Show nothing."""


async def answer(services: Services, question: str) -> str:
    """Run the line of a question, and return the answer as JSON. Raises nothing but CancelledError.

    Only commands that are declared with `on_nodes` run, with the rights that the operator has here and now. The audit
    of this node records them with the operator's name and source, and the node that has asked.
    """
    try:
        return await _answer(services, question)
    except Exception:  # noqa: BLE001  a defect; those of handlers are caught where they are recorded
        error = InternalError(log_incident("a question of another node") + _logged_on(services))
        async with services.turns.of("") as share:
            return await answer_text(error, share)


async def _answer(services: Services, text: str) -> str:
    try:
        question = read_question(text)
    except (ValueError, RecursionError) as wrong:
        async with services.turns.of("") as share:
            return await answer_text(CommandError(f"the question of the node cannot be read: {wrong}"), share)
    async with services.turns.of(question.user) as share:
        request = _request(services, question, share)
        try:
            with Run(services.node.commands, request.watch) as run:
                reply: Table | OperatorError = await _run(request, run)
        except OperatorError as error:
            reply = error
        return await answer_text(reply, share)


def _request(services: Services, question: Question, share: Share) -> Request:
    """Return the request of a question. The operator has no rights until it is authorized."""
    operator = Operator(question.user, Role.VIEWER, question.source, question.session_id, added_at=question.added_at)
    return Request(
        services=services,
        operator=operator,
        location=(),
        text=" ".join(question.words),
        line=Line(tuple(Word(word, word, 0) for word in question.words)),
        dialogue=_NobodyThere(),
        share=share,
        typed=(),
        json_session=question.json,
        asked_by=question.node,
    )


async def _run(request: Request, run: Run) -> Table:
    outcome = request.match
    if not isinstance(outcome, Unknown) and outcome.command is not None:
        run.path = outcome.command.path
    if not isinstance(outcome, Ready):
        kind = UnknownCommandError if isinstance(outcome, Unknown) else ArgumentError
        message, hints = complaint(outcome)
        record_unrun(request, run.recorded_path, kind.status, "no such command or wrong arguments")
        raise kind(message, *hints)
    context = Context(request, outcome.command, outcome.arguments, outcome.rest, request.operator)
    try:
        with recording_failures(context):
            if not outcome.command.on_nodes or outcome.help_wanted or ON.name in outcome.arguments:
                message = f"{outcome.command.path} is not for other nodes to run"
                raise CommandError(message)
            table = await as_table(await run_authorized(context), request.share)
    except InternalError as defect:
        raise InternalError(defect.message + _logged_on(request.services)) from defect
    record(context, 0)
    return table


def _logged_on(services: Services) -> str:
    return f", logged on {services.node_name}"
