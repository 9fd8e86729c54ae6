"""A user with many sessions cannot monopolise the event loop, the store's writer or the threads."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from threading import Event

import pytest
from console import ConsoleServer

from server.auth.passwords import check_new_password
from server.commands import command_tree
from server.commands.documents import MOST_BYTES_IN_ALL, Documents
from server.cooperative import FairPool, FewEach, TooManyWaitError, Turns
from server.errors import ArgumentError, TemporaryError
from server.grammar.filters import parse_filters
from server.grammar.match import Invalid, match
from server.grammar.tokens import tokenize
from server.model.exports import read_rows
from server.model.integrations import new_key
from server.model.numbers import parse_numbers
from server.render.filters import filtered
from server.render.reply import Column, Lines, Record, Table
from server.render.table import table_rows
from server.storage.store import Store
from server.storage.turn import Rank

LONG = "a " * 32_000
IMPORT = "domain/biysk.local/integrations/import"


def work() -> None:
    """Block the event loop for one time slice."""
    time.sleep(0.0011)


def document(rows: int) -> str:
    """Return a document of new widgets."""
    return json.dumps([{"client_id": f"c{n}", "type": "widget", "api_key": new_key()} for n in range(rows)])


# ------------------------------------------------------------------ one line


def test_attack_an_expression_of_450_groups_is_refused_before_the_line_runs() -> None:
    line = tokenize('echo x | regex "(?:(.?)(.?)){450}c"')
    refused = match(command_tree(), (), line)
    assert isinstance(refused, Invalid)
    assert "too large" in refused.message


async def test_attack_a_long_search_yields_the_event_loop() -> None:
    turns, looked = Turns(), 0

    async def somebody_else() -> None:
        nonlocal looked
        while True:
            looked += 1
            await asyncio.sleep(0.001)

    other = asyncio.create_task(somebody_else())
    filters = parse_filters(tokenize('x | regex "(?:.?.?){110}c" | count').filters)
    async with turns.of("eve") as share:
        found = await filtered(Lines((LONG,)), filters, share)
    other.cancel()
    turns.close()
    assert isinstance(found, Record)
    assert found.fields[0].value == 0
    assert looked > 5


def test_attack_a_line_has_at_most_4096_words() -> None:
    line = tokenize("echo " + "a " * 32_000)
    assert line.mistake == "the line has more than 4,096 words; none of it was run"
    assert tokenize("echo " + '"" ' * 20_000).mistake == line.mistake
    assert tokenize("echo" + " a" * 4_095).mistake is None


def _least_seconds(work: Callable[[], object]) -> float:
    """Return the least processor time of five runs: a garbage collection in one of them is not the work's."""
    taken = []
    for _ in range(5):
        began = time.thread_time()
        work()
        taken.append(time.thread_time() - began)
    return min(taken)


def test_attack_ten_thousand_numbers_cost_less_than_one_time_slice() -> None:
    typed = ",".join(str(number) for number in range(19_999, 9_999, -1))
    plain = _least_seconds(lambda: parse_numbers(typed))
    assert plain < 35 * _least_seconds(lambda: sorted({number: len(number) for number in typed.split(",")}))
    numbers = parse_numbers(typed)
    assert numbers[0] == "10000"
    assert len(numbers) == 10_000


