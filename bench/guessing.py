"""Clients that try passwords or keys, and the server's time for each refusal."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import asyncssh

from servers import Server  # isort: skip  a neighbour, not a package

_PATIENCE_SECONDS = 30


class _Guesser(asyncssh.SSHClient):
    """Sends wrong passwords up to a limit, and notes the time of each refusal."""

    def __init__(self, most: int) -> None:
        self.refused_after_seconds: list[float] = []
        self._most = most
        self._asked_at = 0.0

    def password_auth_requested(self) -> str | None:
        """Note the refusal of the last password and send another of the same length."""
        now = time.perf_counter()
        if self._asked_at:
            self.refused_after_seconds.append(now - self._asked_at)
        if len(self.refused_after_seconds) >= self._most:
            return None
        self._asked_at = time.perf_counter()
        return f"wrong-{len(self.refused_after_seconds):06d}"

    def connection_lost(self, exc: Exception | None) -> None:
        """The end of the connection is the refusal of the last password."""
        if (
            isinstance(exc, asyncssh.DisconnectError)
            and self._asked_at
            and len(self.refused_after_seconds) < self._most
        ):
            self.refused_after_seconds.append(time.perf_counter() - self._asked_at)


async def refusals(server: Server, name: str, most: int, source: str = "127.0.0.1") -> list[float]:
    """Try wrong passwords on one connection until its end or the limit; return the seconds of each."""
    guesser = _Guesser(most)
    words = {"client_factory": lambda: guesser, "client_keys": None, "local_addr": (source, 0), "username": name}
    with suppress(asyncssh.Error, OSError, TimeoutError):
        connection = await asyncio.wait_for(server.connect(**words), _PATIENCE_SECONDS)
        connection.abort()
    return guesser.refused_after_seconds


class _Offerer(asyncssh.SSHClient):
    """Offers the same key up to a limit, and notes the time of each refusal."""

    def __init__(self, key: asyncssh.SSHKey, most: int) -> None:
        self.refused_after_seconds: list[float] = []
        self._key, self._left = key, most
        self._asked_at = 0.0

    def public_key_auth_requested(self) -> asyncssh.SSHKey | None:
        """Note the refusal of the last offer and make another of the same length."""
        now = time.perf_counter()
        if self._asked_at:
            self.refused_after_seconds.append(now - self._asked_at)
        if self._left == 0:
            return None
        self._left -= 1
        self._asked_at = time.perf_counter()
        return self._key


async def offers(server: Server, name: str, most: int, key: asyncssh.SSHKey) -> list[float]:
    """Offer an unknown key on one connection up to a limit; return the seconds of each refusal."""
    offerer = _Offerer(key, most)
    words = {"client_factory": lambda: offerer, "client_keys": None, "username": name, "preferred_auth": "publickey"}
    with suppress(asyncssh.Error, OSError, TimeoutError):
        connection = await asyncio.wait_for(server.connect(**words), _PATIENCE_SECONDS)
        connection.abort()
    return offerer.refused_after_seconds
