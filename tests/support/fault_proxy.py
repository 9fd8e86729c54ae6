"""A TCP proxy in front of PostgreSQL that loses COMMITs, holds all bytes, delays them or refuses connections."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Literal, Self

#: The moment of a cut, seen from the server's work on the COMMIT.
Moment = Literal["before", "during", "after"]

_COMMIT = re.compile(rb"\bCOMMIT\b", re.IGNORECASE)
_TLS_REQUESTS = ((80877103).to_bytes(4), (80877104).to_bytes(4))  # SSLRequest and GSSENCRequest
_TLS_HANDSHAKE = b"\x16"
_READY_FOR_QUERY = b"Z\x00\x00\x00\x05"


class FaultProxy:
    """The proxy, for the length of a `with` block. It runs in a thread, so that sync and async tests can use it.

    It reads the protocol of clients without TLS. TLS passes through it too, without cuts of COMMITs.
    `counts` has the number of connections, refused connections, dropped connections and cuts by moment.
    """

    def __init__(self, target_port: int) -> None:
        """Forward to this port of 127.0.0.1. Change `target_port` to send new connections elsewhere."""
        self.target_port = target_port
        self.port = 0
        self.latency_seconds = 0.0  #: delay of all bytes sent from now on, in each direction
        self.refuses = False  #: abort new connections; open ones stay
        self.counts: Counter[str] = Counter()
        self._cuts: deque[Moment] = deque()
        self._links: set[_Link] = set()

    def cut_commit(self, moment: Moment, count: int = 1) -> None:
        """Lose the connection of the next `count` COMMITs. More calls queue up behind this one.

        before: the server never sees the COMMIT and rolls back.
        during: the server gets the COMMIT and the client loses its connection at once, while the server commits.
        after: the server has committed, and its answer is lost.

        A COMMIT is a simple query whose text has the word: alone, or at the end of a batch of statements.
        """
        self._cuts.extend([moment] * count)

    def stall(self) -> None:
        """Hold all bytes in both directions, as a black hole does, also the end of a connection."""
        self._call(self._flows.clear)

    def resume(self) -> None:
        """Deliver what `stall` has held, and everything after it."""
        self._call(self._flows.set)

    def drop_connections(self) -> None:
        """Abort all open connections."""
        self.counts["dropped"] += len(self._links)
        self._call(self._abort_links)

    def __enter__(self) -> Self:
        started: Future[int] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main(started)), daemon=True)
        self._thread.start()
        self.port = started.result()
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._ended.set)
        self._thread.join()

    def _call(self, change: Callable[[], object]) -> None:
        async def changed() -> None:
            change()

        asyncio.run_coroutine_threadsafe(changed(), self._loop).result()

    async def _main(self, started: Future[int]) -> None:
        self._loop, self._flows, self._ended = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        self._flows.set()
        server = await asyncio.start_server(self._serve, "127.0.0.1")
        async with server:
            started.set_result(server.sockets[0].getsockname()[1])
            await self._ended.wait()
            self._abort_links()

    def _abort_links(self) -> None:
        for link in self._links:
            link.abort()

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        if self.refuses:
            self.counts["refused"] += 1
            client.transport.abort()
            return
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            self.counts["refused"] += 1
            client.transport.abort()
            return
        self.counts["connections"] += 1
        link = _Link(client, server)
        self._links.add(link)
        try:
            await asyncio.gather(
                self._forward(_messages(reader), lambda message: self._to_server(link, message), link),
                self._forward(_pieces(answers), link.to_client, link),
            )
        finally:
            self._links.discard(link)

    async def _forward(self, pieces: AsyncIterator[bytes], deliver: Callable[[bytes], None], link: _Link) -> None:
        """Deliver one direction. A queue keeps the latency from limiting the throughput."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        reading = asyncio.create_task(self._read(pieces, queue))
        try:
            while True:
                due, piece = await queue.get()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                await self._flows.wait()
                if not piece:
                    break
                deliver(piece)
        finally:
            reading.cancel()
            link.abort()

    async def _read(self, pieces: AsyncIterator[bytes], queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        with suppress(OSError, EOFError):
            async for piece in pieces:
                queue.put_nowait((self._loop.time() + self.latency_seconds, piece))
        queue.put_nowait((self._loop.time() + self.latency_seconds, b""))

    def _to_server(self, link: _Link, message: bytes) -> None:
        if not (self._cuts and message.startswith(b"Q") and _COMMIT.search(message)):
            link.server.write(message)
            return
        moment = self._cuts.popleft()
        self.counts[moment] += 1
        if moment != "before":
            link.server.write(message)
        if moment == "after":
            link.withhold_answer()
        else:
            link.abort()


class _Link:
    """One client's connection and the proxy's connection to the server for it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self._withheld: bytearray | None = None

    def withhold_answer(self) -> None:
        """Keep the next answer from the client, and abort when it is complete."""
        self._withheld = bytearray()

    def to_client(self, piece: bytes) -> None:
        """Deliver or withhold a part of an answer."""
        if self._withheld is None:
            self.client.write(piece)
            return
        self._withheld += piece
        if _READY_FOR_QUERY in self._withheld:
            self.abort()

    def abort(self) -> None:
        """Lose both connections, without a word."""
        self.client.transport.abort()
        self.server.transport.abort()


async def _pieces(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while piece := await reader.read(65536):
        yield piece


async def _messages(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Split a client's bytes into protocol messages. After a TLS handshake they come as they are read."""
    while True:  # the first packets have no type, only a length and a code
        first = await reader.readexactly(1)
        if first == _TLS_HANDSHAKE:
            yield first
            async for piece in _pieces(reader):
                yield piece
            return
        head = first + await reader.readexactly(7)
        yield head + await reader.readexactly(int.from_bytes(head[:4]) - 8)
        if head[4:] not in _TLS_REQUESTS:
            break
    while True:
        head = await reader.readexactly(5)
        yield head + await reader.readexactly(int.from_bytes(head[1:]) - 4)
