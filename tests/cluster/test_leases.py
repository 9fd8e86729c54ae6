"""One live console has the name of a node. The name is free after a clean end, and ten seconds after a crash."""

from __future__ import annotations

import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest
from nodes import NodeServer, Pair, make_node, node_row, until
from postgresql import Database

from server.storage.postgresql.nodes import LEASE_SECONDS

_WAITS = "waits for the end of the lease of a console that has the name ds1@ecss1"
_PROBED = {"ECSS_CONSOLE_METRICS__LISTEN": "127.0.0.1:0"}


def _ready(node: NodeServer) -> tuple[int, str]:
    """Return status and text of the page /readyz."""
    line = next(line for line in node.log if "metrics and probes at" in line)
    url = line.split()[-1].removesuffix("/metrics") + "/readyz"
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310  http of this test's server
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_clean_end_frees_the_name_at_once(database: Database, new_node: Callable[[str], NodeServer]) -> None:
    node = new_node("ds1@ecss1")
    node.start()
    first = node_row(database, "ds1@ecss1")
    assert first["live"]
    assert first["address"] == f"127.0.0.1 port {node.port}" or first["sessions"] == 0
    assert node.stop() == 0
    assert node_row(database, "ds1@ecss1")["stopped"]
    node.start()
    second = node_row(database, "ds1@ecss1")
    assert (second["live"], second["stopped"], second["epoch"]) == (True, False, 2)
    assert second["boot"] != first["boot"]
    assert not any(_WAITS in line for line in node.log)
    assert node.stop() == 0


@pytest.mark.slow
def test_the_name_of_a_live_node_is_refused(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> None:
    second = make_node(tmp_path_factory.mktemp("second") / "ds1", pair.database, "ds1@ecss1", pair.one)
    before = node_row(pair.database, "ds1@ecss1")
    second.launch()
    assert second.process is not None
    assert second.process.wait(20) == 1
    second.stop()
    log = "".join(second.log)
    assert f"another console has the name ds1@ecss1: it listens on 127.0.0.1 port {pair.one.port}" in log
    assert "give this one another node.name, or stop that one" in log
    assert "Traceback" not in log
    assert node_row(pair.database, "ds1@ecss1")["boot"] == before["boot"]
    pair.one.run("domain/list")


@pytest.mark.slow
def test_the_name_of_a_crashed_node_is_taken_at_the_end_of_its_lease(
    database: Database, new_node: Callable[[str], NodeServer]
) -> None:
    node = new_node("ds1@ecss1")
    node.start()
    node.run("domain/declare kept.local")
    assert node.stop(signal.SIGKILL) == -signal.SIGKILL
    began = time.monotonic()
    ready = node.launch()
    assert node.logs(_WAITS)
    assert ready.wait(LEASE_SECONDS + 20), node.log
    assert time.monotonic() - began < LEASE_SECONDS + 10
    assert sum(_WAITS in line for line in node.log) == 1
    assert node_row(database, "ds1@ecss1")["epoch"] == 2
    assert "kept.local" in node.run("domain/list")
    node.stop()


@pytest.mark.slow
def test_a_start_that_waits_for_a_name_can_be_stopped(new_node: Callable[[str], NodeServer]) -> None:
    node = new_node("ds1@ecss1")
    node.start()
    node.stop(signal.SIGKILL)
    node.launch(**_PROBED)
    assert node.logs(_WAITS)
    status, text = _ready(node)
    assert status == 503
    assert _WAITS in text
    assert node.stop() == 0
    assert "Traceback" not in "".join(node.log)


@pytest.mark.slow
def test_a_frozen_node_loses_its_name_and_stops_writing_until_the_name_is_free(
    database: Database, new_node: Callable[[str], NodeServer]
) -> None:
    frozen, other = new_node("ds1@ecss1"), new_node("ds1@ecss1")
    frozen.start(**_PROBED)
    frozen.run("domain/declare before.local")
    assert frozen.process is not None
    frozen.process.send_signal(signal.SIGSTOP)
    other.launch()
    until(lambda: node_row(database, "ds1@ecss1")["epoch"] == 2, LEASE_SECONDS + 20)
    frozen.process.send_signal(signal.SIGCONT)
    status, text = frozen.told("admin", "domain/declare lost.local")
    assert status == 75, text
    assert "another console has taken the name ds1@ecss1" in text
    assert "before.local" in frozen.told("admin", "domain/list")[1]
    until(lambda: "another console has the name ds1@ecss1" in _ready(frozen)[1], told=lambda: _ready(frozen))
    assert _ready(frozen)[0] == 503
    assert frozen.logs("ERROR", "another console has taken the name ds1@ecss1")
    other.run("domain/declare other.local")
    assert other.stop() == 0
    until(lambda: _ready(frozen) == (200, "ok\n"), told=lambda: _ready(frozen))
    assert frozen.logs("has its name ds1@ecss1 again")
    frozen.run("domain/declare after.local")
    listed = frozen.run("domain/list")
    assert "other.local" in listed
    assert "lost.local" not in listed
    assert node_row(database, "ds1@ecss1")["epoch"] == 3
    assert frozen.stop() == 0
    verified = frozen.program("audit", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
