"""Long work yields the event loop: how many turns another task gets during a filter."""

from __future__ import annotations

import asyncio
import time

import pytest

from server.cooperative import Turns
from server.grammar.filters import parse_filters
from server.grammar.tokens import tokenize
from server.render.filters import filtered
from server.render.reply import Column, Lines, Record, Reply, Script, Table

ROWS = 200


def slow(value: str) -> str:
    """Return the display text of a value that is slow to make, such as a decrypted key."""
    time.sleep(0.001)
    return value


COLUMNS = (Column("client_id", "Client id", slow),)
TABLE = Table(COLUMNS, [(f"client{number}",) for number in range(ROWS)])
SCRIPT = Script(COLUMNS, ("first",), TABLE.rows, lambda row: slow(row[0]))


@pytest.mark.parametrize("reply", [TABLE, SCRIPT], ids=["table", "script"])
@pytest.mark.parametrize("typed", ["match client1", "except client1", "regex nt1"])
async def test_filtering_many_rows_yields_the_event_loop(reply: Reply, typed: str) -> None:
    turns = 0

    async def somebody_else() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(somebody_else())
    found = await filtered(reply, parse_filters(tokenize(f"list | {typed} | count").filters), Turns().of("eve"))
    other.cancel()
    assert isinstance(found, Record)
    ones = 1 + 10 + 100  # client1, client1x, client1xx
    left = ROWS - ones + isinstance(reply, Script) if typed.startswith("except") else ones
    assert found.fields[0].value == left
    # 200 rows of a millisecond in slices of five; two turns come without a yield
    assert turns >= ROWS / 10


async def test_short_work_does_not_yield() -> None:
    """A ready reply is sent in the same turn. Another turn would cost one loop round for each line."""
    turned = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(turned.set_result, None)
    assert await filtered(
        Lines(("a", "b")), parse_filters(tokenize("pwd | match a").filters), Turns().of("eve")
    ) == Lines(["a"])
    assert not turned.done()
