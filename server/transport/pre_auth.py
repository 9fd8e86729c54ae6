"""Sockets that limit clients before the login: the number of connections, and the bytes of each.

A refused connection costs only an accept, a short text and a close: no task, no transport and no SSH.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from contextlib import suppress
from typing import Any, Protocol

#: The refusals in one iteration of the event loop, however many connections wait.
_MOST_REFUSED_IN_A_TURN = 64
#: asyncssh handles all data it has read before it yields, and copies the rest for every packet. A quarter of a megabyte
#: of the smallest packets would block all clients for more than a tenth of a second.
_MOST_READ_IN_A_TURN = 2048
_MOST_READ_AFTER_LOGIN = 32 * 1024
#: TCP keepalive finds a dead peer within two minutes: after 30 seconds of silence, three probes 30 seconds apart.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 30), (socket.TCP_KEEPCNT, 3))
#: The descriptors of the store, the listening sockets, the log and the event loop.
_OTHER_DESCRIPTORS = 64
#: OpenSSH's server sends the same line. OpenSSH's clients show it, and others ignore it.
_NOT_ALLOWED = b"Not allowed at this time\r\n"


class TooMuchBeforeLoginError(ConnectionAbortedError):
    """A client has sent more bytes than a login needs, and has not logged in."""


class PreAuthSocket(socket.socket):
    """An accepted connection that reads at most `most_bytes` before the login.

    Beyond that it raises TooMuchBeforeLoginError. Each read is small, because a megabyte of empty SSH packets takes a
    second of CPU.
    """

    def __init__(self, accepted: socket.socket, most_bytes: int) -> None:
        """Take over the descriptor of the accepted socket."""
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        if self.family in {
            socket.AF_INET,
            socket.AF_INET6,
        }:  # asyncssh enables it, with the kernel's default of two hours
            for option, value in _KEEPALIVE:
                self.setsockopt(socket.IPPROTO_TCP, option, value)
        self._left: int | None = most_bytes

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Read no more than the client may send now. Raises TooMuchBeforeLoginError."""
        if self._left is None:
            return super().recv(min(size, _MOST_READ_AFTER_LOGIN), flags)
        if not self._left:
            raise TooMuchBeforeLoginError
        data = super().recv(min(size, self._left, _MOST_READ_IN_A_TURN), flags)
        self._left -= len(data)
        return data

    def open(self) -> None:
        """Remove the byte limit after the login. Reads stay small, so that other clients get a turn."""
        self._left = None


class Admitting(Protocol):
    """Decides whether to accept a connection."""

    #: The accepted connections by descriptor. The SSH connection removes its own entry at once, because the kernel
    #: reuses descriptors.
    pre_auth: dict[int, PreAuthSocket]

    def admit(self, address: str) -> bool:
        """Count a new connection from the address, or refuse it."""

    @property
    def most_login_bytes(self) -> int:
        """The number of bytes a client may send before the login."""


class PreAuthListener(socket.socket):
    """A listening socket that returns only admitted connections."""

    def __init__(self, listening: socket.socket, admitting: Admitting) -> None:
        """Take over the descriptor of the listening socket."""
        super().__init__(listening.family, listening.type, listening.proto, fileno=listening.detach())
        self._admitting = admitting

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next admitted connection. Raises BlockingIOError without one."""
        for _ in range(_MOST_REFUSED_IN_A_TURN):
            connection, peer = super().accept()
            if self._admitting.admit(peer_address(peer)):
                admitted = PreAuthSocket(connection, self._admitting.most_login_bytes)
                self._admitting.pre_auth[admitted.fileno()] = admitted
                return admitted, peer
            with suppress(OSError):
                connection.send(_NOT_ALLOWED)
            connection.close()
        raise BlockingIOError


def peer_address(peer: Any) -> str:  # noqa: ANN401  a socket address is anything
    """Return the IP address of a peer; empty for a local socket."""
    return str(peer[0]) if isinstance(peer, tuple) else ""


def allow_descriptors(connections: int) -> int:
    """Raise the limit of open files for this many connections. Return how many the hard limit allows."""
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
