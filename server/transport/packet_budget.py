"""Share the event loop between connections: how many SSH packets are handled in one turn, and whose.

asyncssh handles all packets that it has read before it returns to the loop. Packets cost the server far more than
their sender: a key exchange takes a millisecond, a channel request a few tasks. One budget for all connections keeps a
turn of the loop short, whoever sends them. Where it does not do, a few packets of each payer have their turn, one
payer after another: sixty connections of one user that send without a pause delay a login by no more than one does.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Protocol

#: All connections together handle so many packets in one turn of the event loop, and for no longer than this. A packet
#: may start a task that costs ten times its own handling, so the number is limited too.
PACKETS_PER_TURN = 64
TURN_SECONDS = 0.005
#: A connection that had to wait handles so many; then the next one has its turn.
PACKETS_AT_ONCE = 8


class Waiting(Protocol):
    """A connection or channel whose packets wait for the next turn."""

    @property
    def payer(self) -> str:
        """The user, or before the login the address, whose share of the loop the packets take."""

    def take_turn(self) -> None:
        """Handle packets that had to wait; ask the budget for each."""


class PacketBudget:
    """The packets of one turn of the event loop. A connection beyond it waits behind the others."""

    def __init__(self) -> None:
        """Begin with a full budget."""
        self._waiting: dict[str, dict[Waiting, None]] = {}
        self._left = self._left_at_once = PACKETS_PER_TURN
        self._until = 0.0
        self._renewing = False

    def take(self, waiting: Waiting) -> bool:
        """Take one packet from the budget; with False, `waiting` is called back in the next turn at the latest."""
        if not self._renewing:
            self._begin()
        if self._left_at_once > 0 and not self._spent:
            self._left -= 1
            self._left_at_once -= 1
            return True
        self._waiting.setdefault(waiting.payer, {})[waiting] = None
        return False

    def forget(self, waiting: Waiting) -> None:
        """Remove a connection or channel that is closed."""
        for waiters in self._waiting.values():
            waiters.pop(waiting, None)

    @property
    def _spent(self) -> bool:
        return self._left <= 0 or monotonic() >= self._until

    def _begin(self) -> None:
        self._renewing = True
        self._left = self._left_at_once = PACKETS_PER_TURN
        self._until = monotonic() + TURN_SECONDS
        asyncio.get_running_loop().call_soon(self._renew)

    def _renew(self) -> None:
        self._renewing = False
        if not self._waiting:
            return
        self._begin()
        try:
            while self._waiting and not self._spent:
                self._left_at_once = PACKETS_AT_ONCE
                waiting = self._next()
                if waiting is not None:
                    waiting.take_turn()
        finally:
            self._left_at_once = PACKETS_PER_TURN  # new packets have not waited

    def _next(self) -> Waiting | None:
        """Take the first one that waits of the first payer, and move that payer to the end; None if it is gone."""
        payer = next(iter(self._waiting))
        waiters = self._waiting.pop(payer)
        waiting = next(iter(waiters), None)
        if waiting is not None:
            del waiters[waiting]
        if waiters:
            self._waiting[payer] = waiters
        return waiting
