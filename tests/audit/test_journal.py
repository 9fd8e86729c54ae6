"""Records that wait for the store: waiting time, batches, and their fate at the end."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from time import monotonic

import pytest
from chains import NODE, Attacked, event

from server.audit import journal as journal_module
from server.audit.journal import MOST_WAITING, Journal
from server.errors import TemporaryError
from server.log import BackgroundLogHandler, ConsoleLines
from server.node import metrics
from server.storage.store import Store


@pytest.fixture
def files(tmp_path: Path) -> Attacked:
    """The files of an empty store."""
    return Attacked.make(tmp_path)


@pytest.fixture
async def store(files: Attacked) -> AsyncIterator[Store]:
    """The store, opened as the server opens it."""
    store = await files.opened()
    yield store
    await store.close()


def _held(files: Attacked) -> sqlite3.Connection:
    """Return the connection of another program that blocks all writers."""
    other = sqlite3.connect(files.prepared.database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    return other


def _read(journal: Journal, metric: metrics.Metric) -> float:
    (value,) = (value for reading in journal.readings() if reading.metric is metric for _, value in reading.values)
    assert isinstance(value, float | int)
    return value


async def test_the_waiting_time_of_records_reveals_a_blocked_store(files: Attacked, store: Store) -> None:
    """The alert once used the number of waiting records, which is never zero on a busy console."""
    journal = Journal(store)
    longest_seconds = 0.0
    began = monotonic()
    for number in range(60):  # three seconds of work: six batches
        journal.record_soon(event(number))
        await asyncio.sleep(0.05)
        longest_seconds = max(longest_seconds, _read(journal, metrics.AUDIT_WAITING_SECONDS))
    assert longest_seconds < (monotonic() - began) * 0.7
    await journal.flush()
    assert _read(journal, metrics.AUDIT_WAITING_SECONDS) == _read(journal, metrics.AUDIT_WAITING) == 0
    with closing(_held(files)):
        journal.record_soon(event(60))
        began = monotonic()
        while monotonic() - began < 1.5:
            await asyncio.sleep(0.05)
            journal.record_soon(event(61))
        assert _read(journal, metrics.AUDIT_WAITING_SECONDS) >= 1.5
    await journal.close()
    assert _read(journal, metrics.AUDIT_WAITING_SECONDS) == 0


async def test_waiting_records_are_logged_once_and_their_end_once(
    files: Attacked, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(store)
    caplog.set_level(logging.INFO)
    with closing(_held(files)):
        journal.record_soon(event(1))
        await asyncio.sleep(3)  # three batches are refused
    while _read(journal, metrics.AUDIT_WAITING):  # noqa: ASYNC110  the journal tells nobody when it has written
        await asyncio.sleep(0.05)
    await journal.close()
    told = [text for text in caplog.messages if text.startswith("audit records")]
    assert told == [
        "audit records wait for the store: the store is busy, nothing was changed; try again (1 records)",
        "audit records are stored again",
    ]


async def test_queued_records_are_stored_in_order_between_changes(files: Attacked, store: Store) -> None:
    journal = Journal(store)
    for number in range(MOST_WAITING):
        journal.record_soon(event(number))
    flushing = asyncio.create_task(journal.flush())
    seen: list[int] = []
    while not flushing.done():
        async with store.transaction() as query:
            ((count,),) = await query("SELECT count(*) FROM audit")
        seen.append(int(count))
    assert len(set(seen)) > 3, "a change waited for all of them"
    await flushing
    await journal.close()
    assert files.sql(("SELECT count(*), max(seq) FROM audit WHERE node = ?", (NODE,))) == [(MOST_WAITING, MOST_WAITING)]
    assert files.sql("SELECT count(*) FROM audit WHERE detail != 'declare domain d' || (seq - 1)") == [(0,)]


async def test_a_stop_with_a_blocked_store_logs_every_record(files: Attacked, store: Store, tmp_path: Path) -> None:
    """A hundred thousand lines once took four seconds at the stop, and the log queue holds ten thousand."""
    journal = Journal(store)
    with (tmp_path / "log").open("w+b") as file, closing(_held(files)):
        log = BackgroundLogHandler(file.fileno())
        log.setFormatter(ConsoleLines())
        logger = logging.getLogger("ecss-console.audit")
        logger.addHandler(log)
        try:
            for number in range(MOST_WAITING + 100):
                journal.record_soon(event(number))
            assert _read(journal, metrics.AUDIT_LOST) == 100
            with pytest.raises(TemporaryError):
                await journal.flush()
            assert _read(journal, metrics.AUDIT_WAITING) == MOST_WAITING
            await journal.close()
        finally:
            logger.removeHandler(log)
            log.close()
        file.seek(0)
        lines = file.read().decode().splitlines()
    told = sum("not in the store, the store is busy" in line for line in lines)
    rest = [int(line.split()[4]) for line in lines if "more records are not in the store" in line]
    assert told + sum(rest) == MOST_WAITING
    assert sum("which takes nothing" in line for line in lines) == 100
    assert not any("lines of the log were lost" in line for line in lines)


async def test_records_that_the_store_never_took_are_not_called_stored(
    files: Attacked, store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next try waited behind the last one, and found nothing that waits: on PostgreSQL a try takes long."""
    caplog.set_level("INFO", "ecss-console.audit")
    monkeypatch.setattr(journal_module, "BATCH_SECONDS", 0.01)
    journal = Journal(store)
    with closing(_held(files)):
        journal.record_soon(event(1))
        async with asyncio.timeout(20):
            while "audit records wait for the store" not in caplog.text:  # noqa: ASYNC110  a log tells nobody
                await asyncio.sleep(0.02)
        await journal.close()
    assert "not in the store, the store is busy" in caplog.text
    assert "stored again" not in caplog.text, caplog.text


async def test_a_lone_surrogate_blocks_no_record(store: Store) -> None:
    """One in a configuration or a non-UTF-8 name once blocked every later record."""
    journal = Journal(store)
    for number, name in enumerate(("one", "\udcff two", "three")):
        journal.record_soon(replace(event(number), user_name=name))
    await journal.flush()
    stored = await store.read("SELECT user_name FROM audit ORDER BY id DESC LIMIT 3")
    assert stored == [("three",), ("? two",), ("one",)]
    await journal.close()
