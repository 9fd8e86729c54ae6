"""The engine contract of the store: SQLite fulfils it, and every other engine must."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from engines import Opened

from server.storage.engine import Engine
from server.storage.feed import Topic

NOW = "2026-11-24T10:00:00.000+00:00"
_INSERT = "INSERT INTO domains (name, declared_as, declared_at) VALUES (?, ?, ?)"
SHARED = frozenset({Topic.DOMAINS})
_NAMES = "SELECT name FROM domains ORDER BY name"


def _soon() -> float:
    return asyncio.get_running_loop().time() + 0.5


async def _insert(engine: Engine, *names: str) -> None:
    for name in names:
        await engine.run(_INSERT, name, name, NOW)


async def test_a_write_is_visible_only_after_its_commit(engine: Engine) -> None:
    await engine.begin(_soon())
    assert engine.in_transaction
    await _insert(engine, "a")
    assert await engine.read(_NAMES) == []
    assert [*map(tuple, await engine.run(_NAMES))] == [("a",)]
    await engine.commit(SHARED)
    assert not engine.in_transaction
    assert [*map(tuple, await engine.read(_NAMES))] == [("a",)]


async def test_a_rollback_undoes_the_whole_transaction_and_may_repeat(engine: Engine) -> None:
    await engine.begin(_soon())
    await _insert(engine, "a")
    await engine.rollback()
    await engine.rollback()
    assert not engine.in_transaction
    assert await engine.read(_NAMES) == []


async def test_the_savepoint_is_the_newest_one(engine: Engine) -> None:
    await engine.begin(_soon())
    await _insert(engine, "a")
    await engine.savepoint()
    await _insert(engine, "b")
    await engine.savepoint()
    await _insert(engine, "c")
    await engine.rollback_to()
    await engine.savepoint()
    await _insert(engine, "d")
    await engine.commit(SHARED)
    assert [name for (name,) in await engine.read(_NAMES)] == ["a", "b", "d"]


async def test_many_rows_are_written_in_their_order(engine: Engine) -> None:
    await engine.begin(_soon())
    await engine.run_many("INSERT INTO history (user_name, line) VALUES (?, ?)", [("u", str(n)) for n in range(600)])
    await engine.commit(SHARED)
    rows = await engine.read("SELECT line FROM history ORDER BY id")
    assert [line for (line,) in rows] == [str(number) for number in range(600)]


async def test_a_duplicate_name_is_a_permanent_failure(engine: Engine) -> None:
    await engine.begin(_soon())
    await _insert(engine, "a")
    await engine.savepoint()
    with pytest.raises(Exception) as raised:  # noqa: PT011  each driver has its own
        await _insert(engine, "a")
    assert engine.reason(raised.value) is None
    assert engine.reason(LookupError()) is None
    await engine.rollback_to()
    await engine.commit(SHARED)
    assert [name for (name,) in await engine.read(_NAMES)] == ["a"]


async def test_another_writer_is_waited_for_and_then_reported_as_busy(
    opened: Opened, engine: Engine, tmp_path: Path
) -> None:
    other, _ = await opened(tmp_path)
    try:
        await other.begin(_soon())
        await _insert(other, "theirs")
        with pytest.raises(Exception) as raised:  # noqa: PT011  each driver has its own
            await engine.begin(_soon())
        reason = engine.reason(raised.value)
        assert reason is not None
        assert reason.busy
        assert reason.text == "the store is busy"
        waiting = asyncio.create_task(engine.begin(_soon() + 10))
        await asyncio.sleep(0)
        await other.commit(SHARED)
        await waiting
        assert [name for (name,) in await engine.run(_NAMES)] == ["theirs"]
        await engine.rollback()
    finally:
        await other.close()


async def test_waiting_for_another_program_ends_when_it_is_cancelled(
    opened: Opened, engine: Engine, tmp_path: Path
) -> None:
    other, _ = await opened(tmp_path)
    try:
        await other.begin(_soon())
        waiting = asyncio.create_task(engine.begin(_soon() + 60))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not engine.in_transaction
        await other.rollback()
        await engine.begin(_soon())
        await engine.rollback()
    finally:
        await other.close()


async def test_only_commits_of_other_programs_are_reported(opened: Opened, engine: Engine, tmp_path: Path) -> None:
    await engine.changed_elsewhere()
    other, _ = await opened(tmp_path)
    try:
        looking = asyncio.create_task(engine.changed_elsewhere())
        await engine.begin(_soon())
        await _insert(engine, "ours")
        await engine.commit(SHARED)
        done, _ = await asyncio.wait({looking}, timeout=1.5)
        assert not done
        await other.begin(_soon() + 10)
        await _insert(other, "theirs")
        await other.commit(SHARED)
        changed = await asyncio.wait_for(looking, 30)
        assert changed.elsewhere
        assert Topic.DOMAINS in changed.topics
    finally:
        await other.close()


async def test_shared_sql_means_the_same_in_every_engine(engine: Engine) -> None:
    await engine.begin(_soon())
    await engine.run("INSERT INTO history (user_name, line) VALUES (?, ?)", "Käse ÄB", '{"domain": "Biysk.Local"}')
    await engine.commit(SHARED)
    ((found, length, folded, is_text, is_integer),) = await engine.read(
        """SELECT AS_BYTES(user_name), BYTE_LENGTH(user_name), FOLD_ASCII(user_name), IS_TEXT(user_name),
                  IS_INTEGER(id) FROM history"""
    )
    assert found in {"Käse ÄB", "Käse ÄB".encode()}
    assert length == len("Käse ÄB".encode())
    assert folded == "käse Äb"
    assert is_text
    assert is_integer
    look = "SELECT count(*) FROM history WHERE CONTAINS(FOLD_ASCII(line), ?) AND CONTAINS(line, ?)"
    assert [*map(tuple, await engine.read(look, '"domain": "biysk.local"', "Biysk"))] == [(1,)]
    assert [*map(tuple, await engine.read(look, '"domain": "biysk.local"', "biysk"))] == [(0,)]


async def test_closing_may_come_twice(engine: Engine) -> None:
    await engine.close()
    await engine.close()


async def test_sizes_are_reported(engine: Engine) -> None:
    assert all(size >= 0 for size in engine.sizes_bytes())
