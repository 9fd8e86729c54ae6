"""Several consoles on one PostgreSQL database, each a process in a folder of its own."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from console import ConsoleServer
from postgresql import Database


@dataclass
class NodeServer(ConsoleServer):
    """One node. Its settings are passed in its environment."""

    settings: dict[str, str] = field(default_factory=dict)

    def environment(self, **more: str) -> dict[str, str]:
        """Return the program's environment with the settings of the node."""
        return super().environment(**{**self.settings, **more})

    @property
    def name(self) -> str:
        """The name of the node."""
        return self.settings["ECSS_CONSOLE_NODE__NAME"]


@dataclass(frozen=True)
class Pair:
    """Two running nodes on one database."""

    database: Database
    one: NodeServer
    two: NodeServer


def add_user(node: ConsoleServer, name: str, *domains: str) -> None:
    """Add an operator with the key of `admin` over SSH, which is faster than the program's command line."""
    key = Path(f"{node.key}.pub").read_text().strip()
    node.run(f"cocon/user/add {name} --role operator --key '{key}'")
    for domain in domains:
        node.run(f"cocon/user/grant {name} {domain}")


def make_node(folder: Path, database: Database, name: str, first: NodeServer | None = None) -> NodeServer:
    """Return a node that is not started. The first one makes the store and `admin`; the others get its keys."""
    folder.mkdir(parents=True)
    settings = {
        "ECSS_CONSOLE_NODE__NAME": name,
        "ECSS_CONSOLE_STORAGE__URL": database.url,
        "ECSS_CONSOLE_STORAGE__PASSWORD_FILE": str(database.password_file),
        # failed logins of one test must not penalise the next
        "ECSS_CONSOLE_LIMITS__PER_SOURCE_PENALTY_EXEMPT_LIST": "[127.0.0.1]",
    }
    node = NodeServer(folder, settings=settings)
    if first is None:
        node.prepare()
        return node
    shutil.copytree(first.folder / "keys", folder / "keys")
    for key in ("id_admin", "id_admin.pub"):
        shutil.copy2(first.folder / key, folder / key)
    return node


@contextmanager
def running(*nodes: NodeServer) -> Iterator[None]:
    """Start the nodes, and stop those that run at the end. Their logs must have no traceback."""
    try:
        for node in nodes:
            node.start()
        yield
    finally:
        for node in nodes:
            if node.process is not None and node.process.poll() is None:
                node.stop()
    for node in nodes:
        log = "".join(node.log)
        assert "Traceback" not in log, log
        assert "never retrieved" not in log, log


@contextmanager
def stopped(node: NodeServer) -> Iterator[None]:
    """Freeze a node inside the block."""
    assert node.process is not None
    node.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        node.process.send_signal(signal.SIGCONT)


def until(found: Callable[[], object], seconds: float = 20, told: Callable[[], object] = str) -> None:
    """Wait until `found` is true; fail with `told` after some seconds."""
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, told()
        time.sleep(0.02)


def node_row(database: Database, name: str) -> dict[str, object]:
    """Return the row of a node in the database; empty without one."""
    # the names of these tests have no quotes
    found = database.psql(
        "SELECT row_to_json(n) FROM (SELECT *, lease_until > clock_timestamp() AS live FROM ecss_console.nodes) n"
        f" WHERE name = '{name}'"
    )
    row: dict[str, object] = json.loads(found) if found else {}
    return row


def change_number(database: Database) -> int:
    """Return the number of the latest change that nodes confirm."""
    return int(database.psql("SELECT number FROM ecss_console.change_counter"))
