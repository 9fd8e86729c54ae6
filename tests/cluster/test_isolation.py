"""A node that does not reach the database forgets its caches when its lease ends, and a wrong clock is reported."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_proxy import FaultProxy
from faults import Faults
from nodes import NodeServer, node_row, until
from postgresql import Database

from server.storage.postgresql.nodes import LEASE_SECONDS


@pytest.mark.slow
async def test_a_node_in_a_black_hole_serves_no_cached_rights_after_its_lease(
    database: Database, new_node: Callable[[str], NodeServer]
) -> None:
    one, two = new_node("ds1@ecss1"), new_node("ds2@ecss1")
    with FaultProxy(database.server.port) as proxy:
        direct = two.settings["ECSS_CONSOLE_STORAGE__URL"]
        two.settings["ECSS_CONSOLE_STORAGE__URL"] = direct.replace(f":{database.server.port}/", f":{proxy.port}/")
        one.start()
        two.start()
        one.add_user("eve", "operator")
        async with await two.connected(username="eve") as connection:
            assert (await connection.run("date")).exit_status == 0
            proxy.stall()
            stalled_at = time.monotonic()
            locked = await asyncio.to_thread(one.run, "cocon/user/lock eve")
            assert "ds2@ecss1" in locked
            while (ran := await connection.run("date")).exit_status == 0:
                assert time.monotonic() - stalled_at < LEASE_SECONDS + 10
                await asyncio.sleep(0.2)
            assert ran.exit_status == 75, ran.stdout
            proxy.resume()
            await asyncio.wait_for(connection.wait_closed(), 20)
        until(lambda: node_row(database, "ds2@ecss1")["live"])
        two.run("domain/declare after.local")
        two.stop()
        one.stop()
        assert "Traceback" not in "".join(two.log), "".join(two.log)


def test_a_clock_that_differs_from_the_databases_is_reported(
    library: Path, new_node: Callable[[str], NodeServer], tmp_path: Path
) -> None:
    node = new_node("ds1@ecss1")
    faults = Faults.make(library, tmp_path / "control", node.folder)
    faults.set(clock_seconds=7)
    node.start(**faults.environment())
    assert node.logs("WARNING", "the clock of this node is", "seconds ahead of the database's")
    rows = json.loads(node.run("node/metrics | match skew | json"))["rows"]
    assert [row["value"] for row in rows] == [pytest.approx(7, abs=1)]
    node.run("domain/declare later.local")
    node.stop()
