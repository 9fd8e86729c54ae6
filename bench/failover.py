"""What clients see when the database fails, and what is lost: a table of failures.

make failover [QUICK=1]

Each row starts a PostgreSQL of its own and one console process's store with fifty writers. Then the failure happens.
Every change adds a domain, adds 1 to a number that all writers share, and records itself, so a lost change, a lost
update, a doubled record and a wrong answer are all found. Writes bench/results/failover.md and the table of
docs/cluster.md. Everything is on this machine, fsync is off: a killed PostgreSQL process loses nothing by that. About
three minutes. Ends with status 1 when something was lost where nothing may be.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from databases import both_hosts
from engines import make_store
from fault_proxy import FaultProxy, Moment
from postgresql import Database, PostgresqlServer, postgresql_server
from writers import Found, Seen, Writers, found, opened_store

from server.storage.postgresql.engine import WRITE_LOCK

from speed.tables import put_between_marks  # isort: skip  a neighbour, not a package

RESULTS = Path(__file__).parent / "results" / "failover.md"
DOCUMENT = Path(__file__).parent.parent / "docs" / "cluster.md"
_WRITERS = 50
#: So long the writers go on before the failure and after it.
_CALM_SECONDS = 1.5
_TITLE = f"""# What clients see when the database fails, and what is lost

Made by `make failover`: {_WRITERS} writers on one node, one failure for each row. "75" is the exit status of
`temporary locked`. "Lost" counts acknowledged changes; it may be more than 0 only with an asynchronous replica, where
`audit verify` tells of the loss. In that row the replica was cut off 0.3 s before.

"""
_HEAD = (
    "Failure",
    "Done",
    "75: nothing changed",
    "75: not known",
    "of these stored",
    "and not stored",
    "Longest gap, s",
    "Longest wait, s",
    "Lost",
    "Doubled",
    "Lost updates",
    "Wrong answers",
)


@dataclass(frozen=True)
class Stage:
    """A database with a store, a proxy in front of it, and perhaps a replica."""

    server: PostgresqlServer
    database: Database
    proxy: FaultProxy
    replica: PostgresqlServer | None
    writers: Writers

    @property
    def other(self) -> PostgresqlServer:
        """The replica of a case that has one."""
        if self.replica is None:
            message = "this case has no replica"
            raise ValueError(message)
        return self.replica


Failure = Callable[[Stage], Awaitable[None]]


@dataclass(frozen=True)
class Row:
    """A failure and what came of it. `promised` is False where acknowledged changes may be lost."""

    name: str
    seen: Seen
    found: Found
    promised: bool

    def cells(self) -> Sequence[object]:
        """Return the cells of the table."""
        seen, store = self.seen, self.found
        return (
            self.name,
            len(seen.acknowledged),
            len(seen.refused),
            len(seen.unknown),
            store.unknown_and_stored,
            store.unknown_and_not,
            f"{seen.gap_seconds:.1f}",
            f"{seen.longest_seconds:.1f}",
            len(store.lost),
            len(store.doubled),
            store.lost_updates,
            len(store.refused_but_stored),
        )

    def faults(self) -> list[str]:
        """Return what must not be."""
        if self.promised:
            return [f"{self.name}: {fault}" for fault in self.found.faults()]
        return [] if self.found.findings else [f"{self.name}: audit verify does not tell of the loss"]


async def _restart(stage: Stage, mode: str, away_seconds: float) -> None:
    await asyncio.to_thread(stage.server.stop, mode)
    await asyncio.sleep(away_seconds)
    await asyncio.to_thread(stage.server.start)


async def restart_fast(stage: Stage) -> None:
    """Restart the server."""
    await _restart(stage, "fast", 0)


async def restart_immediate(stage: Stage) -> None:
    """Crash the server, and start it a second later."""
    await _restart(stage, "immediate", 1)


async def stay_away(stage: Stage) -> None:
    """Crash the server, and start it after more than the patience of a change."""
    await _restart(stage, "immediate", 8)


async def kill_and_promote(stage: Stage) -> None:
    """Kill the primary and promote its replica."""
    await asyncio.to_thread(stage.server.kill)
    await asyncio.to_thread(stage.other.promote)


async def lag_kill_and_promote(stage: Stage) -> None:
    """Let the replica fall behind, kill the primary, and promote the replica."""
    await asyncio.to_thread(stage.other.configure, "primary_conninfo", "")
    await asyncio.sleep(0.3)
    await kill_and_promote(stage)


async def become_read_only(stage: Stage) -> None:
    """Promote the replica while the primary goes on and can only be read."""
    await asyncio.to_thread(stage.server.configure, "default_transaction_read_only", "on")
    await asyncio.sleep(0.5)  # the replica receives the last changes
    await asyncio.to_thread(stage.other.promote)


async def stop_the_replica(stage: Stage) -> None:
    """Stop the synchronous replica for eight seconds."""
    stage.other.suspend()
    await asyncio.sleep(8)
    stage.other.resume()


async def stop_the_replica_for_long(stage: Stage) -> None:
    """Stop the synchronous replica for longer than the search for a COMMIT."""
    stage.other.suspend()
    await asyncio.sleep(18)
    stage.other.resume()


def cut_commits(moment: Moment) -> Failure:
    """Lose the connections of twenty COMMITs."""

    async def cut(stage: Stage) -> None:
        for _ in range(20):
            stage.proxy.cut_commit(moment)
            await asyncio.sleep(0.1)

    return cut


async def black_hole(stage: Stage) -> None:
    """Hold all bytes for eight seconds, then lose the connections."""
    stage.proxy.stall()
    await asyncio.sleep(8)
    stage.proxy.drop_connections()
    stage.proxy.resume()


async def drop(stage: Stage) -> None:
    """Lose all connections five times."""
    for _ in range(5):
        stage.proxy.drop_connections()
        await asyncio.sleep(0.2)


async def fill(stage: Stage) -> None:
    """Lose all connections while the database has no free one for two seconds."""
    await asyncio.to_thread(stage.database.psql, 'ALTER DATABASE "console" CONNECTION LIMIT 0')
    stage.proxy.drop_connections()
    await asyncio.sleep(2)
    await asyncio.to_thread(stage.database.psql, 'ALTER DATABASE "console" CONNECTION LIMIT -1')


async def hold_the_lock(stage: Stage) -> None:
    """Hold the lock of all changes in another session, for longer than the patience of a change."""
    held = f"SELECT pg_advisory_xact_lock({WRITE_LOCK}), pg_sleep(8)"
    await asyncio.to_thread(stage.database.psql, held)


@dataclass(frozen=True)
class Case:
    """A row to measure: a replica is `none`, `synchronous` or `asynchronous`, and may become the primary."""

    name: str
    failure: Failure
    replica: str = "none"
    promised: bool = True

    @property
    def fails_over(self) -> bool:
        """Whether the replica has the store at the end."""
        return self.failure in {kill_and_promote, lag_kill_and_promote, become_read_only}


_CUTS = tuple(Case(f"20 COMMITs lost {moment} the server's work", cut_commits(moment)) for moment in get_args(Moment))
CASES = (
    Case("PostgreSQL restarts (fast)", restart_fast),
    Case("PostgreSQL crashes, back after 1 s", restart_immediate),
    Case("PostgreSQL crashes, back after 8 s", stay_away),
    Case("Primary killed, synchronous replica promoted", kill_and_promote, "synchronous"),
    Case("Primary killed, asynchronous replica promoted", lag_kill_and_promote, "asynchronous", promised=False),
    Case("Primary becomes read-only, replica promoted", become_read_only, "asynchronous"),
    Case("Synchronous replica stands still for 8 s", stop_the_replica, "synchronous"),
    Case("Synchronous replica stands still for 18 s", stop_the_replica_for_long, "synchronous"),
    *_CUTS,
    Case("All connections lost, five times", drop),
    Case("Black hole for 8 s", black_hole),
    Case("No free connection for 2 s", fill),
    Case("Another session has the lock of changes for 8 s", hold_the_lock),
)
QUICK = (CASES[1], CASES[3], *_CUTS)


@asynccontextmanager
async def _staged(case: Case, folder: Path) -> AsyncIterator[tuple[Stage, Path]]:
    """Start a server with a store and writers, and give them with the storage key."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(postgresql_server())
        database = server.database("console")
        key = await asyncio.to_thread(make_store, database, folder / "keys")
        replica = await asyncio.to_thread(server.replica, "second") if case.replica != "none" else None
        if case.replica == "synchronous":
            await asyncio.to_thread(server.make_synchronous, "second")
        proxy = stack.enter_context(FaultProxy(server.port))
        url = both_hosts(database, replica) if replica else database.url_through(proxy.port)
        store = await stack.enter_async_context(opened_store(url, database.password_file, key))
        writers = Writers(store)
        await writers.begin()
        yield Stage(server, database, proxy, replica, writers), key


