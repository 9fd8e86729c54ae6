"""Copies from and to PostgreSQL that are killed or lose their connection: all or nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from backups import CLEAR, backup_made, status_of
from console import ConsoleServer
from killed import in_child
from postgresql import Database
from postgresql_copies import SQLITE_URL, in_postgresql, in_sqlite, schemas, without

from server.storage.postgresql import restoring, schema, table_copy
from server.storage.sqlite import table_copy as sqlite_table_copy


def _killed_behind(place: object, name: str) -> Callable[[], None]:
    """Return a preparation that kills the process when a function has returned."""

    def trap() -> None:
        called = getattr(place, name)

        def killed(*words: Any, **more: Any) -> Any:  # noqa: ANN401
            called(*words, **more)
            os.kill(os.getpid(), signal.SIGKILL)

        async def killed_async(*words: Any, **more: Any) -> Any:  # noqa: ANN401
            await called(*words, **more)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(place, name, killed_async if asyncio.iscoroutinefunction(called) else killed)

    return trap


_STEPS = (
    (table_copy, "_add"),
    (table_copy, "_total"),
    (restoring, "load"),
    (restoring, "_load"),
    (restoring, "write_ready"),
    (restoring, "_write_keys"),
    (restoring, "_rename"),
    (restoring, "ignore_interrupts"),
)


def _keys(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.slow
@pytest.mark.usefixtures("migrated")
def test_a_restore_killed_at_any_step_leaves_the_old_or_the_new_store(database: Database) -> None:
    """The restored store has another storage key, so keys and tables must change together."""
    backup = backup_made("b", *CLEAR)
    new, new_key = without(in_postgresql(database)), Path("keys/storage.key").read_bytes()
    database.psql("DROP SCHEMA ecss_console CASCADE")
    shutil.rmtree("keys")
    assert status_of("init") == 0
    old, keys = without(in_postgresql(database)), _keys(Path("keys"))
    for place, name in _STEPS:
        work = partial(status_of, "restore", backup, "--force", "--foreign")
        assert in_child(work, _killed_behind(place, name)) == -signal.SIGKILL, name
        assert status_of("user", "list") == 0, name
        assert without(in_postgresql(database)) == old, name
        assert _keys(Path("keys")) == keys, name
        assert status_of("audit", "verify") == 0
        assert not restoring.is_left(Path("keys"))
    for name in ("place_keys", "bounded"):
        trap = _killed_behind(restoring, name) if name == "place_keys" else _killed_at_the_commit
        assert in_child(partial(status_of, "restore", backup, "--force", "--foreign"), trap) == -signal.SIGKILL
        assert restoring.is_left(Path("keys"))
        assert status_of("user", "list") == 0, "the next program finishes"
        assert not restoring.is_left(Path("keys"))
        assert Path("keys/storage.key").read_bytes() == new_key
        assert without(in_postgresql(database)) == new
        assert status_of("audit", "verify") == 0


def _killed_at_the_commit() -> None:
    """Kill the process when the schemas are renamed and the keys are not in place."""
    bounded = table_copy.bounded

    async def killed(connection: Any, work: Any) -> Any:  # noqa: ANN401
        done = await bounded(connection, work)
        if restoring.is_left(Path("keys")):
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    setattr(restoring, "bounded", killed)  # noqa: B010  mypy takes imported names for private


@pytest.mark.slow
def test_a_migration_killed_at_any_step_starts_over(awkward: ConsoleServer, database: Database) -> None:
    before = in_sqlite(awkward.database)
    work = partial(status_of, "migrate-store", SQLITE_URL, database.url)
    for place, name in _STEPS:
        assert in_child(work, _killed_behind(place, name)) == -signal.SIGKILL, name
        assert schema.SCHEMA not in schemas(database), name
        assert in_sqlite(awkward.database) == before
    assert work() == 0
    assert schemas(database) == [schema.SCHEMA]
    assert without(in_postgresql(database)) == without(before)
    assert not [path.name for path in Path("keys").glob("*scratch*")]
    back = partial(status_of, "migrate-store", database.url, "sqlite:///var/again.db")
    steps: tuple[tuple[object, str], ...] = (
        (table_copy, "begin_snapshot"),
        (sqlite_table_copy.TableFile, "add"),
        (sqlite_table_copy.TableFile, "total"),
        (table_copy, "dump"),
    )
    for where, step in steps:
        assert in_child(back, _killed_behind(where, step)) == -signal.SIGKILL, step
        assert not Path("var/again.db").exists()
    assert back() == 0
    assert without(in_sqlite(Path("var/again.db"))) == without(before)
    assert not list(Path("var").glob("*scratch*"))


def _end_connections(database: Database) -> None:
    database.psql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )


@pytest.mark.slow
@pytest.mark.usefixtures("migrated")
@pytest.mark.parametrize("moment", ["while it loads", "before the commit", "after the commit"])
def test_a_restore_that_loses_its_connection_says_what_is_known(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], moment: str
) -> None:
    backup = backup_made("b", *CLEAR)
    new = without(in_postgresql(database))
    database.psql("DELETE FROM ecss_console.grants")
    old = without(in_postgresql(database))
    bounded = table_copy.bounded

    async def cut(connection: Any, work: Any) -> Any:  # noqa: ANN401
        commits = restoring.is_left(Path("keys"))
        if moment == ("before the commit" if commits else "while it loads"):
            await asyncio.to_thread(_end_connections, database)
        done = await bounded(connection, work)
        if moment == "after the commit" and commits:
            message = "the answer is lost"
            raise ConnectionResetError(message)
        return done

    with monkeypatch.context() as patch:
        patch.setattr("server.storage.postgresql.restoring.bounded", cut)
        patch.setattr(table_copy, "bounded", cut)
        assert status_of("restore", backup, "--force") == 1
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert ("it is not known whether the store was replaced" in told) == (moment != "while it loads"), told
    assert status_of("audit", "verify") == 0, "the next program goes on"
    assert without(in_postgresql(database)) == (new if moment == "after the commit" else old)
    assert not restoring.is_left(Path("keys"))
    assert status_of("restore", backup, "--force") == 0, "the next restore starts over"
    assert restoring.LOADING not in schemas(database)
    assert without(in_postgresql(database)) == new
