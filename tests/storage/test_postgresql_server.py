"""The faults that tests of PostgreSQL rely on: each happens as promised, or those tests would prove nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from fault_proxy import FaultProxy, Moment
from postgresql import Database, PostgresqlServer, needs_postgresql

COMMITS = {
    "alone": ("BEGIN", "INSERT INTO stored VALUES (1)", "COMMIT"),
    "batch": ("BEGIN; INSERT INTO stored VALUES (1); COMMIT",),
}

RUN = """
from postgresql import postgresql_server
with postgresql_server() as server:
    print(server.pid, server.data, flush=True)
    input()
"""


@asynccontextmanager
async def connected(database: Database, **more: object) -> AsyncIterator[asyncpg.Connection]:
    options = {"dsn": database.url, "password": database.password_file.read_text().strip(), **more}
    connection = await asyncpg.connect(**options)
    try:
        yield connection
    finally:
        connection.terminate()


@pytest.mark.parametrize("moment", ["before", "during", "after"])
@pytest.mark.parametrize("form", COMMITS)
async def test_a_cut_commit_is_lost_by_the_client_and_stored_unless_cut_before(
    database: Database, moment: Moment, form: str
) -> None:
    database.psql("CREATE TABLE stored (n INTEGER); GRANT ALL ON stored TO console")
    with FaultProxy(database.server.port) as proxy:
        proxy.cut_commit(moment)
        async with connected(database, port=proxy.port) as connection:
            *begun, last = COMMITS[form]
            for statement in begun:
                await connection.execute(statement)
            with pytest.raises((asyncpg.PostgresConnectionError, ConnectionError)):
                await connection.execute(last)
        assert proxy.counts == {"connections": 1, moment: 1}
        _wait_for_backends_to_end(database)
        assert database.psql("SELECT count(*) FROM stored") == ("0" if moment == "before" else "1")
        async with connected(database, port=proxy.port) as connection:  # one cut was asked for
            await connection.execute("BEGIN; INSERT INTO stored VALUES (2); COMMIT")


def _wait_for_backends_to_end(database: Database) -> None:
    asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'console'"
    deadline = time.monotonic() + 20
    while database.psql(asked) != "0":
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_a_stalled_proxy_holds_answers_and_new_connections_until_it_resumes(database: Database) -> None:
    with FaultProxy(database.server.port) as proxy:
        async with connected(database, port=proxy.port) as connection:
            proxy.stall()
            answer = asyncio.create_task(connection.fetchval("SELECT 1"))
            newcomer = asyncio.create_task(
                asyncpg.connect(database.url, port=proxy.port, password=database.server.password)
            )
            done, _ = await asyncio.wait((answer, newcomer), timeout=0.3)
            assert not done
            proxy.resume()
            assert await answer == 1
            (await newcomer).terminate()


async def test_a_slow_proxy_delays_each_way_and_a_refusing_one_aborts_new_connections(database: Database) -> None:
    with FaultProxy(database.server.port) as proxy:
        async with connected(database, port=proxy.port) as connection:
            proxy.latency_seconds = 0.05
            began = time.monotonic()
            await connection.execute("SELECT 1")
            assert time.monotonic() - began >= 0.1
            proxy.refuses = True
            with pytest.raises((asyncpg.PostgresConnectionError, OSError)):
                await asyncpg.connect(database.url, port=proxy.port, password=database.server.password)
            await connection.execute("SELECT 1")
            proxy.drop_connections()
            with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)):
                await connection.execute("SELECT 1")
        assert proxy.counts == {"connections": 1, "refused": 1, "dropped": 1}


async def test_a_synchronous_replica_keeps_acknowledged_rows_when_the_primary_crashes(
    own_postgresql: PostgresqlServer,
) -> None:
    primary = own_postgresql
    replica = primary.replica("second")
    primary.make_synchronous("second")
    async with connected(primary.database("failing")) as connection:
        await connection.execute("CREATE TABLE stored (n INTEGER); INSERT INTO stored VALUES (1)")
        replica.suspend()
        unacknowledged = asyncio.create_task(connection.execute("INSERT INTO stored VALUES (2)"))
        done, _ = await asyncio.wait((unacknowledged,), timeout=0.3)
        assert not done, "a COMMIT does not wait for the replica"
        primary.kill()
        with pytest.raises((asyncpg.PostgresConnectionError, OSError)):
            await unacknowledged
    replica.resume()
    replica.promote()
    assert replica.psql("SELECT min(n) FROM stored", "failing") == "1"
    async with connected(Database(replica, "failing")) as connection:
        await connection.execute("INSERT INTO stored VALUES (3)")
    assert 0 < replica.cpu_seconds() < 30
    primary.start()  # a crashed server recovers
    assert primary.psql("SELECT min(n) FROM stored", "failing") == "1"


async def test_verify_full_accepts_the_address_of_the_certificate_only(own_postgresql: PostgresqlServer) -> None:
    authority = own_postgresql.with_tls()
    database = own_postgresql.database("encrypted")
    url = f"{database.url}?sslmode=verify-full&sslrootcert={authority}"
    with FaultProxy(own_postgresql.port) as proxy:
        async with connected(database, dsn=url, port=proxy.port) as connection:
            assert await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    with pytest.raises(ssl.SSLCertVerificationError):
        async with connected(database, dsn=url.replace("127.0.0.1", "localhost")):
            pass
    with pytest.raises(asyncpg.InvalidPasswordError):
        async with connected(database, dsn=url, password="wrong"):
            pass


@pytest.mark.slow
def test_a_server_ends_with_a_killed_test_run() -> None:
    needs_postgresql()
    words = [sys.executable, "-c", RUN]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "support")}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout is not None
        pid, data = run.stdout.readline().split()
        run.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while Path(data).parent.exists():
        assert time.monotonic() < deadline, "the files are still there"
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}/cwd").exists()
