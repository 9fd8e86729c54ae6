"""A COMMIT without an answer is found out: stored, not stored, or said to be unknown. It is never guessed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import get_args

import pytest
from engines import make_store
from fault_proxy import FaultProxy, Moment
from postgresql import Database, PostgresqlServer
from writers import Writers, found, opened_store, until

from server.storage.postgresql import engine as postgresql_engine
from server.storage.postgresql import lost_commit

_MOMENTS: tuple[Moment, ...] = get_args(Moment)
_UNKNOWN = "the database does not answer, and it is not known whether the change is stored; look before you try again"
_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@asynccontextmanager
async def _behind(proxy: FaultProxy, database: Database, key: Path) -> AsyncIterator[Writers]:
    """Give a writer behind the proxy, and compare the store with its answers at the end."""
    async with opened_store(database.url_through(proxy.port), database.password_file, key) as store:
        writers = Writers(store)
        await writers.begin()
        yield writers
    async with opened_store(database.socket_url, database.password_file, key) as store:
        assert (await found(store, [writers.seen])).faults() == []


def _has_cut(proxy: FaultProxy, count: int) -> bool:
    return sum(proxy.counts[moment] for moment in _MOMENTS) == count


@pytest.mark.parametrize("moment", _MOMENTS)
async def test_a_change_whose_commit_is_lost_is_answered_as_it_is_stored(
    moment: Moment, store_database: Database, store_template: Path
) -> None:
    with FaultProxy(store_database.server.port) as proxy:
        async with _behind(proxy, store_database, store_template) as writers:
            for number in range(8):
                proxy.cut_commit(moment)
                await writers.try_change(f"change-{number}")
            assert proxy.counts[moment] == 8
            assert writers.seen.unknown == []
            answers = len(writers.seen.acknowledged), len(writers.seen.refused)
            assert answers == {"before": (0, 8), "after": (8, 0)}.get(moment, answers)
            assert all("nothing was changed" in text for text in writers.seen.texts)


@pytest.mark.slow
async def test_lost_commits_of_twenty_writers_are_all_answered_rightly(
    store_database: Database, store_template: Path
) -> None:
    with FaultProxy(store_database.server.port) as proxy:
        async with _behind(proxy, store_database, store_template) as writers:
            writers.start(20)
            for number in range(30):
                proxy.cut_commit(_MOMENTS[number % 3])
                await until(partial(_has_cut, proxy, number + 1))
            await writers.more(20)
            seen = await writers.stop()
            assert seen.unknown == []
            assert seen.refused
            assert len(seen.acknowledged) > 100


async def test_an_outcome_that_cannot_be_found_out_is_said_to_be_unknown(
    store_database: Database, store_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_commit, "SEARCH_SECONDS", 0.5)
    with FaultProxy(store_database.server.port) as proxy:
        async with _behind(proxy, store_database, store_template) as writers:
            await writers.try_change("known")
            for moment in ("before", "after"):
                proxy.cut_commit(moment)
                proxy.refuses = True
                await writers.try_change(f"cut-{moment}")
                proxy.refuses = False
                await writers.try_change(f"known-{moment}")
            assert writers.seen.unknown == ["cut-before", "cut-after"]
            assert set(writers.seen.texts) == {_UNKNOWN}
            assert len(writers.seen.acknowledged) == 3


@pytest.mark.slow
@pytest.mark.parametrize("returns", [True, False])
async def test_a_commit_that_waits_for_its_replica_is_neither_cancelled_nor_answered(
    own_postgresql: PostgresqlServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, returns: bool
) -> None:
    """The replica may come back while the answer is searched, or after it."""
    monkeypatch.setattr(postgresql_engine, "_COMMIT_SECONDS", 0.5)
    monkeypatch.setattr(lost_commit, "SEARCH_SECONDS", 30.0 if returns else 2.5)
    database = own_postgresql.database("console")
    key = await asyncio.to_thread(make_store, database, tmp_path / "keys")
    replica = own_postgresql.replica("second")
    own_postgresql.make_synchronous("second")
    async with opened_store(database.url, database.password_file, key) as store:
        writers = Writers(store)
        await writers.begin()
        replica.suspend()
        changing = asyncio.create_task(writers.try_change("waits"))
        await until(lambda: database.psql(_WAITING) != "0")
        await asyncio.sleep(2)  # the server looks for its client once a second
        assert database.psql(_WAITING) != "0"
        assert await store.read("SELECT name FROM domains") == []
        if not returns:
            await changing
            assert writers.seen.unknown == ["waits"]
        assert writers.seen.acknowledged == []
        replica.resume()
        await changing
        assert writers.seen.acknowledged == (["waits"] if returns else [])
        await writers.try_change("later")
        assert writers.seen.acknowledged[-1:] == ["later"]
        answers = await found(store, [writers.seen])
        assert answers.faults() == []
        assert answers.unknown_and_stored == (0 if returns else 1)
