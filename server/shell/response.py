"""The response to a request: its exit status and its text or JSON document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from server.commands.request import Request
from server.commands.shared_services import Services
from server.errors import InterruptedByOperatorError, OperatorError, TemporaryError
from server.model.shutdown import Shutdown
from server.render.document import error_document, reply_document
from server.render.reply import ChangeDirectory, Exit, Reply, Script
from server.render.text import Footer, error_text, reply_text


@dataclass(frozen=True, slots=True)
class Response:
    """The outcome of a request. `pieces` are the whole reply with its footer, in order."""

    status: int
    pieces: Iterator[str]
    reply: Reply | None = None


def reply_response(request: Request, reply: Reply) -> Response:
    """Return the response of a successful command."""
    if request.json:
        return Response(0, reply_document(reply, _footer(request)), reply)
    if isinstance(reply, ChangeDirectory | Exit | Script):
        return Response(0, reply_text(reply), reply)
    return Response(0, _with_footer(reply, _footer(request)), reply)


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
        return error_document(error, Footer(datetime.now().astimezone(), 0, services.nodes))
    return error_text(error) if command else f"\n{shutdown.sentence}\n"


def _footer(request: Request) -> Footer:
    return Footer(request.started_at, request.watch.milliseconds, request.services.nodes)


def _with_footer(reply: Reply, footer: Footer) -> Iterator[str]:
    yield from reply_text(reply)
    yield footer.text()


def _error_pieces(request: Request, error: OperatorError) -> Iterator[str]:
    """Yield the error, then its footer. The footer shows the time up to the end of the error."""
    if request.json:
        yield error_document(error, _footer(request))
        return
    yield error_text(error)
    if not isinstance(error, InterruptedByOperatorError):
        yield _footer(request).text()
