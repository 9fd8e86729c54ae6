"""Changes that wait for the disk share a commit, and each succeeds or fails alone."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest
from console import ConsoleServer

from server.audit.journal import Journal
from server.audit.verify import findings, inspect
from server.cooperative import Turns
from server.errors import TemporaryError
from server.model.events import Event, EventKind
from server.storage import domains
from server.storage.store import Store
from server.storage.uncut import CommittedError

NOW = "2026-11-24T10:00:00.000+00:00"
WRITERS = 32


def commits(database: Path) -> int:
    """Count the commits in the write-ahead log: frames with the database size after the commit."""
    log = database.with_name(database.name + "-wal").read_bytes()
    (page_size,) = struct.unpack(">I", log[8:12])
    salts = log[16:24]
    frames = range(32, len(log), 24 + page_size)
    return sum(log[at + 8 : at + 16] == salts and log[at + 4 : at + 8] != bytes(4) for at in frames)


async def declare(store: Store, name: str) -> None:
    """Declare a domain in a transaction of its own."""
    async with store.transaction() as query:
        await domains.insert(query, name, NOW)


async def declared(store: Store) -> set[str]:
    """Return the names of the stored domains."""
    return {name for (name,) in await store.read("SELECT name FROM domains")}


async def test_waiting_changes_share_a_commit(store: Store, tmp_path: Path) -> None:
    await declare(store, "first")
    before = commits(tmp_path / "console.db")
    await asyncio.gather(*(declare(store, f"d{number}") for number in range(WRITERS)))
    assert commits(tmp_path / "console.db") == before + 1
    assert len(await declared(store)) == WRITERS + 1


@pytest.mark.parametrize("failing", [0, 1, 5, WRITERS - 1])
async def test_a_failing_change_rolls_back_only_itself(store: Store, failing: int) -> None:
    async def change(number: int) -> None:
        async with store.transaction() as query:
            await domains.insert(query, f"d{number}", NOW)
            if number == failing:
                await domains.insert(query, "half", NOW)
                message = "a defect"
                raise LookupError(message)

    outcomes = await asyncio.gather(*(change(number) for number in range(WRITERS)), return_exceptions=True)
    assert [type(each) for each in outcomes] == [
        LookupError if number == failing else type(None) for number in range(WRITERS)
    ]
    assert await declared(store) == {f"d{number}" for number in range(WRITERS) if number != failing}


async def test_a_caller_cancelled_during_the_group_commit_learns_of_the_commit(store: Store) -> None:
    """A change that succeeded waits for the group. Its caller must not be told that it failed."""
    ended, may_go_on = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with store.transaction() as query:
            await domains.insert(query, "first", NOW)
            ended.set()

    async def second() -> None:
        async with store.transaction() as query:
            await domains.insert(query, "second", NOW)
            await may_go_on.wait()

    one = asyncio.create_task(first())
    two = asyncio.create_task(second())
    await ended.wait()
    for _ in range(3):
        await asyncio.sleep(0.02)
        one.cancel()
    assert not one.done()
    may_go_on.set()
    with pytest.raises(CommittedError):
        await one
    await two
    assert await declared(store) == {"first", "second"}


async def test_a_caller_cancelled_inside_is_rolled_back_alone(store: Store) -> None:
    inside = asyncio.Event()

    async def cut() -> None:
        async with store.transaction() as query:
            await domains.insert(query, "cut", NOW)
            inside.set()
            await asyncio.sleep(3600)

    first = asyncio.create_task(declare(store, "first"))
    task = asyncio.create_task(cut())
    last = asyncio.create_task(declare(store, "last"))
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.gather(first, last)
    assert await declared(store) == {"first", "last"}


async def test_an_audit_batch_with_an_interrupted_waiter_is_stored_once(store: Store) -> None:
    """Ctrl-C in audit/list during the commit once queued the stored records again."""
    journal = Journal(store)
    journal.record_soon(Event(EventKind.LOGIN, NOW, "ds1", "eve", "127.0.0.1:22", "00000000"))
    ended, may_go_on = asyncio.Event(), asyncio.Event()

    async def behind() -> None:
        async with store.transaction():
            ended.set()
            await may_go_on.wait()

    flushing = asyncio.create_task(journal.flush())
    await asyncio.sleep(0)
    other = asyncio.create_task(behind())
    await ended.wait()  # the batch has succeeded and waits for the commit
    flushing.cancel()
    may_go_on.set()
    with pytest.raises(CommittedError):
        await flushing
    await other
    await journal.close()
    assert await store.read("SELECT count(*) FROM audit") == [(1,)]


async def test_a_group_on_a_full_disk_is_refused_whole(store: Store) -> None:
    """SQLite rolls the transaction back by itself on a full disk, with the changes that had succeeded."""
    await declare(store, "before")

    async def fill() -> None:
        async with store.transaction() as query:
            ((pages,),) = await query("PRAGMA page_count")
            await query(f"PRAGMA max_page_count = {pages}")
            try:
                for number in range(10_000):
                    await domains.insert(query, f"{'d' * 200}{number}", NOW)
            finally:
                await query("PRAGMA max_page_count = 1000000")

    outcomes = await asyncio.gather(declare(store, "a"), declare(store, "b"), fill(), return_exceptions=True)
    assert isinstance(outcomes[2], TemporaryError)
    assert "the disk is full" in outcomes[2].message
    stored = {"before"} | {name for name, outcome in zip("ab", outcomes, strict=False) if outcome is None}
    assert await declared(store) == stored
    await declare(store, "after")
    assert "after" in await declared(store)


@pytest.mark.parametrize("behind", [0, 1, 5])
async def test_an_unseen_sqlite_rollback_is_not_acknowledged(store: Store, behind: int) -> None:
    """The next savepoint began a new transaction, and its commit was reported to the callers of the first."""

    async def roll_back_unseen() -> None:
        async with store.transaction() as query:
            await query("ROLLBACK")  # as SQLite does by itself; an interrupted caller does not see it

    changes = [declare(store, f"d{number}") for number in range(behind)]
    outcomes = await asyncio.gather(declare(store, "first"), roll_back_unseen(), *changes, return_exceptions=True)
    assert isinstance(outcomes[0], TemporaryError)
    assert isinstance(outcomes[1], TemporaryError)
    assert outcomes[2:] == [None] * behind
    assert await declared(store) == {f"d{number}" for number in range(behind)}


async def record(store: Store, name: str, *, fails: bool = False) -> None:
    """Declare a domain in a transaction of its own, with its audit record."""
    async with store.transaction() as query:
        query.audit.add(Event(EventKind.CHANGE, NOW, "ds1", name, "127.0.0.1:22", "00000000"))
        await domains.insert(query, name, NOW)
        if fails:
            raise LookupError


async def recorded(store: Store) -> list[str]:
    """Return the users of the audit records in order, after a check of the chain."""
    inspection = await inspect(store, None, Turns().of("test"), lambda _done, _total: None)
    assert findings(inspection) == []
    return [name for (name,) in await store.read("SELECT user_name FROM audit ORDER BY id")]


async def test_the_records_of_a_group_update_their_chain_head_once(store: Store) -> None:
    """Each change once updated the head and added its row: two statements on the store's thread."""
    async with store.transaction() as query:
        await query("CREATE TABLE moves (seq INTEGER)")
        for when in ("INSERT", "UPDATE"):
            counted = "BEGIN INSERT INTO moves VALUES (new.seq); END"
            await query(f"CREATE TRIGGER on_{when} AFTER {when} ON audit_heads {counted}")
    names = [f"d{number}" for number in range(WRITERS)]
    await asyncio.gather(*(record(store, name) for name in names))
    assert await store.read("SELECT seq FROM moves") == [(WRITERS,)]
    await asyncio.gather(*(record(store, f"e{number}") for number in range(WRITERS)))
    assert await store.read("SELECT seq FROM moves") == [(WRITERS,), (2 * WRITERS,)]
    assert await recorded(store) == [*names, *(f"e{number}" for number in range(WRITERS))]


