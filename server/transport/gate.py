"""Listening sockets that hand over only connections that may begin.

A refused one costs an accept and a close: no task, no transport, nothing of SSH.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

#: After so many in one turn the event loop has its turn, however many more stand in the queue.
_MOST_REFUSED_IN_A_TURN = 64
#: The store, the listening sockets, the log and the loop need some too.
_OTHER_DESCRIPTORS = 64
#: What OpenSSH's server says; its clients show it, others need not understand it.
_PARTING = b"Not allowed at this time\r\n"


class Gate(socket.socket):
    """A listening socket in the place of the given one, whose descriptor it takes over."""

    def __init__(self, listening: socket.socket, may_begin: Callable[[str], bool]) -> None:
        """Take the socket; `may_begin(address)` decides, and takes the place of a connection that may."""
        super().__init__(listening.family, listening.type, listening.proto, fileno=listening.detach())
        self._may_begin = may_begin

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next connection that may begin; raises BlockingIOError when there is none for now."""
        for _ in range(_MOST_REFUSED_IN_A_TURN):
            connection, peer = super().accept()
            if self._may_begin(peer_address(peer)):
                return connection, peer
            with suppress(OSError):
                connection.send(_PARTING)
            connection.close()
        raise BlockingIOError


def peer_address(peer: Any) -> str:  # noqa: ANN401  a socket address is anything
    """Return the IP address in a peer's name; empty for a local socket's."""
    return str(peer[0]) if isinstance(peer, tuple) else ""


def allow_descriptors(connections: int) -> int:
    """Let the process hold that many connections, as far as its hard limit goes; return how many it can hold."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = connections + _OTHER_DESCRIPTORS
    if unlimited != soft < wanted:
        soft = wanted if hard == unlimited else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return connections if soft == unlimited else min(connections, soft - _OTHER_DESCRIPTORS)


async def listening_sockets(host: str, port: int) -> list[socket.socket]:
    """Bind a socket to each address of the host, all to one port. Raises OSError."""
    kind, flags = socket.SOCK_STREAM, socket.AI_PASSIVE
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=kind, flags=flags)
    opened: list[socket.socket] = []
    try:
        for family, _type, _protocol, _name, address in dict.fromkeys(found):
            opened.append(socket.create_server((address[0], port, *address[2:]), family=family))
            port = opened[0].getsockname()[1]
    except BaseException:
        for bound in opened:
            bound.close()
        raise
    return opened
