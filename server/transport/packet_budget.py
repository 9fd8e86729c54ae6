"""Share the event loop between connections by limiting the SSH packets handled in one iteration.

asyncssh handles all packets that it has read before it returns to the loop. Packets cost the server far more than
their sender: a key exchange takes a millisecond, a channel request a few tasks. One budget for all connections keeps
each iteration short. When the budget is spent, payers take turns of a few packets each. A payer is a user, or an
address before the login. So sixty connections of one user that send without a pause delay a login no more than one.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Protocol

#: The most packets that all connections handle in one iteration of the event loop, and the most time for them. The
#: number is limited too, because a packet may start a task that costs ten times its own handling.
PACKETS_PER_TURN = 64
TURN_SECONDS = 0.005
#: The packets that a waiting connection handles in its turn, before the next connection.
PACKETS_AT_ONCE = 8


class Waiting(Protocol):
    """A connection or channel whose packets may wait for a later turn."""

    @property
    def payer(self) -> str:
        """The user, or before the login the address, that the packets are charged to."""

    def take_turn(self) -> None:
        """Handle the waiting packets. Call `take` of the budget before each."""


class PacketBudget:
    """The budget of packets for each iteration of the event loop. Connections beyond it wait in a queue."""

    def __init__(self) -> None:
        """Begin with a full budget."""
        self._waiting: dict[str, dict[Waiting, None]] = {}
        self._left = self._left_at_once = PACKETS_PER_TURN
        self._until = 0.0
        self._renewing = False

    def take(self, waiting: Waiting) -> bool:
        """Take one packet from the budget. After False, the budget calls `waiting.take_turn` later."""
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
            self._left_at_once = PACKETS_PER_TURN  # the limit of a turn does not apply to new packets

    def _next(self) -> Waiting | None:
        """Remove the first payer's first connection, and move the payer to the end. None when it is closed."""
        payer = next(iter(self._waiting))
        waiters = self._waiting.pop(payer)
        waiting = next(iter(waiters), None)
        if waiting is not None:
            del waiters[waiting]
        if waiters:
            self._waiting[payer] = waiters
        return waiting
