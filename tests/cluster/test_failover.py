"""The database fails under consoles with clients: bounded waits, nothing acknowledged is lost, no restart is needed."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import asyncssh
import pytest
from console import ConsoleServer
from databases import SshWriters, both_hosts, console_on, declare_domain
from fault_proxy import FaultProxy
from postgresql import Database, PostgresqlServer

from server.storage.postgresql.connection import STATEMENT_SECONDS
from server.storage.postgresql.engine import WRITE_LOCK

pytestmark = pytest.mark.slow

_AWAY = "Command error: temporary locked: the database does not answer, nothing was changed; try again"
#: Behind a change that waits for the database.
_BUSY = "Command error: temporary locked: the store is busy, nothing was changed; try again"
_LOCKED = f"SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND objid = {WRITE_LOCK} AND granted"
_RECEIVED = "SELECT count(*) = 1 FROM pg_stat_replication WHERE flush_lsn = pg_current_wal_lsn()"
#: A change waits for the database, then for an answer to one statement.
_MOST_SECONDS = 5 + STATEMENT_SECONDS + 4


def _started(database: Database, folder: Path, url: str = "", **environment: str) -> ConsoleServer:
    console = console_on(database, folder, url)
    console.prepare()
    console.start(**environment)
    declare_domain(console)
    return console


def _ended(console: ConsoleServer) -> str:
    """Stop a console, which must end well, and return its log."""
    status = console.stop()
    log = "".join(console.log)
    assert status == 0, log
    for defect in ("Traceback", "never retrieved", "incident"):
        assert defect not in log, log
    return log


def _exported_once(console: ConsoleServer, database: Database, *, complete: bool = True) -> None:
    """Compare the log of the exporter with the store: it has every record since the first start of the console once.

    A log that is not `complete` ends before the last records of other nodes.
    """
    stored = [line.split("|") for line in database.psql("SELECT id, node, seq FROM ecss_console.audit").splitlines()]
    lines = (console.folder / "audit.log").read_text().splitlines()
    exported = [[str(record["id"]), record["node"], str(record["seq"])] for record in map(json.loads, lines)]
    assert max(Counter(map(tuple, exported)).values()) == 1
    first, last = int(exported[0][0]), int(exported[-1][0])
    assert sorted(exported) == sorted(each for each in stored if first <= int(each[0]) <= last)
    assert not complete or last == max(int(each[0]) for each in stored)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_short_restart_of_the_database_goes_unseen(
    mode: str, own_postgresql: PostgresqlServer, tmp_path: Path
) -> None:
    console = await asyncio.to_thread(_started, own_postgresql.database("console"), tmp_path)
    writers = SshWriters([console])
    async with writers.writing(8):
        await writers.more(30)
        await asyncio.to_thread(own_postgresql.stop, mode)
        await asyncio.to_thread(own_postgresql.start)
        await writers.more(30)
    assert writers.ledger.refused <= 8  # a change that was running fails; all others wait
    assert await writers.complaints() == []
    await asyncio.to_thread(_ended, console)


async def test_a_database_that_stays_away_is_named_and_comes_back_without_a_restart(
    own_postgresql: PostgresqlServer, tmp_path: Path
) -> None:
    database = own_postgresql.database("console")
    console = await asyncio.to_thread(_started, database, tmp_path, ECSS_CONSOLE_METRICS__LISTEN="127.0.0.1:0")
    writers = SshWriters([console])
    async with writers.writing(4), console.asyncssh() as connection:
        await writers.more(20)
        assert (await connection.run("whoami")).exit_status == 0
        await asyncio.to_thread(own_postgresql.stop, "immediate")
        for line, refusals in (("domain/list", (_AWAY,)), ("domain/declare new.local", (_AWAY, _BUSY))):
            began = time.monotonic()
            ran = await connection.run(line)
            assert ran.exit_status == 75
            assert str(ran.stdout).startswith(refusals)
            assert time.monotonic() - began < _MOST_SECONDS
        assert await asyncio.to_thread(_readiness, console) == (503, "the store does not answer\n")
        await asyncio.to_thread(own_postgresql.start)
        await writers.more(20)
        assert (await connection.run("domain/declare new.local")).exit_status == 0
    assert writers.ledger.refused > 0
    assert await asyncio.to_thread(_readiness, console) == (200, "ok\n")
    assert await writers.complaints() == []
    await asyncio.to_thread(_ended, console)
    _exported_once(console, database)


def _readiness(console: ConsoleServer) -> tuple[int, str]:
    (address,) = {found[1] for line in console.log if (found := re.search(r"probes at (http://\S+)/metrics", line))}
    try:
        with urlopen(f"{address}/readyz", timeout=10) as answer:  # noqa: S310  of this machine
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


async def test_a_failover_to_a_synchronous_replica_loses_nothing(
    own_postgresql: PostgresqlServer, tmp_path: Path
) -> None:
    """Two nodes write; the log of each has every record once."""
    database = own_postgresql.database("console")
    replica = own_postgresql.replica("second")
    own_postgresql.make_synchronous("second")
    url = both_hosts(database, replica)
    first = await asyncio.to_thread(_started, database, tmp_path / "first", url)
    second = await asyncio.to_thread(console_on, database, tmp_path / "second", url, "ds2@ecss1")
    for name in ("keys", "id_admin", "id_admin.pub"):
        copying = shutil.copytree if name == "keys" else shutil.copy2
        copying(first.folder / name, second.folder / name)
    await asyncio.to_thread(second.start)
    writers = SshWriters([first, second])
    async with writers.writing(6):
        await writers.more(50)
        await asyncio.to_thread(own_postgresql.kill)
        await asyncio.to_thread(replica.promote)
        await writers.more(50)
    assert await writers.complaints() == []
    for console in (first, second):
        verified = await asyncio.to_thread(console.program, "audit", "verify")
        assert verified.returncode == 0, verified.stdout
    await asyncio.to_thread(_ended, second)
    await asyncio.to_thread(_ended, first)
    _exported_once(second, Database(replica, database.name), complete=False)
    _exported_once(first, Database(replica, database.name))


async def test_what_an_asynchronous_replica_has_not_received_is_noticed_and_named(
    own_postgresql: PostgresqlServer, tmp_path: Path
) -> None:
    database = own_postgresql.database("console")
    replica = own_postgresql.replica("second")
    console = await asyncio.to_thread(_started, database, tmp_path, both_hosts(database, replica))
    await asyncio.to_thread(console.run, "domain/declare kept.local")
    await asyncio.to_thread(_until, own_postgresql, _RECEIVED)
    replica.configure("primary_conninfo", "")  # it receives nothing any more
    await asyncio.to_thread(_until, own_postgresql, "SELECT count(*) = 0 FROM pg_stat_replication")
    await asyncio.to_thread(console.run, "domain/declare lost.local")
    await asyncio.to_thread(own_postgresql.kill)
    await asyncio.to_thread(replica.promote)
    assert "kept.local" in await asyncio.to_thread(console.run, "domain/list")
    assert "lost.local" not in await asyncio.to_thread(console.run, "domain/list")
    await asyncio.to_thread(console.run, "domain/declare later.local")
    verified = await asyncio.to_thread(console.program, "audit", "verify")
    assert verified.returncode == 1, verified.stdout
    assert "ds1@ecss1" in verified.stdout + verified.stderr
    assert "the audit's head of ds1@ecss1 was set back" in await asyncio.to_thread(_ended, console)


def _until(server: PostgresqlServer, condition: str) -> None:
    deadline = time.monotonic() + 20
    while server.psql(condition) != "t":
        assert time.monotonic() < deadline
        time.sleep(0.02)


async def test_a_server_that_becomes_read_only_is_left_for_the_other_host(
    own_postgresql: PostgresqlServer, tmp_path: Path
) -> None:
    database = own_postgresql.database("console")
    replica = own_postgresql.replica("second")
    console = await asyncio.to_thread(_started, database, tmp_path, both_hosts(database, replica))
    await asyncio.to_thread(_until, own_postgresql, _RECEIVED)
    own_postgresql.configure("default_transaction_read_only", "on")
    await asyncio.to_thread(replica.promote)
    await asyncio.to_thread(console.run, "domain/declare new.local")
    assert "new.local" in await asyncio.to_thread(console.run, "domain/list")  # the reads have left too
    sessions = f"SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = '{database.name}'"
    await asyncio.to_thread(_until, own_postgresql, sessions)
    await asyncio.to_thread(_ended, console)


@pytest.mark.parametrize("leaves", ["Ctrl-C", "disconnect"])
async def test_a_client_that_stops_waiting_leaves_nothing_behind(
    leaves: str, store_database: Database, store_template: Path, tmp_path: Path
) -> None:
    """Another program has the lock of all changes, and then nobody answers at all."""
    (tmp_path / "keys").mkdir(0o700)
    shutil.copy2(store_template, tmp_path / "keys")
    with FaultProxy(store_database.server.port) as proxy:
        url = store_database.url_through(proxy.port)
        console = await asyncio.to_thread(_started, store_database, tmp_path, url)
        held = f"SELECT pg_advisory_xact_lock({WRITE_LOCK}), pg_sleep(2)"
        holding = asyncio.create_task(asyncio.to_thread(store_database.psql, held))
        await asyncio.to_thread(_until, store_database.server, _LOCKED)
        await _leave(console, "domain/declare one.local", leaves)
        await holding
        await asyncio.to_thread(console.run, "domain/declare two.local")
        async with console.asyncssh() as connection:
            await connection.run("whoami")
            proxy.stall()
            for line in ("domain/declare three.local", "domain/list"):
                await _leave(console, line, leaves, connection)
            proxy.resume()
        proxy.drop_connections()
        await asyncio.to_thread(console.run, "domain/declare four.local")
        listed = await asyncio.to_thread(console.run, "domain/list")
        assert [name for name in ("one", "two", "three", "four") if f"{name}.local" in listed] == ["two", "four"]
        await asyncio.to_thread(_ended, console)


async def _leave(
    console: ConsoleServer, line: str, leaves: str, connection: asyncssh.SSHClientConnection | None = None
) -> None:
    """Run a line that waits, and leave while it does."""
    async with AsyncExitStack() as stack:
        used = connection if connection is not None else await stack.enter_async_context(console.asyncssh())
        process = await used.create_process(line, term_type="xterm")
        await asyncio.sleep(0.3)
        if leaves == "Ctrl-C":
            process.stdin.write("\x03")
            async with asyncio.timeout(15):
                assert (await process.wait()).exit_status in {75, 130}
        else:
            process.channel.abort()
