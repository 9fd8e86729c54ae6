"""Commands on several nodes: questions, answers and their merge, with real services on one store."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any

import pytest
from joined import ADDED_AT, Joined, joined, operator, request, said, with_root

from server.commands import COMMANDS
from server.commands import console as console_commands
from server.commands.context import CompletionContext, Context
from server.commands.domains import DOMAIN
from server.commands.node_messages import MOST_ANSWER_BYTES, MOST_QUESTION_BYTES, Question, read_answer, read_question
from server.errors import OperatorError
from server.grammar.declare import ON, Kind, command
from server.grammar.tree import build_tree
from server.model.access import Permission, Role
from server.model.nodes import NodeState
from server.render.reply import Column, Lines, Table
from server.shell.completion import complete
from server.shell.dispatch import respond
from server.shell.remote import answer
from server.storage.feed import Topic
from server.storage.store import Store

ONE, TWO, THREE = "ds1@ecss1", "ds2@ecss1", "ds3@ecss1"
LABELS = [f"{name} v.3.14.7.585" for name in (ONE, TWO)]


@command("/rows", permission=Permission.CONSOLE, examples=("rows",), on_nodes=True)
async def _rows(context: Context, count: Annotated[int, Kind("<N>", "how many", int)]) -> Table:
    """Return rows of different types."""
    columns = (Column("number", "Number", lambda number: f"no. {number}"), Column("at", "At"))
    return Table(columns, [(number, context.services.node_name) for number in range(count)])


@command("/fail", permission=Permission.CONSOLE, examples=("fail",), on_nodes=True)
async def _fail(context: Context) -> Lines:
    """Fail with a defect on the second node."""
    if context.services.node_name == TWO:
        message = "a defect"
        raise RuntimeError(message)
    return Lines(("well",))


@command("/note", permission=Permission.CONSOLE, examples=("note x",), on_nodes=True)
async def _note(context: Context, *words: Annotated[str, Kind("<WORD>", "any word", str)]) -> Lines:  # noqa: ARG001
    """Print the words, one a line."""
    return Lines(words)


_ROOT = build_tree([_rows, _fail, _note, *console_commands.COMMANDS], console_commands.DIRECTORIES)


@pytest.mark.parametrize(
    ("path", "permission"), [("/domain/{domain}/x", Permission.CONSOLE), ("/x", Permission.USERS_CHANGE)]
)
def test_a_change_and_a_command_with_a_place_cannot_be_declared_for_other_nodes(
    path: str, permission: Permission
) -> None:
    async def handler(context: Context, domain: Annotated[str, DOMAIN]) -> Lines:  # noqa: ARG001
        """Do nothing."""
        return Lines()

    with pytest.raises(TypeError, match="on_nodes is not for changes"):
        command(path, permission=permission, examples=("x",), on_nodes=True)(handler)


@pytest.fixture
async def cluster(store: Store) -> AsyncIterator[Joined]:
    """Two nodes that are up."""
    async with joined(store, ONE, TWO) as made:
        yield made


@pytest.fixture
def special(cluster: Joined) -> Joined:
    """Two nodes with the commands of this file."""
    for name in (ONE, TWO):
        with_root(cluster, name, root=_ROOT)
    return cluster


def _asks(line: str, user: str = "admin", **more: Any) -> str:  # noqa: ANN401  values of a question
    given = {"user": user, "added_at": ADDED_AT, "source": "192.0.2.7:5", "session_id": "5e55104e", "node": ONE}
    return Question(words=tuple(line.split()), json=False, **(given | more)).text()


async def _error(cluster: Joined, question: str) -> OperatorError:
    error = read_answer(await answer(cluster.services[TWO], question))
    assert isinstance(error, OperatorError)
    return error


async def _records(cluster: Joined, node: str) -> list[tuple[Any, ...]]:
    await cluster.services[node].journal.flush()
    sql = "SELECT event, user_name, source, command, arguments, status, detail FROM audit WHERE node = ? ORDER BY id"
    return [tuple(row) for row in await cluster.services[node].store.read(sql, node)]


async def test_lines_become_rows_and_the_footer_names_the_nodes_that_answered(cluster: Joined) -> None:
    status, text = await said(cluster, "date --on all")
    assert status == 0
    assert re.search(rf"^│  Node +│ +Reply +│\n├.*\n│{ONE}│\d\d\..*│\n├.*\n│{TWO}│\d\d\..*│\n└", text, re.MULTILINE)
    assert f"ms, nodes: {', '.join(LABELS)}]\n" in text


async def test_a_named_node_alone_runs_the_command(cluster: Joined) -> None:
    _, text = await said(cluster, f"date --on {TWO} | json")
    document = json.loads(text)
    assert [row["node"] for row in document["rows"]] == [TWO]
    assert document["exec"]["nodes"] == [LABELS[1]]
    assert document["rows"][0]["reply"][10] == "T", "the other node knows that the reply is a JSON document"
    await cluster.services[ONE].journal.flush()
    assert (await _records(cluster, ONE))[0][3:6] == ("/date", f'{{"on": "{TWO}"}}', 0)


async def test_without_on_the_footer_stays_as_it_is(cluster: Joined) -> None:
    assert json.loads((await said(cluster, "date | json"))[1])["exec"]["nodes"] == [LABELS[0]]
    assert cluster.asked == []


async def test_a_record_becomes_rows_of_fields(cluster: Joined) -> None:
    _, text = await said(cluster, "node/info --on all | match logins | json")
    assert json.loads(text)["rows"] == [
        {"node": ONE, "field": "logins", "value": 0},
        {"node": TWO, "field": "logins", "value": 0},
    ]
    _, text = await said(cluster, "node/info --on all | match 'Logins open'")
    assert f"│{TWO}│Logins open│0" in text


async def test_a_table_keeps_its_texts_and_its_json_values(special: Joined) -> None:
    document = json.loads((await said(special, "rows 2 --on all | json"))[1])
    assert document["rows"] == [{"node": each, "number": n, "at": each} for each in (ONE, TWO) for n in (0, 1)]
    _, text = await said(special, "rows 2 --on all")
    assert text.count("│no. 1 ") == 2
    assert json.loads((await said(special, "rows 3 --on all | count | json"))[1])["fields"] == {"count": 6}


async def test_an_error_of_one_node_is_a_row_when_another_one_succeeds(special: Joined) -> None:
    status, text = await said(special, "fail --on all | json")
    document = json.loads(text)
    assert (status, document["error"]) == (0, None)
    first, second = document["rows"]
    assert first == {"node": ONE, "reply": "well", "error": None}
    assert second["error"]["kind"] == "internal"
    assert re.fullmatch(rf"[0-9A-F]{{8}}, logged on {TWO}", second["error"]["message"])
    assert "Command error: internal error, incident " in (await said(special, "fail --on all"))[1]


async def test_the_first_error_is_raised_when_all_nodes_refuse(cluster: Joined) -> None:
    status, text = await said(cluster, "cocon/session/kill 00000000 --on all")
    assert status == 1
    assert text.startswith("Command error: there is no session 00000000\n\n[exec at: ")
    assert text.endswith(f"nodes: {', '.join(LABELS)}]\n")
    status, text = await said(cluster, "cocon/session/kill 00000000 --on all | json")
    assert json.loads(text)["exec"]["nodes"] == LABELS


async def test_a_node_that_does_not_answer_is_named_behind_the_rows(cluster: Joined) -> None:
    cluster.mute = {TWO}
    status, text = await said(cluster, "date --on all")
    assert status == 75
    assert re.search(
        rf"│{ONE}│.*│\n└.*┘\nCommand error: temporary locked: {TWO} did not answer; node/list shows its state, "
        rf"try again when it is up\n\n\[exec at: .*, nodes: {LABELS[0]}\]\n\Z",
        text,
    ), text
    document = json.loads((await said(cluster, "date --on all | json"))[1])
    assert (document["status"], document["error"]["kind"]) == (75, "temporary")
    assert [row["node"] for row in document["rows"]] == [ONE]
    assert document["exec"]["nodes"] == [LABELS[0]]
    assert [record[5] for record in await _records(cluster, ONE)] == [75, 75]
    assert cluster.services[ONE].node.commands.outcomes["/date", "temporary"] == 2


async def test_a_named_node_that_does_not_answer_leaves_an_empty_table(cluster: Joined) -> None:
    cluster.mute = {TWO}
    document = json.loads((await said(cluster, f"date --on {TWO} | json"))[1])
    assert (document["rows"], document["status"], document["exec"]["nodes"]) == ([], 75, [])
    assert (await said(cluster, f"date --on {TWO}"))[1].endswith("nodes: none]\n")


async def test_all_leaves_out_stopped_nodes_and_names_lost_ones(cluster: Joined) -> None:
    cluster.states = {THREE: NodeState.STOPPED}
    assert (await said(cluster, "date --on all"))[0] == 0
    status, text = await said(cluster, f"date --on {ONE},{THREE}")
    assert (status, f"{THREE} did not answer" in text) == (75, True)
    cluster.states = {THREE: NodeState.LOST}
    status, text = await said(cluster, "date --on all")
    assert (status, f"{THREE} did not answer" in text) == (75, True)
    assert {name for name, _ in cluster.asked} == {TWO}


async def test_an_unknown_node_is_named_before_anything_runs(cluster: Joined) -> None:
    status, text = await said(cluster, f"date --on {ONE},ds2@ecss2")
    assert (status, cluster.asked) == (1, [])
    assert text.startswith(f"Command error: there is no node ds2@ecss2\nDid you mean {TWO}?\n")


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("ds1:x", "ds1:x is not the name of a node: 1 to 64 characters, without blanks, commas and colons"),
        ("a,,b", "a name is missing; use names with one comma between them and no blank, or all"),
        ("all,a", "all stands alone; use all, or the names of nodes"),
        ("a,a", "a node is named twice; name each node once"),
    ],
)
async def test_a_wrong_list_of_nodes_is_an_argument_error(cluster: Joined, word: str, told: str) -> None:
    status, text = await said(cluster, f"date --on {word}")
    assert status == 2
    assert text.startswith(f"Invalid command's arguments: --on: {told}\nUsage: date [--on <NODE[,NODE…]|all>]\n")


async def test_words_reach_the_other_node_as_they_were_typed(special: Joined) -> None:
    _, text = await said(special, f"note 'two  words' \"it's\" --on={TWO} -- --on x | json")
    assert [row["reply"] for row in json.loads(text)["rows"]] == ["two  words", "it's", "--on", "x"]


async def test_the_other_node_authorizes_by_itself_and_records_the_operator(cluster: Joined) -> None:
    vera = operator("vera", Role.VIEWER)
    status, text = await said(cluster, "node/metrics --on all", vera)
    assert (status, cluster.asked) == (126, []), "the asking node refuses before it asks"
    assert "permission denied" in text
    refused = await _error(cluster, _asks("/node/metrics", "vera"))
    assert (refused.status, refused.message) == (
        126,
        "/node/metrics needs node.read, which the role viewer does not have",
    )
    assert not isinstance(read_answer(await answer(cluster.services[TWO], _asks("/node/metrics"))), OperatorError)
    assert (await _records(cluster, TWO))[-1] == (
        "command",
        "admin",
        "192.0.2.7:5",
        "/node/metrics",
        "{}",
        0,
        f"asked by {ONE}",
    )
    assert (await said(cluster, "cocon/user/lock vera"))[0] == 0
    for question in (_asks("/date", "vera"), _asks("/date", "nobody"), _asks("/date", added_at="2020-01-01T00:00:00Z")):
        assert "may not work here any more" in (await _error(cluster, question)).message
    assert {record[0] for record in (await _records(cluster, TWO))[-3:]} == {"command.refused"}


async def test_only_commands_that_are_declared_for_it_run_for_other_nodes(cluster: Joined) -> None:
    allowed = {each.path for each in COMMANDS if each.on_nodes}
    assert allowed == {"/date", "/node/info", "/node/metrics", "/cocon/session/list", "/cocon/session/kill"}
    for line in ("/domain/declare x", "/whoami", "/exit", "/date --help", "/date --on all"):
        error = await _error(cluster, _asks(line))
        assert error.message == f"{line.split()[0]} is not for other nodes to run"
    assert (await _error(cluster, _asks("/nothing"))).status == 127
    assert (await _error(cluster, _asks("/date x"))).status == 2
    assert [row[0] for row in await cluster.services[TWO].store.read("SELECT name FROM domains")] == []


@pytest.mark.parametrize(
    "question",
    [
        "",
        "[]",
        "null",
        "{",
        "[" * 60_000,
        '{"words": []}',
        '{"words": ["/date"], "json": false}',
        '{"words": [1], "user": "admin"}',
        _asks("/date", "\x00").replace("\\u0000", "\\ud800"),
        _asks("/date").replace("false", '"no"'),
        "x" * (MOST_QUESTION_BYTES + 1),
    ],
    ids=range(11),
)
async def test_attack_a_wrong_question_gets_an_answer(cluster: Joined, question: str) -> None:
    assert (await _error(cluster, question)).message.startswith("the question of the node cannot be read: ")


def test_a_question_is_read_as_it_was_written() -> None:
    question = Question(("/date", "ü"), "admin", ADDED_AT, "192.0.2.7:5", "5e55104e", ONE, json=True)
    assert read_question(question.text()) == question


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", '{"error": 1}', '{"columns": [["a", "A"]], "rows": [[]]}', "[" * 99_999]
)
async def test_attack_a_wrong_answer_is_an_error_of_its_node(cluster: Joined, text: str) -> None:
    cluster.answers = {TWO: text or " "}
    status, shown = await said(cluster, "date --on all | json")
    rows = json.loads(shown)["rows"]
    assert (status, rows[1]["node"]) == (0, TWO)
    assert "cannot be read" in rows[1]["error"]["message"]


async def test_a_line_and_a_reply_that_are_too_large_are_refused_plainly(special: Joined) -> None:
    status, text = await said(special, f"note {'ü' * (MOST_QUESTION_BYTES // 2)} --on all | count")
    assert (status, "the line is too long for other nodes, which take 64 KB" in text) == (1, True)
    too_large = await _error(special, _asks(f"/rows {MOST_ANSWER_BYTES // 20}"))
    assert too_large.message == "the reply of the node is larger than 1024 KB; log in there to see it"


async def test_a_session_is_killed_on_whichever_node_it_is(cluster: Joined) -> None:
    ended: list[str] = []

    class There:
        """The logins of the second node."""

        def every(self) -> list[Any]:
            """Return none."""
            return []

        def end(self, session_id: str, why: str) -> bool:
            """Know one session."""
            ended.append(why)
            return session_id == "ab12cd34"

    with_root(cluster, TWO, sessions=There())
    assert (await said(cluster, "cocon/session/kill ab12cd34"))[0] == 1
    assert ended == []
    status, text = await said(cluster, "cocon/session/kill ab12cd34 --on all")
    assert (status, ended) == (0, ["ended by admin"])
    assert f"│{TWO}│Session ab12cd34 ended│" in text
    assert "Command error: there is no session ab12cd34" in text


async def test_info_of_another_node(cluster: Joined) -> None:
    _, text = await said(cluster, f"node/{TWO}/info | json")
    fields = json.loads(text)["fields"]
    assert (fields["node"], fields["logins"]) == (LABELS[1], 0)
    assert f"Node: {LABELS[1]}\n" in (await said(cluster, f"node/{TWO}/info"))[1]
    cluster.mute = {TWO}
    status, text = await said(cluster, f"node/{TWO}/info")
    assert (status, text.split(";")[0]) == (75, f"Command error: temporary locked: {TWO} did not answer")
    status, text = await said(cluster, "node/nowhere/info")
    assert (status, text.split("\n")[0]) == (1, "Command error: there is no node nowhere")


async def test_completion_offers_nodes_and_all(cluster: Joined) -> None:
    services = cluster.services[ONE]
    for text, words in {
        "date --on ": ["all", ONE, TWO],
        "date --on a": ["all"],
        f"date --on {TWO},": [f"{TWO},{ONE}"],
        f"date --on {TWO},{ONE},": [],
    }.items():
        assert [each.text for each in (await complete(services, operator(), (), text)).candidates] == words
    offered = (await complete(services, operator(), (), "node/")).candidates
    assert {f"node/{ONE}/", f"node/{TWO}/", "node/list"} <= {each.text for each in offered}
    vera = operator("vera", Role.VIEWER)
    assert (await complete(services, vera, (), "node/metrics --on ")).candidates == ()
    assert ON.kind is not None
    assert ON.kind.candidates is not None
    assert await ON.kind.candidates(CompletionContext(services, vera), {}, "ds3") == []


def _confirmed_by(cluster: Joined, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each commit have the number that a store on PostgreSQL gives it."""
    engine = cluster.services[ONE].store.engine  # SQLite gives no numbers
    commit = engine.commit

    async def numbered(shared: frozenset[Topic]) -> int:
        await commit(shared)
        return 7

    monkeypatch.setattr(engine, "commit", numbered)


