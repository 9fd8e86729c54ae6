"""Several processes write to one database: no update is lost, and a frozen one does not stop the others."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import Process
from pathlib import Path

import pytest
from postgresql import Database
from writers import Seen, Writers, found, opened_store

pytestmark = pytest.mark.slow

_PROGRAM = Path(__file__).parent.parent / "support" / "writers.py"


async def _begun(database: Database, key: Path, node: str, writers: int, seconds: float) -> Process:
    words = (database.url, database.password_file, key, node, writers, seconds)
    return await asyncio.create_subprocess_exec(
        sys.executable, _PROGRAM, *map(str, words), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


async def _seen(process: Process) -> Seen:
    output, complaints = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, complaints.decode()
    return Seen(**json.loads(output))


async def test_four_processes_with_two_hundred_writers_lose_no_update(
    store_database: Database, store_template: Path
) -> None:
    processes = [await _begun(store_database, store_template, f"ds{number}@ecss1", 50, 4.0) for number in range(1, 5)]
    seen = await asyncio.gather(*map(_seen, processes))
    async with opened_store(store_database.url, store_database.password_file, store_template) as store:
        answers = await found(store, seen)
    assert answers.faults() == []
    assert all(len(each.acknowledged) > 100 for each in seen), [len(each.acknowledged) for each in seen]
    assert [each.refused + each.unknown for each in seen] == [[], [], [], []]


async def test_a_process_that_freezes_inside_a_transaction_does_not_stop_the_others(
    store_database: Database, store_template: Path
) -> None:
    async with opened_store(store_database.url, store_database.password_file, store_template) as store:
        writers, loop = Writers(store), asyncio.get_running_loop()
        await writers.begin()
        process = await _begun(store_database, store_template, "ds2@ecss1", 5, 3600)
        held = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' AND xact_start < now()"
        try:
            async with asyncio.timeout(60):
                while True:
                    process.send_signal(signal.SIGSTOP)
                    await asyncio.sleep(0.2)  # the server has answered, and nobody reads it
                    if await asyncio.to_thread(store_database.psql, held) != "0":
                        break
                    process.send_signal(signal.SIGCONT)
                    await asyncio.sleep(0.05)
            began = loop.time()
            await writers.change("through")
            assert loop.time() - began < 5
        finally:
            process.kill()
            await process.communicate()
        async with asyncio.timeout(20):
            await writers.change("later")
