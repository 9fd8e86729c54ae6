"""The history is bounded in bytes, in the store and in memory, and no line is cut."""

from __future__ import annotations

import asyncio
import base64
import sqlite3
from contextlib import closing
from dataclasses import replace

from console import ADMIN, PROMPT, ConsoleServer
from hypothesis import given
from hypothesis import strategies as st
from terminals import PERSON, until

from server.audit.journal import Journal
from server.storage import history
from server.storage.history import KEPT_BYTES, KEPT_LINES, LastLines, SharedLines
from server.storage.sqlite.engine import SqliteEngine
from server.storage.store import Store
from server.storage.vault import Vault


def _stored(console: ConsoleServer) -> tuple[int, int]:
    with closing(sqlite3.connect(console.database, timeout=10)) as database:
        found = database.execute("SELECT count(*), sum(length(CAST(line AS BLOB))) FROM history").fetchone()
    return found[0], found[1] or 0


def _fill(console: ConsoleServer) -> None:
    """Put 18 MB into the history of `admin`, as an older version stored it."""
    lines = [(f'echo "{number} ' + "x" * 61_000 + '"',) for number in range(300)]
    with closing(sqlite3.connect(console.database)) as database, database:
        database.executemany("INSERT INTO history (user_name, line) VALUES ('admin', ?)", lines)


async def test_attack_a_history_of_18_megabytes_is_trimmed_at_the_next_line(stopped_console: ConsoleServer) -> None:
    """300 lines of 61 KB: each shell loaded all of them, and Ctrl-R blocked all sessions."""
    console = stopped_console
    _fill(console)
    console.start()
    assert _stored(console)[1] > 18_000_000
    shown = console.ssh("history | count").stdout.decode()
    assert shown.startswith("Count: 4\n")
    async with console.asyncssh(**PERSON) as connection:
        shell = await connection.create_process(term_type="xterm", term_size=(80, 24), encoding="utf-8")
        await shell.stdout.readuntil(PROMPT)
        shell.stdin.write("echo new\r")
        await shell.stdout.readuntil(PROMPT)
        shell.stdin.write("\x1b[A")
        assert await shell.stdout.readexactly(8) == "echo new"
    async with asyncio.timeout(15):
        await until(lambda: _stored(console)[0] <= 5)
    count, size = _stored(console)
    assert count == 5
    assert size <= KEPT_BYTES
    with closing(sqlite3.connect(console.database)) as database:
        kept = [line for (line,) in database.execute("SELECT line FROM history ORDER BY id")]
    assert [line.split()[1] for line in kept] == ['"296', '"297', '"298', '"299', "new"]
    assert all(line.endswith(('x"', "new")) for line in kept)


@given(st.lists(st.tuples(st.integers(0, 70_000), st.sampled_from("a漢😀")), max_size=30))
def test_attack_the_history_limit_keeps_the_newest_whole_lines(made: list[tuple[int, str]]) -> None:
    typed = [letter * length for length, letter in made]
    kept = LastLines(typed)
    sizes = [len(line.encode()) for line in kept]
    assert sum(sizes) <= KEPT_BYTES
    possible = [line for line in typed if len(line.encode()) <= KEPT_BYTES]
    assert list(kept) == possible[len(possible) - len(kept) :]
    assert kept.dropped == len(possible) - len(kept)
    if kept.dropped:
        assert sum(sizes) + len(possible[-len(kept) - 1].encode()) > KEPT_BYTES


def test_attack_history_keeps_a_thousand_lines_and_no_overlong_one() -> None:
    kept = LastLines(str(number) for number in range(KEPT_LINES + 7))
    kept.append("x" * (KEPT_BYTES + 1))
    assert (len(kept), kept[0], kept[-1], kept[-1:]) == (KEPT_LINES, "7", "1006", ["1006"])


def test_attack_shells_of_one_user_share_their_earlier_lines() -> None:
    """Each of 64 shells once kept its own copy of the history in memory."""
    shared = SharedLines()

    def read() -> list[str]:
        return [f"echo {number}" for number in range(100)]

    first = shared.shared("admin", read())
    second = shared.shared("admin", [*read(), "echo new"])
    assert all(one is other for one, other in zip(first, second, strict=False))
    assert list(second) == [*read(), "echo new"]
    del first
    third = shared.shared("admin", read())
    assert third[5] is second[5]
    del second, third
    shared.shared("eve", read())
    assert set(shared._held) == {"eve"}  # noqa: SLF001  nothing is kept of those who hold nothing


async def test_attack_unstored_history_lines_are_bounded_for_each_user(stopped_console: ConsoleServer) -> None:
    """Ten thousand lines of 64 KB once waited while the store was locked: 640 MB."""
    key = base64.b64decode((stopped_console.folder / "keys" / "storage.key").read_bytes())
    store = Store(await SqliteEngine.open(stopped_console.database), Vault(key))
    ((added_at,),) = await store.read("SELECT added_at FROM users WHERE name = 'admin'")
    admin, journal = replace(ADMIN, added_at=str(added_at)), Journal(store)
    for number in range(500):
        journal.remember_soon(admin, f"{number} " + "x" * 60_000)
    assert [line.split()[0] for line in journal.lines_waiting(admin)] == ["496", "497", "498", "499"]
    assert len(await journal.earlier_lines(admin)) == 4
    await journal.flush()
    assert list(journal.lines_waiting(admin)) == []
    journal.remember_soon(replace(ADMIN, added_at="before"), "of somebody who had the name")
    await journal.close()
    assert [line.split()[0] for line in await history.lines(store, "admin")] == ["496", "497", "498", "499"]
    await store.close()


async def test_lines_typed_while_the_store_is_busy_are_stored_once(stopped_console: ConsoleServer) -> None:
    key = base64.b64decode((stopped_console.folder / "keys" / "storage.key").read_bytes())
    store = Store(await SqliteEngine.open(stopped_console.database), Vault(key))
    ((added_at,),) = await store.read("SELECT added_at FROM users WHERE name = 'admin'")
    admin, journal = replace(ADMIN, added_at=str(added_at)), Journal(store)
    journal.remember_soon(admin, "one")
    flushing = asyncio.create_task(journal.flush())
    for number in range(40):
        await asyncio.sleep(0)  # the transaction starts during this loop
        journal.remember_soon(admin, f"then {number}")
    await flushing
    await journal.close()
    assert await history.lines(store, "admin") == ["one", *(f"then {number}" for number in range(40))]
    await store.close()
