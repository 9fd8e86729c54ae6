"""The response to a request: its exit status and its text or JSON document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from server.commands.request import Request
from server.commands.shared_services import Services
from server.errors import InterruptedByOperatorError, OperatorError, TemporaryError
from server.model.names import first_named
from server.model.nodes import LEASE_SECONDS
from server.model.shutdown import Shutdown
from server.render.document import error_document, reply_document
from server.render.reply import ChangeDirectory, Exit, Lines, Reply, Script
from server.render.text import Footer, error_text, reply_text


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a command: a reply and, when the reply is not complete, the `error` that says why.

    `nodes` are the nodes that have answered, as the footer names them; None without `--on`. `unconfirmed` are the nodes
    that have not confirmed a change yet.
    """

    reply: Reply
    error: OperatorError | None = None
    nodes: tuple[str, ...] | None = None
    unconfirmed: tuple[str, ...] = ()

    @property
    def status(self) -> int:
        """The exit status."""
        return self.error.status if self.error else 0


@dataclass(frozen=True, slots=True)
class Response:
    """The outcome of a request. `pieces` are the whole reply with its footer, in order."""

    status: int
    pieces: Iterator[str]
    reply: Reply | None = None


def reply_response(request: Request, result: Result) -> Response:
    """Return the response of a command that has a result."""
    reply, footer = result.reply, _footer(request, result.nodes)
    if request.json:
        return Response(result.status, reply_document(reply, footer, result.error, result.unconfirmed), reply)
    if isinstance(reply, ChangeDirectory | Exit | Script):
        return Response(result.status, reply_text(reply), reply)
    return Response(result.status, _result_pieces(result, footer), reply)


def error_response(request: Request, error: OperatorError) -> Response:
    """Return the response of a request that failed. Ctrl-C is a bare `^C`; all other errors have a footer."""
    return Response(error.status, _error_pieces(request, error))


def interruption(shutdown: Shutdown | None) -> OperatorError:
    """Return the error of a cancelled command: the operator interrupted it, or the session is ending."""
    if shutdown is None:
        return InterruptedByOperatorError()
    return TemporaryError(shutdown.sentence or "the session was ended")


def shutdown_notice(services: Services, shutdown: Shutdown, *, json: bool, command: bool) -> str:
    """Return the text that tells a client why its session ends.

    A shell gets the sentence on a new line, a single `command` gets an error, and a `json` session gets a document.
    """
    error = TemporaryError(shutdown.sentence)
    if json:
        return error_document(error, Footer(datetime.now().astimezone(), 0, (services.nodes,)))
    return error_text(error) if command else f"\n{shutdown.sentence}\n"


def _footer(request: Request, nodes: tuple[str, ...] | None = None) -> Footer:
    """Return the footer, which names this node unless a command has run on others."""
    return Footer(request.started_at, request.watch.milliseconds, (request.services.nodes,) if nodes is None else nodes)


def _result_pieces(result: Result, footer: Footer) -> Iterator[str]:
    yield from reply_text(result.reply)
    if result.unconfirmed:
        yield _unconfirmed_text(result.unconfirmed)
    if result.error:
        yield error_text(result.error)
    yield footer.text()


def _unconfirmed_text(nodes: tuple[str, ...]) -> str:
    """Return the line about the nodes that have not confirmed a change."""
    subject = "it" if len(nodes) == 1 else "they"
    meaning = f"{subject} may act on the old state for up to {LEASE_SECONDS} seconds, the length of a lease"
    return "".join(reply_text(Lines((f"Not confirmed yet by {first_named(nodes)}: {meaning}.",))))


def _error_pieces(request: Request, error: OperatorError) -> Iterator[str]:
    """Yield the error, then its footer. The footer shows the time up to the end of the error."""
    if request.json:
        yield error_document(error, _footer(request, error.nodes))
        return
    yield error_text(error)
    if not isinstance(error, InterruptedByOperatorError):
        yield _footer(request, error.nodes).text()
