"""A newer version upgrades the store once, without nodes of the older version; none of these writes afterwards."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from console import ConsoleServer
from databases import console_on
from postgresql import Database

import server
from server.storage.postgresql.nodes import LEASE_SECONDS

pytestmark = pytest.mark.slow

_SCRIPTS = {
    "postgresql": 'CREATE TABLE later (id BIGINT);\nALTER TABLE users ADD COLUMN later TEXT COLLATE "C";\n',
    "sqlite": "CREATE TABLE later (id INTEGER);\nALTER TABLE users ADD COLUMN later TEXT;\n",
}
_SCHEMA = "SELECT value FROM ecss_console.store WHERE name = 'schema'"


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a program whose schema is newer."""
    folder = tmp_path_factory.mktemp("newer")
    shutil.copytree(Path(server.__file__).parent, folder / "server")
    for engine, script in _SCRIPTS.items():
        (folder / "server" / "storage" / engine / "migrations" / "9000_later.sql").write_text(script)
    return {"PYTHONPATH": str(folder)}


@pytest.fixture
def nodes(database: Database, tmp_path: Path) -> Iterator[list[ConsoleServer]]:
    """Six nodes of one store, not started."""
    made = [console_on(database, tmp_path / str(number), name=f"ds{number}@ecss1") for number in range(6)]
    made[0].prepare()
    for each in made[1:]:
        shutil.copytree(made[0].folder / "keys", each.folder / "keys")
        shutil.copy(made[0].key, each.key)
    yield made
    for each in made:
        if each.process is not None and each.process.poll() is None:
            each.process.send_signal(signal.SIGCONT)
            each.stop(signal.SIGKILL)


def test_an_upgrade_waits_for_nodes_of_the_older_version_and_outlives_them(
    database: Database, nodes: list[ConsoleServer], newer: dict[str, str]
) -> None:
    stopped, frozen, *upgraded = nodes
    stopped.start()
    frozen.start()
    refused = upgraded[0].program("serve", **newer)
    assert refused.returncode == 1
    assert "serve it: ds0@ecss1, ds1@ecss1: stop those nodes first" in refused.stderr
    assert database.psql(_SCHEMA) != "9000"

    assert stopped.stop() == 0
    assert frozen.process is not None
    frozen.process.send_signal(signal.SIGSTOP)
    time.sleep(LEASE_SECONDS + 0.5)
    for ready in [each.launch(**newer) for each in upgraded]:
        assert ready.wait(20)
    for each in upgraded:
        assert each.port, "".join(each.log)
        assert each.run("whoami").startswith("admin\n")
    assert database.psql(_SCHEMA) == "9000"

    late = stopped.program("serve")
    assert late.returncode == 1
    assert "has schema 9000, this program knows" in late.stderr
    frozen.process.send_signal(signal.SIGCONT)
    ran = frozen.ssh("domain/declare lost.local")
    assert (ran.returncode, "install the newer program" in ran.stdout.decode()) == (75, True)
    assert "lost.local" not in upgraded[0].run("domain/list")
    for each in upgraded:
        assert each.stop() == 0
        assert "Traceback" not in "".join(each.log)
