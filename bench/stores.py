"""Compare a store on PostgreSQL with one on SQLite, and one, two and four nodes, in one run.

make stores [QUICK=1]

The same commands run on a console with each store, interleaved. The CPU times of the console and of the database are
kept apart. Then the same load runs on one, two and four nodes of one database. Everything is on this machine: the
nodes and the database share its cores, and no network lies between them. Writes its tables into docs/cluster.md after a
whole run. Linux only; about four minutes. Needs PostgreSQL's server.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from postgresql import Database, PostgresqlServer, postgresql_server

from server.audit.journal import utc_now
from server.config import load_config
from server.model.events import Event, EventKind
from server.model.integrations import Integration, IntegrationType
from server.storage import credentials, integrations
from server.storage.opening import open_store
from server.storage.store import Store

from servers import Server, make_key  # isort: skip  a neighbour, not a package
from speed import tables
from speed.client import SCRIPT, Batch, Shell, run
from speed.contenders import Contender, ours
from speed.figures import Figures
from speed.machine import circumstances
from speed.results import Result
from speed.scenes.adds import DOMAIN, added
from speed.seed import seed
from speed.stage import FEW, MANY, domain_of, folder_on_disk, list_of

DOCUMENT = Path(__file__).parent.parent / "docs" / "cluster.md"
SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"
_NODES = (1, 2, 4)
#: All nodes answer with one prompt, for which the client waits.
_CONFIGURATION = """
node: {{name: ds{number}@ecss1}}
prompt: {{format: "{{user}}@ds1@ecss1:{{path}}$ "}}
limits: {{per_source_penalties: false, max_startups: "500:30:600", per_source_max_startups: 500}}
storage: {storage}
"""


@dataclass(frozen=True)
class Counts:
    """The repetitions in one round."""

    rounds: int = 3
    logins: int = 160
    lists: int = 400
    long_lists: int = 3
    adds: int = 200
    writers: int = 32
    adds_of_each: int = 12
    store_adds: int = 300
    store_reads: int = 2000
    load_seconds: float = 6.0


QUICK = Counts(1, 32, 100, 1, 60, 32, 4, 100, 500, 2.0)


class NoDatabase:
    """SQLite works inside the console."""

    def cpu_seconds(self) -> float:
        """Return no time."""
        return 0.0


@dataclass(frozen=True)
class Side:
    """A console with its store, and the database whose CPU time counts with it."""

    name: str
    contender: Contender
    server: Server
    database: PostgresqlServer | NoDatabase

    @contextmanager
    def measured(self, figures: Figures, row: str) -> Iterator[Batch]:
        """Measure the operations inside: CPU of console and database for each, and the latency."""
        batch, before = Batch(self.server), self.database.cpu_seconds()
        with batch:
            yield batch
        spent_ms = (self.database.cpu_seconds() - before) * 1000
        found = batch.measures()
        figures.note(row, self.name, **found, database_cpu_ms=spent_ms / batch.count, per_second=batch.per_second())


async def logins(side: Side, counts: Counts, figures: Figures) -> None:
    """Log in with a key, sixteen at once, run one command and leave."""
    left = [None] * counts.logins

    async def client(batch: Batch) -> None:
        while left:
            left.pop()
            with batch.one():
                async with await side.server.connect() as connection:
                    await run(connection, "whoami")

    with side.measured(figures, "login with one command, 16 at once") as batch:
        await asyncio.gather(*(client(batch) for _ in range(16)))


async def lists(side: Side, counts: Counts, figures: Figures) -> None:
    """List five integrations in a shell, and ten thousand in an exec request."""
    shell = await Shell.opened(side.server, SCRIPT)
    with side.measured(figures, "list of 5") as batch:
        for _ in range(counts.lists):
            with batch.one():
                await shell.line(list_of(FEW))
    await shell.close()
    async with await side.server.connect() as connection:
        with side.measured(figures, "list of 10,000") as batch:
            for _ in range(counts.long_lists):
                with batch.one():
                    await run(connection, list_of(MANY))


async def adds(side: Side, counts: Counts, figures: Figures) -> None:
    """Add integrations from one shell, then from many at once."""
    shells = [await Shell.opened(side.server, SCRIPT) for _ in range(counts.writers)]

    async def write(shell: Shell, times: int, batch: Batch) -> None:
        for _ in range(times):
            with batch.one():
                await added(shell, _line())

    with side.measured(figures, "add, one writer") as batch:
        await write(shells[0], counts.adds, batch)
    with side.measured(figures, f"add, {counts.writers} writers at once") as batch:
        await asyncio.gather(*(write(shell, counts.adds_of_each, batch) for shell in shells))
    await asyncio.gather(*(shell.close() for shell in shells))


async def at_the_store(side: Side, counts: Counts, figures: Figures) -> None:
    """Time the store alone, without SSH: reads, look-ups of a user, and added integrations with their records."""
    async with open_store(load_config(side.contender.folder / "config.yaml"), make=False) as store:
        await _timed(figures, side.name, "store: read of 5", counts.store_reads, lambda _: _read(store))
        await _timed(figures, side.name, "store: look-up at login", counts.store_reads, lambda _: _look_up(store))
        await _timed(figures, side.name, "store: add with its record", counts.store_adds, lambda n: _add(store, n))
        began, done = time.perf_counter(), 0
        until = began + counts.load_seconds / 2

        async def write(number: int) -> None:
            nonlocal done
            while time.perf_counter() < until:
                await _add(store, number)
                done += 1

        await asyncio.gather(*(write(number) for number in range(counts.writers)))
        rate = done / (time.perf_counter() - began)
        figures.note(f"store: add, {counts.writers} writers", side.name, per_second=rate)


async def _timed(figures: Figures, name: str, row: str, times: int, work: Callable[[int], Awaitable[object]]) -> None:
    latencies = []
    for number in range(times):
        began = time.perf_counter()
        await work(number)
        latencies.append((time.perf_counter() - began) * 1000)
    figures.note(row, name, p50_ms=sorted(latencies)[len(latencies) // 2])


async def _read(store: Store) -> None:
    sql = "SELECT client_id, type, numbers, sealed_key FROM integrations WHERE domain = ? ORDER BY client_id"
    await store.read(sql, domain_of(FEW))


async def _look_up(store: Store) -> None:
    await credentials.by_name(store.read, "admin")


async def _add(store: Store, number: int) -> None:
    name = f"s{number}.{time.monotonic_ns()}"
    async with store.transaction() as query:
        widget = Integration(name, IntegrationType.WIDGET, ())
        await integrations.insert(query, store.vault, DOMAIN, widget, name.rjust(64, "0"), utc_now())
        query.audit.add(Event(EventKind.CHANGE, utc_now(), "bench", "admin", "127.0.0.1:1", "00000000", "add"))


def _line() -> str:
    return f"domain/{DOMAIN}/integrations/add at{time.monotonic_ns()}"  # the name is free


async def compared(folder: Path, key: Path, database: Database, counts: Counts, figures: Figures) -> None:
    """Run every scene on both stores, in another order each round."""
    places = {SQLITE: '{url: "sqlite:///var/console.db"}', POSTGRESQL: _place(database)}
    async with _sides(folder, key, places, database) as sides:
        for turn in range(counts.rounds):
            for scene in (logins, lists, adds, at_the_store):
                for side in sides[:: -1 if turn % 2 else 1]:
                    await scene(side, counts, figures)
            print(f"round {turn + 1} of {counts.rounds}", flush=True)


@asynccontextmanager
async def _sides(folder: Path, key: Path, places: dict[str, str], database: Database) -> AsyncIterator[list[Side]]:
    sides: list[Side] = []
    try:
        for number, (name, storage) in enumerate(places.items(), 1):
            text = _CONFIGURATION.format(number=number, storage=storage)
            contender = ours(folder / name, key, text, name)
            await seed(contender.folder, {domain_of(FEW): FEW, domain_of(MANY): MANY, DOMAIN: 0})
            counted = database.server if name == POSTGRESQL else NoDatabase()
            sides.append(Side(name, contender, await contender.start(), counted))
        yield sides
    finally:
        for side in sides:
            side.server.kill()


async def scaled(folder: Path, key: Path, database: Database, counts: Counts, figures: Figures) -> None:
    """Run the same load on one, two and four nodes: adds and short lists from 32 shells in all."""
    contenders: list[Contender] = []
    for number in range(1, max(_NODES) + 1):
        inside = folder / f"node{number}"
        if contenders:
            shutil.copytree(contenders[0].folder / "keys", inside / "keys")
        text = _CONFIGURATION.format(number=number, storage=_place(database))
        contenders.append(ours(inside, key, text, f"node {number}"))
    await seed(contenders[0].folder, {domain_of(FEW): FEW, DOMAIN: 0})
    for nodes in _NODES:
        servers = [await each.start() for each in contenders[:nodes]]
        try:
            for row, line in (("adds a second", _line), ("lists of 5 a second", lambda: list_of(FEW))):
                await _load(servers, database, counts, figures, row, line)
        finally:
            for server in servers:
                server.process.terminate()  # a clean end frees the name
                server.process.wait()
        print(f"{nodes} nodes", flush=True)


async def _load(
    servers: list[Server], database: Database, counts: Counts, figures: Figures, row: str, line: Callable[[], str]
) -> None:
    shells = [await Shell.opened(servers[index % len(servers)], SCRIPT) for index in range(counts.writers)]
    consoles_ms, database_seconds = sum(each.cpu_ms() for each in servers), database.server.cpu_seconds()
    began, done = time.perf_counter(), 0
    until = began + counts.load_seconds

    async def work(shell: Shell) -> None:
        nonlocal done
        while time.perf_counter() < until:
            await shell.line(line())
            done += 1

    await asyncio.gather(*(work(shell) for shell in shells))
    seconds = time.perf_counter() - began
    consoles_ms = sum(each.cpu_ms() for each in servers) - consoles_ms
    database_ms = (database.server.cpu_seconds() - database_seconds) * 1000
    await asyncio.gather(*(shell.close() for shell in shells))
    name = f"{len(servers)} node{'s' if len(servers) > 1 else ''}"
    figures.note(row, name, per_second=done / seconds, cpu_ms=consoles_ms / done, database_cpu_ms=database_ms / done)


def _place(database: Database) -> str:
    return f'{{url: "{database.socket_url}", password_file: "{database.password_file}"}}'


def _stores_table(figures: Figures) -> tables.Grid:
    """Return the comparison: latency and CPU of each store, and the ratio."""
    rows = []
    for row in figures.rows:
        cells = [row]
        measures = ("p50_ms", "cpu_ms", "database_cpu_ms", "per_second")
        for name, measure in ((name, measure) for measure in measures for name in (SQLITE, POSTGRESQL)):
            if (name, measure) == (SQLITE, "database_cpu_ms"):
                continue
            value = figures.median(row, name, measure)
            cells.append("–" if value is None else f"{value:.2f}" if value < 100 else f"{value:,.0f}")
        slower = figures.ratio(row, "p50_ms", POSTGRESQL, SQLITE)
        faster = figures.ratio(row, "per_second", SQLITE, POSTGRESQL)
        ratio = slower or faster
        rows.append((*cells, "–" if ratio is None else f"{ratio:.2f}"))
    header = ("", "SQLite ms", "PostgreSQL ms", "SQLite CPU ms", "PostgreSQL: console CPU ms", "its database CPU ms")
    return tables.Grid(
        "Medians of the rounds; the last column is PostgreSQL ÷ SQLite in time.",
        (*header, "SQLite a second", "PostgreSQL a second", "ratio"),
        tuple(rows),
    )


def _nodes_table(figures: Figures) -> tables.Grid:
    rows = []
    for row, by_server in figures.rows.items():
        for name in by_server:
            rate, cpu, database = (
                figures.median(row, name, each) for each in ("per_second", "cpu_ms", "database_cpu_ms")
            )
            rows.append((row, name, f"{rate:,.0f}", f"{cpu:.2f}", f"{database:.2f}"))
    header = (
        "32 shells in all",
        "nodes",
        "a second",
        "CPU ms of the consoles for each",
        "CPU ms of the database for each",
    )
    return tables.Grid("The same load on one, two and four nodes of one database.", header, tuple(rows))


async def _measured(folder: Path, server: PostgresqlServer, counts: Counts) -> tuple[Figures, Figures]:
    key, stores, nodes = folder / "id", Figures(), Figures()
    make_key(key)
    await compared(folder, key, server.database("compared"), counts, stores)
    await scaled(folder, key, server.database("scaled"), counts, nodes)
    return stores, nodes


def main() -> int:
    """Measure, print, keep; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round; nothing is written into the document")
    given = parser.parse_args()
    machine = circumstances()
    counts = QUICK if given.quick else Counts()
    # as on a real server, commits are synced to a disk
    with folder_on_disk() as name, postgresql_server(on_disk=True, fsync="on", shared_buffers="128MB") as server:
        stores, nodes = asyncio.run(_measured(Path(name), server, counts))
    grids = (_stores_table(stores), _nodes_table(nodes))
    for grid in grids:
        grid.show()
    if not given.quick:
        Result("stores", machine, stores).write()
        Result("nodes", machine, nodes).write()
        text = "\n\n".join([tables.of_circumstances(machine), *(grid.markdown() for grid in grids)])
        tables.put_between_marks(DOCUMENT, "sizing", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