@pytest.mark.parametrize("failing", [0, 1, 5, WRITERS - 1])
async def test_a_rolled_back_change_leaves_no_record(store: Store, failing: int) -> None:
    changes = [record(store, f"d{number}", fails=number == failing) for number in range(WRITERS)]
    outcomes = await asyncio.gather(*changes, return_exceptions=True)
    assert [number for number, outcome in enumerate(outcomes) if outcome] == [failing]
    assert await recorded(store) == [f"d{number}" for number in range(WRITERS) if number != failing]
    assert await declared(store) == {*await recorded(store)}


@pytest.mark.parametrize("failing", [0, 3, 5])
async def test_a_group_without_writable_records_is_refused_whole(store: Store, failing: int) -> None:
    async with store.transaction() as query:
        refused = f"WHEN new.user_name = 'd{failing}' BEGIN SELECT RAISE(ABORT, 'no record'); END"
        await query(f"CREATE TRIGGER refuse BEFORE INSERT ON audit {refused}")
    await record(store, "before")
    outcomes = await asyncio.gather(*(record(store, f"d{number}") for number in range(6)), return_exceptions=True)
    assert ["no record" in str(outcome) for outcome in outcomes] == [True] * 6
    assert await declared(store) == {"before"}
    await record(store, "after")
    assert await recorded(store) == ["before", "after"]


async def test_a_record_that_is_no_text_fails_only_its_own_change(store: Store) -> None:
    async def broken() -> None:
        async with store.transaction() as query:
            await domains.insert(query, "broken", NOW)
            query.audit.add(None)  # type: ignore[arg-type]  # a defect of ours

    outcomes = await asyncio.gather(record(store, "a"), broken(), record(store, "b"), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), AttributeError, type(None)]
    assert await recorded(store) == ["a", "b"]


async def test_closing_waits_for_a_group(store: Store) -> None:
    changes = [asyncio.create_task(declare(store, f"d{number}")) for number in range(WRITERS)]
    await asyncio.sleep(0)
    await store.close()
    outcomes = await asyncio.gather(*changes, return_exceptions=True)
    assert outcomes == [None] * WRITERS


async def test_many_clients_add_at_once_and_each_key_is_kept(console: ConsoleServer) -> None:
    console.run("domain/declare biysk.local")
    async with console.asyncssh() as connection:
        ran = await asyncio.gather(
            *(connection.run(f"domain/biysk.local/integrations/add c{number}") for number in range(WRITERS))
        )
    keys = {str(each.stdout).split("API key: ")[1].split()[0] for each in ran}
    listed = console.run("domain/biysk.local/integrations/list")
    assert len(keys) == WRITERS
    assert all(key in listed for key in keys)
    assert console.program("audit", "verify").returncode == 0
