"""Nodes answer questions that a holder of the storage key asks, and no others."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from datetime import UTC, datetime, timedelta

from nodes import Pair, stopped, until

from server.storage.vault import Vault

_ASKED = "INSERT INTO ecss_console.requests VALUES ('{id}', 'ds1@ecss1', '{{{to}}}', '{at}', '{text}', '{mac}')"
_TEXT = json.dumps(["no command of the console"])


def _ask(pair: Pair, *, mac: str | None = None, at: datetime | None = None) -> str:
    """Put a question to the second node as a writer of the database does; return its id."""
    raw = base64.b64decode((pair.one.folder / "keys" / "storage.key").read_bytes())
    id_, at = secrets.token_hex(16), at or datetime.now(UTC)
    right = Vault(raw).node_mac("question", id_, "ds1@ecss1", at.isoformat(), pair.two.name, _TEXT)
    values = {"id": id_, "to": pair.two.name, "at": at.isoformat(), "text": _TEXT, "mac": right if mac is None else mac}
    pair.database.psql(_ASKED.format(**values))
    pair.database.psql("NOTIFY ecss_questions, 'x'")
    return id_


def _answered(pair: Pair, id_: str) -> bool:
    return pair.database.psql(f"SELECT count(*) FROM ecss_console.answers WHERE request = '{id_}'") == "1"


def test_a_signed_question_is_answered_and_a_forged_one_is_ignored(pair: Pair) -> None:
    forged = _ask(pair, mac="0" * 64)
    strange = _ask(pair, mac="\N{SNOWMAN}")
    old = _ask(pair, at=datetime.now(UTC) - timedelta(minutes=5))
    right = _ask(pair)
    until(lambda: _answered(pair, right))  # it came last, so the others were read before
    assert not any(_answered(pair, each) for each in (forged, strange, old))
    assert pair.two.logs("ignored the question of node ds1@ecss1")


def test_an_old_question_cannot_be_put_again(pair: Pair) -> None:
    asked = _ask(pair)
    until(lambda: _answered(pair, asked))
    pair.database.psql(f"DELETE FROM ecss_console.answers WHERE request = '{asked}'")
    pair.database.psql("NOTIFY ecss_questions, 'x'")
    another = _ask(pair)
    until(lambda: _answered(pair, another))
    assert not _answered(pair, asked), "a question is answered twice"
    renewed = "UPDATE ecss_console.requests SET made_at = clock_timestamp() + interval '1 second' WHERE id = '{}'"
    pair.database.psql(renewed.format(asked))
    last = _ask(pair)
    until(lambda: _answered(pair, last))
    assert not _answered(pair, asked)


def test_all_nodes_answer_and_one_that_does_not_is_named_after_a_second(pair: Pair) -> None:
    assert "nodes: ds1@ecss1 v.3.14.7.585, ds2@ecss1 v.3.14.7.585]" in pair.one.run("date --on all")
    with stopped(pair.two):
        began = time.monotonic()
        status, text = pair.one.told("admin", "date --on all")
        assert time.monotonic() - began < 8
    assert status == 75
    assert "ds2@ecss1 did not answer" in text
    assert "nodes: ds1@ecss1 v.3.14.7.585, ds2@ecss1 v.3.14.7.585]" in pair.two.run("date --on all")


async def test_a_session_is_killed_on_another_node(pair: Pair) -> None:
    async with await pair.two.connected() as connection:
        listed = json.loads(await asyncio.to_thread(pair.one.run, "cocon/session/list --on ds2@ecss1 | json"))
        (session,) = [row["session"] for row in listed["rows"]]
        await asyncio.to_thread(pair.one.run, f"cocon/session/kill {session} --on ds2@ecss1")
        await asyncio.wait_for(connection.wait_closed(), 10)
