"""The pages: metrics, liveness (the event loop runs) and readiness (users can log in and work)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from server.errors import TemporaryError
from server.http.endpoint import Answer, Page
from server.http.exposition import Exposition
from server.node.status import Node

#: Reads from the store. Raises TemporaryError, or hangs, when the store is unavailable.
AskStore = Callable[[], Awaitable[object]]
_STORE_SECONDS = 1.0

_log = logging.getLogger("ecss-console.endpoint")


def pages(node: Node, why_closed: Callable[[], str], ask_store: AskStore) -> dict[str, Page]:
    """Return the pages by path.

    `why_closed()` returns the reason why logins are refused now, or an empty text.
    """
    exposition = Exposition(node.readings)

    async def metrics(accept: str) -> Answer:
        body, content_type = exposition.written(accept)
        return Answer(body, content_type=content_type)

    async def healthz(_accept: str) -> Answer:
        return Answer(b"ok\n")

    async def readyz(_accept: str) -> Answer:
        why = why_closed() or await _why_away(ask_store)
        return Answer(f"{why}\n".encode(), HTTPStatus.SERVICE_UNAVAILABLE) if why else Answer(b"ok\n")

    return {"/metrics": metrics, "/healthz": healthz, "/readyz": readyz}


async def _why_away(ask_store: AskStore) -> str:
    try:
        async with asyncio.timeout(_STORE_SECONDS):
            await ask_store()
    except TimeoutError:
        return "the store does not answer"
    except TemporaryError as error:
        return error.message
    except Exception:  # noqa: BLE001  any failure gets an answer, and a traceback in the log
        _log.exception("the store cannot be read")
        return "the store cannot be read; the log says why"
    return ""