async def measured(case: Case, folder: Path) -> Row:
    """Let the failure happen under load, and compare the store with what the writers saw."""
    async with _staged(case, folder) as (stage, key):
        stage.writers.start(_WRITERS)
        await asyncio.sleep(_CALM_SECONDS)
        await case.failure(stage)
        await stage.writers.more()
        await asyncio.sleep(_CALM_SECONDS)
        seen = await stage.writers.stop()
        database = Database(stage.other, stage.database.name) if case.fails_over else stage.database
        async with opened_store(database.url, database.password_file, key) as store:
            return Row(case.name, seen, await found(store, [seen]), case.promised)


def table(rows: Sequence[Row]) -> str:
    """Return the table as Markdown."""
    lines: list[Sequence[object]] = [_HEAD, ("---", *["---:"] * (len(_HEAD) - 1)), *(row.cells() for row in rows)]
    return "".join(f"| {' | '.join(map(str, cells))} |\n" for cells in lines)


def main() -> int:
    """Measure all rows, print and write the table, and return the exit status."""
    parser = argparse.ArgumentParser(description="what clients see when the database fails, and what is lost")
    parser.add_argument("--quick", action="store_true", help="only a few rows, and no file")
    options = parser.parse_args()
    logging.disable()  # the failures are wanted
    rows, began = [], time.monotonic()
    for case in QUICK if options.quick else CASES:
        with tempfile.TemporaryDirectory() as name:
            rows.append(asyncio.run(measured(case, Path(name))))
        print(f"{time.monotonic() - began:4.0f} s  {case.name}", file=sys.stderr, flush=True)
    text = table(rows)
    print(text)
    if not options.quick:
        RESULTS.write_text(_TITLE + text, encoding="utf-8")
        put_between_marks(DOCUMENT, "failover table", text)
    faults = [fault for row in rows for fault in row.faults()]
    for fault in faults[:20]:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
