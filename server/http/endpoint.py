"""A small HTTP server on the console's own event loop, so that every answer shows that the loop runs.

h11 parses the protocol. A connection carries one request and lasts at most five seconds. At the connection limit, a new
connection replaces the oldest one, so slow clients cannot block a probe.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

import h11

_CLIENT_SECONDS = 5.0
_MOST_CONNECTIONS = 16
_MOST_HEADER_BYTES = 8192
_READ_BYTES = 4096
_PLAIN = "text/plain; charset=utf-8"

_log = logging.getLogger("ecss-console.endpoint")


@dataclass(frozen=True, slots=True)
class Answer:
    """The HTTP response of a page."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = _PLAIN


#: Returns a page for the client's `Accept` header.
Page = Callable[[str], Awaitable[Answer]]


class Endpoint:
    """The HTTP server. Call `start` once and `stop` once."""

    def __init__(self, pages: Mapping[str, Page]) -> None:
        """Take the pages by their paths."""
        self._pages = pages
        self._servers: list[asyncio.Server] = []
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}  # the oldest first

    async def start(self, listening: list[socket.socket]) -> None:
        """Serve on these sockets and take ownership of them."""
        for each in listening:
            self._servers.append(await asyncio.start_server(self._connected, sock=each, limit=_MOST_HEADER_BYTES))

    async def stop(self) -> None:
        """Close the listening sockets and abort open connections."""
        for server in self._servers:
            server.close()
        tasks = [*self._open]
        for task in tasks:
            self._cut(task)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= _MOST_CONNECTIONS:
            self._cut(next(iter(self._open)))
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._open[task] = writer
        task.add_done_callback(lambda task: self._open.pop(task, None))

    def _cut(self, task: asyncio.Task[None]) -> None:
        self._open.pop(task).transport.abort()  # a cancelled task that never started closes nothing
        task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request in time, or abort the connection."""
        writer.transport.set_write_buffer_limits(0)  # `drain` then waits until the kernel has all data
        try:
            async with asyncio.timeout(_CLIENT_SECONDS):
                await self._converse(reader, writer)
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError, h11.LocalProtocolError):
            pass  # the client is slow or gone
        finally:
            writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST_HEADER_BYTES)
        try:
            request = await _request(connection, reader)
        except h11.RemoteProtocolError as wrong:
            status = HTTPStatus(wrong.error_status_hint)
            request, answer = None, Answer(f"{wrong}\n".encode(), status)
        else:
            if request is None:
                return
            answer = await self._answer(request)
        bodiless = request is not None and request.method == b"HEAD"
        headers = [
            ("content-type", answer.content_type),
            ("content-length", str(len(answer.body))),
            ("cache-control", "no-store"),
            ("connection", "close"),
            *([("allow", "GET, HEAD")] if answer.status is HTTPStatus.METHOD_NOT_ALLOWED else []),
        ]
        sent = (
            connection.send(h11.Response(status_code=answer.status, reason=answer.status.phrase, headers=headers))
            or b""
        )
        sent += b"" if bodiless else connection.send(h11.Data(answer.body)) or b""
        writer.write(sent)
        await writer.drain()

    async def _answer(self, request: h11.Request) -> Answer:
        if request.method not in {b"GET", b"HEAD"}:
            return Answer(b"GET or HEAD is expected\n", HTTPStatus.METHOD_NOT_ALLOWED)
        page = self._pages.get(_path(request.target))
        if page is None:
            there = ", ".join(self._pages)
            return Answer(f"there is no such page; use one of {there}\n".encode(), HTTPStatus.NOT_FOUND)
        accepted = b", ".join(value for name, value in request.headers if name == b"accept")
        try:
            return await page(accepted.decode("latin-1"))
        except Exception:  # noqa: BLE001  any failure gets an answer, and a traceback in the log
            _log.exception("a page cannot be given")
            return Answer(b"the page cannot be given; the log says why\n", HTTPStatus.INTERNAL_SERVER_ERROR)


def _path(target: bytes) -> str:
    """Return the path of a request target, which may be a whole URL, as for a proxy (RFC 9112)."""
    try:
        return urlsplit(target.decode("ascii")).path
    except ValueError:
        return ""


async def _request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """Return the request, or None when the client disconnects early. Raises RemoteProtocolError."""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        with suppress(ConnectionError):
            data = await reader.read(_READ_BYTES)
            connection.receive_data(data)
            continue
        return None
