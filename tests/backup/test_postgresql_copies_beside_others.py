"""Copies of a store on PostgreSQL beside nodes and subcommands that use it, and from one database to another."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import asyncpg
import pytest
from backups import CLEAR, backup_made, status_of
from console import ConsoleServer
from postgresql import Database, PostgresqlServer
from postgresql_copies import SQLITE_URL, in_postgresql, in_sqlite, schemas, without

from server.storage.postgresql import schema
from server.storage.postgresql.nodes import LEASE_SECONDS


def test_a_store_moves_within_one_engine(
    migrated: ConsoleServer, database: Database, postgresql: PostgresqlServer, capsys: pytest.CaptureFixture[str]
) -> None:
    before = in_postgresql(database)
    second = postgresql.database(f"{database.name}_second")
    try:
        assert status_of("migrate-store", database.url, second.url) == 0
        assert without(in_postgresql(second)) == without(before)
        for same in (second.url, second.url.replace("127.0.0.1", "localhost"), second.socket_url):
            assert status_of("migrate-store", second.url, same) == 1
        assert without(in_postgresql(second)) == without(before)
    finally:
        postgresql.drop(second)
    capsys.readouterr()
    assert status_of("migrate-store", SQLITE_URL, "sqlite:///other/moved.db") == 0
    assert without(in_sqlite(Path("other/moved.db"))) == without(in_sqlite(migrated.database))
    for same in ("sqlite:///other/moved.db", "sqlite:///./other/moved.db", f"sqlite:///{Path.cwd()}/other/moved.db"):
        assert status_of("migrate-store", "sqlite:///other/moved.db", same) == 1
        assert "FROM and TO are the same store" in capsys.readouterr().err


@pytest.mark.slow
def test_a_restore_is_refused_while_a_node_lives(
    migrated: ConsoleServer, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    backup = backup_made("b", *CLEAR)
    url = {
        "ECSS_CONSOLE_STORAGE__URL": database.url,
        "ECSS_CONSOLE_STORAGE__PASSWORD_FILE": str(database.password_file),
    }
    copies = (("restore", backup, "--force"), ("migrate-store", database.url, "sqlite:///away.db"))
    migrated.start(**url)
    for words in copies:
        assert status_of(*words) == 1
        assert "is served by ds1@ecss1: stop that node first" in capsys.readouterr().err
    migrated.run("domain/declare live.local")
    assert migrated.stop() == 0
    assert status_of("restore", backup, "--force") == 0  # at once
    migrated.start(**url)
    assert "live.local" not in migrated.run("domain/list")
    migrated.stop(signal.SIGKILL)
    killed = time.monotonic()
    assert status_of("restore", backup, "--force") == 1
    assert "a node that was killed counts for ten seconds" in capsys.readouterr().err
    while status_of("restore", backup, "--force") == 1:
        assert time.monotonic() - killed < LEASE_SECONDS + 20
    assert status_of("audit", "verify") == 0


@pytest.mark.slow
@pytest.mark.usefixtures("migrated")
def test_a_restore_does_not_cut_a_change_in_two(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    backup = backup_made("b", *CLEAR)
    before = schemas(database)
    with asyncio.Runner() as runner:
        password = database.password_file.read_text().strip()
        changing = runner.run(asyncpg.connect(database.url, password=password))
        # a subcommand has begun a change
        runner.run(changing.execute(f"SELECT pg_advisory_lock({schema.WRITE_LOCK})"))
        assert status_of("restore", backup, "--force") == 1
        assert "the store is busy" in capsys.readouterr().err
        assert schemas(database) == before
        runner.run(changing.close())
    assert status_of("restore", backup, "--force") == 0
