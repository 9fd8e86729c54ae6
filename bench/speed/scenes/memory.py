"""Resident memory of idle shells, on servers that have just been started for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from servers import Server  # isort: skip  a neighbour, not a package
from speed.client import PERSON, SCRIPT, Shell
from speed.stage import FEW, Stage, list_of

_AT_ONCE = 16
_REST_SECONDS, _AT_REST_MS = 0.3, 3.0
_KINDS = {"plain": (SCRIPT, ""), "with a person's line begun": (PERSON, "who")}


def row(kind: str, count: int) -> str:
    """Return the row of `plain` shells, or of those `with a person's line begun`."""
    return f"idle shell {kind}, {count} open"


async def play(stage: Stage) -> None:
    """Open shells of both kinds on a fresh server each."""
    for kind, (client, keys) in _KINDS.items():
        for contender in stage.contenders:
            async with stage.fresh(contender) as server:
                taken = await _taken(server, stage.counts.shells, client, keys)
            for count, kb in taken.items():
                stage.figures.note(row(kind, count), server.name, kb=kb)


async def _taken(server: Server, counts: Sequence[int], client: str, keys: str) -> dict[int, float]:
    """Return the KB of each shell by their number, beyond a server that has run a command."""

    async def opened() -> Shell:
        shell = await Shell.opened(server, client)
        for key in keys:
            await shell.key(key)
        return shell

    warm = await opened()
    await warm.line(f"\x15{list_of(FEW)}" if keys else list_of(FEW))
    await _settled(server)
    before, found, shells = server.resident_kb(), dict[int, float](), list[Shell]()
    for count in counts:
        while len(shells) < count:
            shells += await asyncio.gather(*(opened() for _ in range(min(_AT_ONCE, count - len(shells)))))
        found[count] = (server.resident_kb() - before) / count
    await asyncio.gather(*(shell.close() for shell in (warm, *shells)))
    return found


async def _settled(server: Server) -> None:
    """Wait until the server has finished its work after the start."""
    before = -1.0
    while server.cpu_ms() - before > _AT_REST_MS:
        before = server.cpu_ms()
        await asyncio.sleep(_REST_SECONDS)