async def test_a_change_names_the_nodes_that_have_not_confirmed_it(
    cluster: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await said(cluster, "domain/declare a.local"))[0] == 0
    assert cluster.waited_for == [], "a store on SQLite has nothing to confirm"
    _confirmed_by(cluster, monkeypatch)
    assert "unconfirmed" not in (await said(cluster, "domain/declare b.local | json"))[1]
    cluster.late = (TWO,)
    status, text = await said(cluster, "domain/declare c.local")
    assert (status, cluster.waited_for) == (0, [7, 7])
    assert text.startswith(
        f"Domain c.local declared\nNot confirmed yet by {TWO}: it may act on the old state for up to 10 seconds, "
        "the length of a lease.\n\n[exec at: "
    )
    document = json.loads((await said(cluster, "domain/declare d.local | json"))[1])
    assert (document["status"], document["error"], document["unconfirmed"]) == (0, None, [TWO])
    assert (await said(cluster, "domain/declare e.local --check"))[0] == 0
    assert cluster.waited_for == [7, 7, 7], "a check changes nothing"


async def test_an_interrupted_wait_for_confirmations_leaves_the_change_recorded_as_done(
    cluster: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    _confirmed_by(cluster, monkeypatch)
    cluster.never = True
    running = asyncio.create_task(respond(request(cluster.services[ONE], "domain/declare a.local")))
    await asyncio.wait_for(cluster.waits.wait(), 20)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert running.cancelled()
    records = [record for record in await _records(cluster, ONE) if record[3] == "/domain/declare"]
    assert [(record[0], record[5]) for record in records] == [("change", 0)]
