"""The nodes at the console, on a store that one node serves: `node/list`, `node/<NODE>/info` and `--on`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from console import ConsoleServer, needs
from terminals import Person

OWN = "ds1@ecss1"
LABEL = f"{OWN} v.3.14.7.585"


def test_node_list_has_the_own_node(shared_console: ConsoleServer) -> None:
    shown = shared_console.run("node/list")
    assert re.search(r"^│ *Node *│ *Version *│State│Sessions│ *Address *│ *Last seen *│$", shown, re.MULTILINE)
    assert re.search(
        rf"^│{OWN}│3\.14\.7\.585│up   │\d+ *│127\.0\.0\.1 port {shared_console.port}│", shown, re.MULTILINE
    )
    (row,) = json.loads(shared_console.run("node/list | json"))["rows"]
    assert (row["node"], row["state"], row["sessions"]) == (OWN, "up", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", row["seen_at"])


def test_info_of_the_own_node_by_its_name_is_node_info(shared_console: ConsoleServer) -> None:
    named = json.loads(shared_console.run(f"node/{OWN}/info | json"))["fields"]
    plain = json.loads(shared_console.run("node/info | json"))["fields"]
    assert {key for key in plain if plain[key] != named[key]} <= {"up_seconds", "store_bytes", "logins"}
    assert named.keys() == plain.keys()


def test_an_unknown_node_is_a_command_error_that_names_it(shared_console: ConsoleServer) -> None:
    told = (1, f"Command error: there is no node ds2@ecss1\nDid you mean {OWN}?\n")
    for line in ("node/ds2@ecss1/info", "date --on ds2@ecss1", "cd node/ds2@ecss1", "ls /node/ds2@ecss1"):
        assert shared_console.told("admin", line) == told
    assert shared_console.told("admin", "date --on zz")[1] == "Command error: there is no node zz\n"
    assert shared_console.told("admin", "node/a:b/info")[0] == 2


def test_nodes_are_directories(shared_console: ConsoleServer) -> None:
    assert shared_console.told("admin", "ls /node")[1].split() == [f"{OWN}/", "info", "list", "metrics"]
    shown = shared_console.ssh(text=f"cd node/{OWN}\npwd\nls\ninfo | match Program\ncd ..\nhelp\n").stdout.decode()
    assert f"admin@{OWN}:/node/{OWN}$ /node/{OWN}\n" in shown
    assert "\ninfo\n" in shown.replace("$ info", "\ninfo")
    assert "Program: ecss-console" in shown
    assert "<NODE>/" in shared_console.run("help node")
    assert shared_console.told("admin", f"help node/{OWN}")[1].startswith(f"Directory /node/{OWN}\n  One node.\n")
    assert shared_console.told("admin", f"ls node/{OWN} --long")[0] == 0


@pytest.mark.parametrize("node", [OWN, "all"])
def test_on_the_only_node_every_reply_is_a_table_whose_first_column_is_the_node(
    shared_console: ConsoleServer, node: str
) -> None:
    for line, keys in {
        "date": {"node", "reply"},
        "node/info": {"node", "field", "value"},
        "node/metrics": {"node", "name", "labels", "value"},
        "cocon/session/list": {"node", "session", "user", "role", "source", "since", "idle_seconds", "shells"},
    }.items():
        document = json.loads(shared_console.run(f"{line} --on {node} | json"))
        assert {*document["rows"][0]} == keys
        assert {row["node"] for row in document["rows"]} == {OWN}
        assert (document["status"], document["error"], document["exec"]["nodes"]) == (0, None, [LABEL])
        assert shared_console.run(f"{line} --on {node}").endswith(f"ms, nodes: {LABEL}]\n")


def test_filters_work_on_the_merged_rows(shared_console: ConsoleServer) -> None:
    assert "│ds1@ecss1│Schema│" in shared_console.run("node/info --on all | match schema")
    assert json.loads(shared_console.run("date --on all | count | json"))["fields"] == {"count": 1}
    assert json.loads(shared_console.run("node/info --on all | first 2 | last 1 | json"))["rows"] == [
        {"node": OWN, "field": "node", "value": LABEL}
    ]


async def test_a_session_is_killed_with_on(console: ConsoleServer) -> None:
    async with console.asyncssh() as connection:
        (other,) = json.loads(str((await connection.run("cocon/session/list | json")).stdout))["rows"]
        async with console.asyncssh() as second:
            kill = f"cocon/session/kill {other['session']} --on all"
            checked = str((await second.run(f"{kill} --check")).stdout)
            assert f"│{OWN}│  end session {other['session']}" in checked
            ran = await second.run(kill)
            assert f"│Session {other['session']} ended│" in str(ran.stdout)
            await connection.wait_closed()
            (own,) = json.loads(str((await second.run("cocon/session/list | json")).stdout))["rows"]
            await second.run(f"cocon/session/kill {own['session']} --on all")
            await second.wait_closed()

    def killed(records: list[dict[str, object]]) -> bool:
        kills = [each for each in records if each["command"] == "/cocon/session/kill"]
        return len(kills) == 3 and all(each["status"] == 0 for each in kills)

    console.recorded(killed)


def test_viewers_see_nodes_and_no_metrics_of_them(staffed: ConsoleServer) -> None:
    for line in ("node/list", f"node/{OWN}/info", "date --on all", "node/info --on all", f"cd node/{OWN}", "ls node"):
        assert staffed.told("vera", line)[0] == 0, line
    assert staffed.told("vera", "node/metrics --on all")[0] == 126
    assert "│pid" not in staffed.told("vera", "node/info --on all")[1]
    assert "Process" not in staffed.told("vera", f"node/{OWN}/info")[1]


@pytest.fixture
def person(console: ConsoleServer) -> Iterator[Person]:
    """A person at the prompt."""
    needs("tmux")
    someone = Person(console, str(console.folder / "tmux"))
    yield someone
    someone.leaves()


@pytest.mark.slow
def test_tab_and_the_question_mark_know_nodes(person: Person) -> None:
    person.types("node/ds", "Tab", "inf", "Tab")
    person.sees_at_end(f"node/{OWN}/info")
    person.types("Enter")
    person.sees("Program: ecss-console")
    person.types("C-l", "date --o", "Tab", "ds", "Tab")
    person.sees_at_end(f"date --on {OWN}")
    person.types("Enter")
    person.sees("│  Node   │")
    person.types("C-l", "date --on ", "?")
    assert "all" in person.sees("names as node/list shows them, separated by commas, or all")
