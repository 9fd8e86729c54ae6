"""The nodes' tables on PostgreSQL: leases, questions, answers and confirmations, by the clock of the database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest_asyncio
from postgresql import Database

from server.config.postgresql_url import parse_postgresql_url
from server.model.nodes import NodeState
from server.storage.postgresql.connection import Address
from server.storage.postgresql.nodes import APPLIED, Answer, Identity, NodeTables, Question
from server.storage.postgresql.opening import Patience, opened
from server.storage.postgresql.preparing import Place
from server.storage.temporary import Failures

_EXPIRE = "UPDATE ecss_console.nodes SET lease_until = clock_timestamp() - interval '1 second' WHERE name = '{}'"
_FIRST = Identity("ds1@ecss1", "boot 1", "3.14.7.585", "ecss-console 0.1.0")
_SECOND = Identity("ds1@ecss1", "boot 2", "3.14.7.586", "ecss-console 0.1.0")
_PEER = Identity("ds2@ecss1", "boot 3", "3.14.7.585", "ecss-console 0.1.0")
_ADDRESS = "127.0.0.1 port 8023"


@pytest_asyncio.fixture
async def tables(database: Database, tmp_path: Path) -> AsyncIterator[NodeTables]:
    """The tables of a new store."""
    address = Address(parse_postgresql_url(database.url), database.password_file)
    place = Place(database.url, tmp_path / "keys", tmp_path / "keys" / "storage.key")
    async with opened(address, place, Patience(), make=True) as (engine, _):
        yield NodeTables(engine.control, Failures(engine.reason))


async def test_one_process_has_a_name_until_its_lease_ends(tables: NodeTables, database: Database) -> None:
    assert await tables.claim(_FIRST, _ADDRESS)
    assert not await tables.claim(_SECOND, "elsewhere")
    assert await tables.beat(_SECOND, "elsewhere", 1) is None
    assert await tables.claim(_FIRST, _ADDRESS), "a process may claim its own name again"
    holder = await tables.holder("ds1@ecss1")
    assert holder is not None
    assert (holder.boot, holder.address) == ("boot 1", _ADDRESS)
    database.psql(_EXPIRE.format("ds1@ecss1"))
    assert await tables.beat(_FIRST, _ADDRESS, 0) is not None, "a free name may still be kept"
    database.psql(_EXPIRE.format("ds1@ecss1"))
    assert await tables.claim(_SECOND, "elsewhere")
    assert await tables.beat(_FIRST, _ADDRESS, 0) is None
    await tables.release(_FIRST)
    assert [each.state for each in await tables.members()] == [NodeState.UP], "only the holder gives a name back"
    await tables.release(_SECOND)
    assert await tables.claim(_FIRST, _ADDRESS)


async def test_nodes_are_listed_by_code_points_with_their_state(tables: NodeTables, database: Database) -> None:
    for number, name in enumerate(("b", "Z", "\N{CYRILLIC SMALL LETTER A}", "a", "a-1")):
        assert await tables.claim(Identity(name, f"boot {number}", "1", "2"), f"port {number}")
    await tables.beat(Identity("b", "boot 0", "1", "2"), "port 7", 3)
    await tables.release(Identity("Z", "boot 1", "1", "2"))
    database.psql(_EXPIRE.format("a"))
    listed = [(each.name, each.state.value, each.sessions, each.address) for each in await tables.members()]
    assert listed == [
        ("Z", "stopped", 0, "port 1"),
        ("a", "lost", 0, "port 3"),
        ("a-1", "up", 0, "port 4"),
        ("b", "up", 3, "port 7"),
        ("\N{CYRILLIC SMALL LETTER A}", "up", 0, "port 2"),
    ]


async def test_old_nodes_and_questions_are_deleted(tables: NodeTables, database: Database) -> None:
    await tables.claim(_FIRST, _ADDRESS)
    await tables.claim(_PEER, _ADDRESS)
    database.psql(
        "UPDATE ecss_console.nodes SET seen_at = clock_timestamp() - interval '8 days' WHERE name = 'ds2@ecss1'"
    )
    for age_seconds in (0, 90):
        made_at = datetime.now(UTC) - timedelta(seconds=age_seconds)
        await tables.ask(Question(f"{age_seconds} s", "ds1@ecss1", ("ds2@ecss1",), made_at, "text", "mac"))
        await tables.answer(f"{age_seconds} s", Answer("ds2@ecss1", "text", "mac"))
    await tables.clean_up()
    assert [each.name for each in await tables.members()] == ["ds1@ecss1"]
    assert await tables.answers("90 s") == []
    assert len(await tables.answers("0 s")) == 1


async def test_a_question_is_read_by_its_recipients_until_they_have_answered(tables: NodeTables) -> None:
    now = datetime.now(UTC)
    question = Question("id", "ds1@ecss1", ("ds2@ecss1", "ds3@ecss1"), now, 'a "text" \N{SNOWMAN}', "mac")
    await tables.ask(question)
    await tables.ask(Question("old", "ds1@ecss1", ("ds2@ecss1",), now - timedelta(seconds=20), "text", "mac"))
    await tables.ask(Question("new", "ds1@ecss1", ("ds2@ecss1",), now + timedelta(seconds=20), "text", "mac"))
    assert await tables.unanswered("ds1@ecss1") == []
    assert await tables.unanswered("ds2@ecss1") == [question]
    answer = Answer("ds2@ecss1", "text", "mac")
    await tables.answer("id", answer)
    await tables.answer("id", Answer("ds2@ecss1", "another text", "mac"))
    await tables.answer("no such question", answer)
    assert await tables.answers("id") == [answer]
    assert await tables.unanswered("ds2@ecss1") == []
    assert await tables.unanswered("ds3@ecss1") == [question]


async def test_rows_that_no_node_has_written_stop_nothing(tables: NodeTables, database: Database) -> None:
    """Somebody may write to the database without the storage key."""
    await tables.claim(_FIRST, _ADDRESS)
    for name in ("", "a b", "a,b", "a\nb", "x" * 100_000):
        database.psql(
            f"INSERT INTO ecss_console.nodes (name, boot, lease_until) VALUES ('{name}', '', clock_timestamp())"
        )
    assert [each.name for each in await tables.members()] == ["ds1@ecss1"]
    database.psql(
        "UPDATE ecss_console.nodes SET seen_at = '20000-01-01', lease_until = '20000-01-01', sessions = -1,"
        " version = repeat('v', 100000), address = repeat('a', 100000), program = repeat('p', 100000)"
    )
    (member,) = [each for each in await tables.members() if each.name == "ds1@ecss1"]
    assert member.seen_at <= datetime.now(UTC) + timedelta(minutes=1)
    assert len(member.version) == len(member.address) == 256
    holder = await tables.holder("ds1@ecss1")
    assert holder is not None
    assert holder.lease_until.year == 9999
    assert len(holder.program) == 256
    assert max(len(name) for name in await tables.behind("ds1@ecss1", 1)) == 256
    database.psql(
        "INSERT INTO ecss_console.requests SELECT 'forged ' || n, repeat('a', 1000), ARRAY['ds2@ecss1'],"
        " clock_timestamp(), repeat('q', n), '' FROM generate_series(65530, 66200) n"
    )
    forged = await tables.unanswered("ds2@ecss1")
    assert [(len(each.asker), len(each.text)) for each in forged] == [(256, size) for size in range(65_530, 65_537)]


async def test_a_lost_counter_of_changes_is_a_beginning(tables: NodeTables, database: Database) -> None:
    await tables.claim(_FIRST, _ADDRESS)
    database.psql("UPDATE ecss_console.nodes SET applied = 7; DELETE FROM ecss_console.change_counter")
    beat = await tables.beat(_FIRST, _ADDRESS, 0)
    assert beat is not None
    assert beat.change_number == 0
    assert await tables.mark_applied(_FIRST, 9) == 0


async def test_only_live_other_nodes_are_waited_for(tables: NodeTables, database: Database) -> None:
    lost, stopped = Identity("lost", "boot 4", "1", "2"), Identity("stopped", "boot 5", "1", "2")
    for each in (_FIRST, _PEER, lost, stopped):
        await tables.claim(each, _ADDRESS)
    database.psql(_EXPIRE.format("lost"))
    await tables.release(stopped)
    database.psql("UPDATE ecss_console.change_counter SET number = 4")
    heard = tables.subscribe(APPLIED)
    assert await tables.behind("ds1@ecss1", 3) == ["ds2@ecss1"]
    assert await tables.mark_applied(_PEER, 7) == 4, "there are only four changes"
    assert await tables.mark_applied(_PEER, 2) == 4, "an older number takes nothing back"
    assert await tables.behind("ds1@ecss1", 4) == []
    assert await tables.behind("ds1@ecss1", 5) == ["ds2@ecss1"]
    assert await tables.mark_applied(Identity("ds2@ecss1", "another boot", "1", "2"), 9) is None
    payloads: list[str] = []
    while len(payloads) < 3:
        payloads += (more := await heard.next(10))
        assert more, payloads
    assert payloads == ["", "ds2@ecss1", "ds2@ecss1"]
