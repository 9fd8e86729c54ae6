"""Clients that send packets without a pause get only the event loop time that others leave."""

from __future__ import annotations

import asyncio

from server.transport.packet_budget import PACKETS_AT_ONCE, PACKETS_PER_TURN, PacketBudget


class _Client:
    """A connection with pending packets. `handled` counts the handled ones."""

    def __init__(self, budget: PacketBudget, payer: str, packets: int) -> None:
        self.payer = payer
        self.handled = 0
        self._budget = budget
        self._packets = packets

    def take_turn(self) -> None:
        while self.handled < self._packets and self._budget.take(self):
            self.handled += 1

    @property
    def done(self) -> bool:
        return self.handled == self._packets


_ENDLESS = 10**9


async def _turns_until(client: _Client, most: int) -> int:
    for turn in range(most):
        if client.done:
            return turn
        await asyncio.sleep(0)
    return most


async def test_attack_sixty_flooding_connections_delay_no_login() -> None:
    """A connection with pending packets once continued before newly arrived work: a login took eight seconds."""
    budget = PacketBudget()
    for _ in range(60):
        _Client(budget, "viewer", _ENDLESS).take_turn()
    await asyncio.sleep(0)
    somebody = _Client(budget, "admin", 1)
    somebody.take_turn()
    assert await _turns_until(somebody, 100) <= 1


async def test_attack_connections_of_one_user_take_turns() -> None:
    budget = PacketBudget()
    flooding = [_Client(budget, "admin", _ENDLESS) for _ in range(60)]
    for client in flooding:
        client.take_turn()
    await asyncio.sleep(0)
    somebody = _Client(budget, "admin", 1)
    somebody.take_turn()
    ahead = -(-len(flooding) * PACKETS_AT_ONCE // PACKETS_PER_TURN)
    assert await _turns_until(somebody, 1000) <= 20 * ahead  # more turns if the time of a turn ends first
    assert all(client.handled for client in flooding)


async def test_attack_a_failing_connection_does_not_stop_the_waiting_ones() -> None:
    class Broken(_Client):
        def take_turn(self) -> None:
            raise OSError

    budget = PacketBudget()
    _Client(budget, "viewer", _ENDLESS).take_turn()
    broken, somebody = Broken(budget, "operator", 1), _Client(budget, "admin", 1)
    assert not budget.take(broken)
    somebody.take_turn()
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))
    assert await _turns_until(somebody, 100) <= 3
    assert len(failures) == 1