def test_attack_column_width_is_measured_in_chunks() -> None:
    rows = [("\n".join(["240100"] * 1_000),)] * 100
    assert sum(piece == "" for piece in table_rows(Table((Column("numbers", "Numbers"),), rows))) >= 25


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{" + ", ".join(f'"{number}": 0' for number in range(200_000)) + "}", "too much beside its rows"),
        ("[" + " " * 1_000_000 + "]", "more than 65,536 blanks begin at character 2"),
    ],
    ids=["names", "blanks"],
)
def test_attack_reading_a_document_without_rows_stops_early(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        list(read_rows(text))


def test_attack_an_error_with_a_long_word_is_shortened_in_the_audit(console: ConsoleServer) -> None:
    assert console.ssh("help " + "h/" * 30_000).returncode == 1
    console.stop()
    assert max(len(str(record["detail"])) for record in console.audit()) < 5_000


# ------------------------------------------------------------------ the event loop


async def test_attack_48_busy_sessions_share_one_time_slice() -> None:
    turns, slices, most = Turns(), 0, 0

    async def session() -> None:
        nonlocal slices
        async with turns.of("eve") as share:
            async for _ in share.in_turns(range(20)):
                slices += 1
                work()

    working = [asyncio.create_task(session()) for _ in range(48)]
    await asyncio.sleep(0)  # each one has started
    while not all(task.done() for task in working):
        before = slices
        await asyncio.sleep(0)
        most = max(most, slices - before)
    assert slices == 48 * 20
    assert most <= 2


async def test_attack_40_sessions_of_one_user_barely_slow_another_users_list() -> None:
    turns, slices = Turns(), 0

    async def session(user: str) -> int:
        nonlocal slices
        async with turns.of(user) as share:
            async for _ in share.in_turns(range(20)):
                slices += 1
                work()
        return slices

    many = [asyncio.create_task(session("eve")) for _ in range(40)]
    done_after = await session("olga")
    await asyncio.gather(*many)
    assert slices == 41 * 20
    assert done_after < 40 + 3 * 20


async def test_attack_large_replies_of_one_user_are_limited() -> None:
    turns = Turns()
    shares = [turns.of("eve") for _ in range(5)]
    for share in shares[:4]:
        await share.keep_many(10_000)
    last = asyncio.create_task(shares[4].keep_many(10_000))
    await turns.of("olga").keep_many(10_000)
    await shares[3].keep_many(10_000)  # the same line again
    was_waiting = not last.done()
    await shares[0].__aexit__()
    await last
    assert was_waiting


# ------------------------------------------------------------------ the store's writer


async def test_attack_a_user_lock_overtakes_queued_imports(store: Store) -> None:
    order: list[str] = []

    async def change(name: str, rank: Rank) -> None:
        async with store.transaction(rank=rank) as query:
            order.append(name)
            await query("INSERT INTO domains (name, declared_at) VALUES (?, '')", name)
        order.append(f"{name} is stored")

    imports = [asyncio.create_task(change(f"import{n}", Rank.LONG)) for n in range(20)]
    await asyncio.sleep(0)
    ordinary = asyncio.create_task(change("add", Rank.ORDINARY))
    await asyncio.sleep(0)
    first = asyncio.create_task(change("lock", Rank.FIRST))
    await asyncio.gather(*imports, ordinary, first)
    assert order.index("lock") == 1
    assert order.index("lock is stored") < order.index("import1")
    assert order.index("add is stored") < order.index("import3")
    assert len(await store.read("SELECT name FROM domains")) == 22


async def test_priority_changes_do_not_starve_other_changes(store: Store) -> None:
    order: list[Rank] = []

    async def change(rank: Rank) -> None:
        async with store.transaction(rank=rank):
            order.append(rank)

    first = [asyncio.create_task(change(Rank.FIRST)) for _ in range(40)]
    await asyncio.sleep(0)
    long = asyncio.create_task(change(Rank.LONG))
    await asyncio.gather(*first, long)
    assert order.index(Rank.LONG) < 20


async def test_attack_imports_with_check_do_not_delay_a_user_lock(console: ConsoleServer) -> None:
    console.run("domain/declare biysk.local")
    console.add_user("olga", "operator", "biysk.local")
    text = document(3_000)
    async with console.asyncssh(username="olga") as attacker, console.asyncssh() as administrator:
        imports = [asyncio.create_task(attacker.run(f"{IMPORT} --check", input=text)) for _ in range(24)]
        done, _ = await asyncio.wait(imports, return_when=asyncio.FIRST_COMPLETED)
        assert (await administrator.run("cocon/user/lock olga")).exit_status == 0
        statuses = {task.result().exit_status for task in done}
        for task in imports:
            task.cancel()
        await asyncio.gather(*imports, return_exceptions=True)
        assert statuses <= {0, 75}


# ------------------------------------------------------------------ documents


async def test_attack_unfinished_documents_share_a_budget() -> None:
    documents = Documents()
    async with documents.reading("eve", MOST_BYTES_IN_ALL) as kept:
        await kept.take("x" * 1_000_000)
        async with documents.reading("eve", MOST_BYTES_IN_ALL) as short:
            await short.take("x" * 1_000)  # a session at the question
            second = asyncio.create_task(short.take("x" * 1_000_000))
            async with documents.reading("olga", MOST_BYTES_IN_ALL) as other:
                await other.take("x" * 1_000_000)
                with pytest.raises(TemporaryError, match="other users take all the memory"):
                    await other.take("x" * (MOST_BYTES_IN_ALL - 1_000_000))
            assert not second.done()
            kept.give_back()
            second.cancel()
            await asyncio.wait([second])
    assert documents.kept_bytes == 0


async def test_attack_wide_characters_do_not_raise_the_document_limit() -> None:
    async with Documents().reading("eve", 1_000) as room:
        await room.take("x" * 600)
        with pytest.raises(ArgumentError, match="longer than 250 characters, the limit where not all are ASCII"):
            await room.take("\N{GRINNING FACE}")


async def test_attack_an_unfinished_refused_document_blocks_no_other() -> None:
    documents = Documents()
    async with documents.reading("eve", 1_000_000) as endless, documents.reading("eve", 1_000_000) as other:
        await endless.take("x" * 900_000)
        with pytest.raises(ArgumentError, match="longer than 1,000,000 characters"):
            await endless.take("x" * 200_000)
        assert documents.kept_bytes == 0
        await asyncio.wait_for(other.take("x" * 900_000), 30)


async def test_a_document_continues_when_the_previous_one_is_gone(console: ConsoleServer) -> None:
    console.run("domain/declare biysk.local")
    console.add_user("olga", "operator", "biysk.local")
    async with console.asyncssh(username="olga") as one, console.asyncssh(username="olga") as other:
        endless = await one.create_process(IMPORT)
        endless.stdin.write('[{"client_id": "' + "x" * 1_000_000)
        await endless.stdin.drain()
        await one.run("whoami")
        running = asyncio.create_task(other.run(IMPORT, input=document(4_000)))
        await other.run("whoami")
        one.abort()
        assert (await running).exit_status == 0


# ------------------------------------------------------------------ passwords


async def test_attack_passwords_of_one_source_do_not_delay_another() -> None:
    pool, go, order = FairPool(1, "test", 64), Event(), list[str]()
    held = asyncio.create_task(pool.run("eve", go.wait))
    many = [asyncio.create_task(pool.run("eve", order.append, "eve")) for _ in range(40)]
    await asyncio.sleep(0)
    other = asyncio.create_task(pool.run("olga", order.append, "olga"))
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(held, other, *many)
    pool.close()
    assert order.index("olga") <= 1
    assert len(order) == 41


async def test_attack_the_queue_of_one_source_is_bounded() -> None:
    pool, go = FairPool(1, "test", 2), Event()
    running = [asyncio.create_task(pool.run("eve", go.wait)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyWaitError):
        await pool.run("eve", go.wait)
    running.append(asyncio.create_task(pool.run("olga", go.wait)))
    await asyncio.sleep(0)
    running[1].cancel()  # cancel a waiting one: its place is free
    go.set()
    await asyncio.wait(running)
    assert [task.cancelled() for task in running] == [False, True, False, False]
    await asyncio.wait_for(pool.run("eve", go.wait), 10)
    pool.close()


async def test_an_abandoned_queue_position_passes_to_the_next() -> None:
    turns, order = FewEach(1), list[int]()

    async def work(number: int) -> None:
        async with turns.turn("eve"):
            order.append(number)
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(work(number)) for number in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.wait(tasks)
    assert order == [0, 2, 3]


async def test_attack_wrong_passwords_of_one_user_are_checked_one_at_a_time(console: ConsoleServer) -> None:
    """A wrong password costs one second for all sessions of the user together. A few may wait, more are refused."""
    console.add_user("vera", "viewer")
    async with console.asyncssh(username="vera") as viewer:
        tries = [asyncio.create_task(viewer.run("passwd", input="wrong\n")) for _ in range(16)]
        refused = []
        for ended in asyncio.as_completed(tries):
            refused.append((await ended).exit_status)
            if len(refused) == 7:
                break
        for task in tries:
            task.cancel()
        await asyncio.gather(*tries, return_exceptions=True)
        assert refused.count(75) >= 6


@pytest.mark.parametrize("mark", ["\u0300", "\ufdfa"])
def test_attack_a_long_password_is_refused_before_it_is_normalised(mark: str) -> None:
    began = time.thread_time()
    with pytest.raises(ValueError, match="1 to 1024 bytes"):
        check_new_password("a" + mark * 30_000 + "\u0316" * 30_000)
    assert time.thread_time() - began < 0.1
