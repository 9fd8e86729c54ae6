"""Listening sockets that hand over only connections that may begin, and what those may send before the login.

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
#: asyncssh works through all that it has read before it turns to anybody else, and copies what is left for every
#: packet: a quarter of a megabyte of the smallest packets stops everybody for a tenth of a second and more.
_MOST_READ_IN_A_TURN = 2048
_MOST_READ_AFTER_LOGIN = 32 * 1024
#: A peer that is gone is noticed within two minutes: asked after 30 seconds of silence, then every 30, three times.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 30), (socket.TCP_KEEPCNT, 3))
#: The store, the listening sockets, the log and the loop need some too.
_OTHER_DESCRIPTORS = 64
#: What OpenSSH's server says; its clients show it, others need not understand it.
_PARTING = b"Not allowed at this time\r\n"


class TooMuchBeforeLoginError(ConnectionAbortedError):
    """A client that has not logged in has sent more than a login takes."""


class Doorway(socket.socket):
    """An accepted connection in the place of the given one: until the login, it takes only what a login takes.

    A megabyte of empty SSH packets costs a second of CPU; so little of it is read in a turn of the event loop that
    others have theirs, and after `most_bytes` reading raises TooMuchBeforeLoginError.
    """

    def __init__(self, accepted: socket.socket, most_bytes: int) -> None:
        """Take over the descriptor of the accepted socket."""
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        if self.family in {socket.AF_INET, socket.AF_INET6}:  # asyncssh turns it on, with the kernel's two hours
            for option, value in _KEEPALIVE:
                self.setsockopt(socket.IPPROTO_TCP, option, value)
        self._left: int | None = most_bytes

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Read what may be read now."""
        if self._left is None:
            return super().recv(min(size, _MOST_READ_AFTER_LOGIN), flags)
        if not self._left:
            raise TooMuchBeforeLoginError
        data = super().recv(min(size, self._left, _MOST_READ_IN_A_TURN), flags)
        self._left -= len(data)
        return data

    def open(self) -> None:
        """Somebody has logged in: read whatever comes, in pieces that leave others their turn."""
        self._left = None


class Gate(socket.socket):
    """A listening socket in the place of the given one, whose descriptor it takes over.

    `doorways` has the connections that it let in, by descriptor, until each is taken out as it begins: later, the
    descriptor may be another's.
    """

    def __init__(
        self,
        listening: socket.socket,
        may_begin: Callable[[str], bool],
        doorways: dict[int, Doorway],
        most_bytes: Callable[[], int],
    ) -> None:
        """Take the socket; `may_begin(address)` decides, and takes the place of a connection that may.

        `most_bytes()` is what one may send before the login.
        """
        super().__init__(listening.family, listening.type, listening.proto, fileno=listening.detach())
        self._may_begin = may_begin
        self._doorways = doorways
        self._most_bytes = most_bytes

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next connection that may begin; raises BlockingIOError when there is none for now."""
        for _ in range(_MOST_REFUSED_IN_A_TURN):
            connection, peer = super().accept()
            if self._may_begin(peer_address(peer)):
                doorway = Doorway(connection, self._most_bytes())
                self._doorways[doorway.fileno()] = doorway
                return doorway, peer
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
