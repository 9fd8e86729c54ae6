"""Consoles whose store is on PostgreSQL, for tests of what happens when the database fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from console import ConsoleServer
from ledger import DOMAIN, Ledger, change_until_cut, complaints
from postgresql import Database, PostgresqlServer

_CONFIGURATION = """
node: {{name: {name}}}
storage: {{url: "{url}", password_file: "{password_file}"}}
limits: {{per_source_penalties: false}}
audit: {{log: audit.log}}
"""


def console_on(database: Database, folder: Path, url: str = "", name: str = "ds1@ecss1") -> ConsoleServer:
    """Return a console that is configured and not started, in a folder of its own."""
    configure(database, folder, url, name)
    return ConsoleServer(folder)


def configure(database: Database, folder: Path, url: str = "", name: str = "ds1@ecss1") -> None:
    """Write the configuration of a console."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = _CONFIGURATION.format(name=name, url=url or database.url, password_file=database.password_file)
    (folder / "config.yaml").write_text(settings)


class KilledNode(ConsoleServer):
    """A console that is killed and started again and again: each run has another name, because leases outlive it."""

    runs = 0

    def launch(self, **environment: str) -> threading.Event:
        """Start the server without a wait."""
        self.runs += 1
        return super().launch(**{"ECSS_CONSOLE_NODE__NAME": f"ds{self.runs % 50}@ecss1", **environment})


def both_hosts(database: Database, replica: PostgresqlServer) -> str:
    """Return a URL with the primary and its replica."""
    here = f"127.0.0.1:{database.server.port}"
    return database.url.replace(here, f"{here},127.0.0.1:{replica.port}") + "?target_session_attrs=read-write"


class SshWriters:
    """Clients of consoles, over SSH, whose changes a ledger has."""

    def __init__(self, consoles: Sequence[ConsoleServer]) -> None:
        """Take running consoles of one store, which has the domain of the ledger."""
        self.ledger = Ledger()
        self._consoles = consoles
        self._ends = False

    @asynccontextmanager
    async def writing(self, count: int) -> AsyncIterator[None]:
        """Let so many clients for each console write inside the block. They end with their present change."""
        connections = [await console.connected() for console in self._consoles for _ in range(count)]
        work = [asyncio.create_task(self._write(each, f"w{number}")) for number, each in enumerate(connections)]
        try:
            yield
        finally:
            self._ends = True
            await asyncio.gather(*work)
            for each in connections:
                each.close()

    async def more(self, count: int, seconds: float = 30) -> None:
        """Wait until so many more changes are acknowledged."""
        wanted = self.ledger.told() + count
        async with asyncio.timeout(seconds):
            while self.ledger.told() < wanted:  # noqa: ASYNC110  a ledger tells nobody
                await asyncio.sleep(0.02)

    async def complaints(self) -> list[str]:
        """Compare the store with the ledger."""
        wrong, _ = await complaints(self._consoles[0].folder, self.ledger)
        return wrong

    async def _write(self, connection: object, name: str) -> None:
        while not self._ends:
            await change_until_cut(connection, self.ledger, name, most=1)  # type: ignore[arg-type]


def declare_domain(console: ConsoleServer) -> None:
    """Declare the domain of the ledger on a running console."""
    console.run(f"domain/declare {DOMAIN}")
