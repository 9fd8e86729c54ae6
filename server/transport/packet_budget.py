"""Share the event loop between connections: limit the SSH packets that are handled in one turn.

asyncssh handles all packets that it has read before it returns to the loop. A packet costs the server far more than
its sender: a key exchange takes a millisecond, a channel request a few tasks. One budget for all connections keeps
each turn of the loop short.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Protocol

#: All connections together handle so many packets in one turn of the event loop, and for no longer than this. A packet
#: may start a task that costs ten times its own handling, so the number is limited too.
PACKETS_PER_TURN = 64
TURN_SECONDS = 0.005


class Waiting(Protocol):
    """A connection or channel whose packets wait for the next turn."""

    def take_turn(self) -> None:
        """Handle packets that had to wait; ask the budget for each."""


class PacketBudget:
    """The packets of one turn of the event loop. Waiting connections continue in their order."""

    def __init__(self) -> None:
        """Begin with a full budget."""
        self._waiting: dict[Waiting, None] = {}
        self._left = PACKETS_PER_TURN
        self._until = 0.0
        self._renewing = False

    def take(self, waiting: Waiting) -> bool:
        """Take one packet from the budget; when it returns False it calls `waiting` back in the next turn."""
        if not self._renewing:
            self._renewing = True
            self._left, self._until = PACKETS_PER_TURN, monotonic() + TURN_SECONDS
            asyncio.get_running_loop().call_soon(self._renew)
        self._left -= 1
        if self._left >= 0 and monotonic() < self._until:
            return True
        self._waiting[waiting] = None
        return False

    def forget(self, waiting: Waiting) -> None:
        """Remove a connection or channel that is closed."""
        self._waiting.pop(waiting, None)

    def _renew(self) -> None:
        self._renewing = False
        waiting, self._waiting = self._waiting, {}
        for each in waiting:
            each.take_turn()
