"""Filters and JSON over real SSH, which scripts read in place of tables."""

from __future__ import annotations

import asyncio
import json
import re
import time
from datetime import datetime

import asyncssh
import pytest
from console import ADMIN, PROMPT, ConsoleServer, read_until_end

from server.grammar.filters import FILTERS, parse_filters
from server.grammar.tokens import tokenize

KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIPEVPWG4+g4EdxKpPS7wj1frid73wG5yEVQcgUbVRUaX"
LIST = "domain/biysk.local/integrations/list"


@pytest.fixture
def stocked(console: ConsoleServer) -> ConsoleServer:
    """A console with three integrations."""
    console.run("domain/declare biysk.local")
    for words in ("amouser", "tester", "servint --service --numbers 24010{0-1}"):
        console.run(f"domain/biysk.local/integrations/add {words}")
    return console


def document(console: ConsoleServer, command: str, status: int = 0) -> dict[str, object]:
    """Return the single document that a command under `| json` prints."""
    ran = console.ssh(command)
    assert ran.returncode == status
    assert ran.stdout.endswith(b"}\n")
    assert ran.stdout.count(b"\n") == 1
    found = json.loads(ran.stdout)
    assert isinstance(found, dict)
    assert found["status"] == status
    assert found["exec"]["nodes"] == ["ds1@ecss1 v.3.14.7.585"]
    assert isinstance(found["exec"]["time_ms"], int)
    return found


def rows(printed: str) -> list[str]:
    """Return the client ids of a table."""
    return [line.split("│")[1].strip() for line in printed.splitlines() if line.startswith("│")][1:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("filters", "left"),
    [
        ("| match WIDGET", ["amouser", "tester"]),
        ("| except tester", ["amouser", "servint", "", ""]),
        ("| match 240101", ["servint", "", ""]),
        ("| regex ^t.*widget", ["tester"]),
        ("| first 1", ["amouser"]),
        ("| last 1", ["tester"]),
        ("| last 0", []),
        ("| match widget | last 1", ["tester"]),
    ],
)
def test_filters_keep_the_header_and_work_on_rows(stocked: ConsoleServer, filters: str, left: list[str]) -> None:
    printed = stocked.run(f"{LIST} {filters}")
    assert rows(printed) == left
    assert "│Client id│" in printed or not left
    assert "Client id" in printed
    assert "\n[exec at: " in printed


def test_count_and_lines(stocked: ConsoleServer) -> None:
    assert stocked.run(f"{LIST} | count").startswith("Count: 3\n\n[exec at: ")
    assert stocked.run(f"{LIST} | match widget | count").startswith("Count: 2\n")
    assert stocked.run("ls | match cd | first 1").startswith("cd\n\n[")
    assert stocked.run("domain/remove --help | match usage").startswith("Usage: remove <DOMAIN> [--force]\n\n[")
    assert stocked.run("echo 'a | b' | match '|'").startswith("a | b\n")


def test_json_of_rows_fields_and_lines(stocked: ConsoleServer) -> None:
    found = document(stocked, f"{LIST} | except amouser | json")
    listed = found["rows"]
    assert isinstance(listed, list)
    assert [(row["client_id"], row["type"], row["numbers"]) for row in listed] == [
        ("servint", "service", ["240100", "240101"]),
        ("tester", "widget", []),
    ]
    assert all(len(row["api_key"]) == 64 for row in listed)
    added = document(stocked, "domain/biysk.local/integrations/add new | json")["fields"]
    assert isinstance(added, dict)
    assert added["message"] == "New integration was added."
    assert len(added["api_key"]) == 64
    assert document(stocked, f"{LIST} | count | json")["fields"] == {"count": 4}
    assert document(stocked, "domain/list | json")["rows"] == [{"domain": "biysk.local", "integrations": 4}]
    assert document(stocked, "whoami | json")["lines"] == ["admin"]
    assert document(stocked, "cd domain | json")["lines"] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "key", "people"),
    [
        ("cocon/session/list", "since", r"│\d\d\.\d\d\.\d{4} \d\d:\d\d:\d\d│"),
        ("cocon/user/list | match eve", "expires_at", "│2030-12-31 00:00:00Z│"),
        ("cocon/audit/list", "at", r"│\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00│"),
        ("node/info", "since", r"^Since: \d\d\.\d\d\.\d{4} \d\d:\d\d:\d\d [+-]\d{4}$"),
        ("date", "lines", r"^\d\d\.\d\d\.\d{4} \d\d:\d\d:\d\d [+-]\d{4}$"),
    ],
    ids=["sessions", "users", "audit", "node", "date"],
)
def test_times_in_documents_have_an_offset(stocked: ConsoleServer, command: str, key: str, people: str) -> None:
    stocked.run("cocon/user/add eve --key 'ssh-ed25519 " + KEY + "' --expires 2030-12-31Z")
    assert re.search(people, stocked.run(command), re.MULTILINE)
    told = re.search(rf'"{key}": \[?"([^"]+)"', stocked.run(f"{command} | json"))
    assert told is not None
    assert datetime.fromisoformat(told[1]).tzinfo is not None


def test_numbers_in_documents_are_numbers(stocked: ConsoleServer) -> None:
    fields = document(stocked, "node/info | json")["fields"]
    assert isinstance(fields, dict)
    counted = ("up_seconds", "schema", "store_bytes", "logins", "commands_running", "pid")
    assert all(isinstance(fields[key], int) for key in counted)


def test_json_of_errors_has_the_code_of_the_exit_status(stocked: ConsoleServer) -> None:
    for command, status, kind in (
        ("domain/declare biysk.local | json", 1, "refused"),
        ("domain/declare | json", 2, "arguments"),
        ("whoami | match | json", 2, "arguments"),
        ("nonsense | json", 127, "unknown"),
        ("domain/remove biysk.local | json", 1, "refused"),
    ):
        error = document(stocked, command, status)["error"]
        assert isinstance(error, dict)
        assert error["kind"] == kind
    assert "biysk.local" in stocked.run("domain/list")
    document(stocked, "domain/remove biysk.local --force | json")


def test_the_time_of_an_expression_grows_linearly_with_the_text(console: ConsoleServer) -> None:
    word = "a" * 20_000
    began = time.monotonic()
    assert console.run(f"echo {word} | regex '(a*)*b'").startswith("\n[exec at: ")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("ls | ", [each.name for each in FILTERS]),
        ("ls |", []),
        ("ls | c", ["count"]),
        ("ls | match ", []),
        ("ls | match x | f", ["first"]),
    ],
)
def test_filters_are_completed(typed: str, offered: list[str]) -> None:
    from server.commands import command_tree  # noqa: PLC0415
    from server.grammar.candidates import offer  # noqa: PLC0415

    assert [candidate.text for candidate in offer(command_tree(), (), typed, ADMIN).candidates] == offered


def test_every_filter_is_in_the_reference() -> None:
    from pathlib import Path  # noqa: PLC0415

    text = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")
    for each in FILTERS:
        assert f"`| {each.usage}`" in text
    assert parse_filters(tokenize("x | first 3").filters)[0].value == 3


# ------------------------------------------------------------------ login options


async def test_plus_json_makes_every_reply_one_line_and_nothing_else(console: ConsoleServer) -> None:
    async with console.asyncssh(username="admin+json") as connection:
        done = await connection.run(None, input="domain/declare d\n\nnonsense\ncd domain/d\nwhoami\nexit 3\n")
        documents = [json.loads(line) for line in str(done.stdout).splitlines()]
        assert [each["status"] for each in documents] == [0, 127, 0, 0, 0]
        assert documents[3]["lines"] == ["admin"]
        assert done.exit_status == 3
        ran = await connection.run("domain/list")
        assert json.loads(str(ran.stdout))["rows"] == [{"domain": "d", "integrations": 0}]


@pytest.mark.parametrize("pty", [False, True])
async def test_plus_strict_ends_at_the_first_command_that_fails(console: ConsoleServer, pty: bool) -> None:  # noqa: FBT001
    async with console.asyncssh(username="admin+strict") as connection:
        done = await connection.run(
            None, input="whoami\n\ndomain/remove none --force\necho never\n", term_type="dumb" if pty else None
        )
        assert done.exit_status == 1
        assert "never" not in str(done.stdout).replace("echo never", "")
        several = await connection.run("nonsense\necho never")
        assert (several.exit_status, "never" in str(several.stdout)) == (127, False)


async def test_plus_plain_and_plus_rich_choose_the_line_editor(console: ConsoleServer) -> None:
    async with console.asyncssh(username="admin+rich") as connection:
        shell = await connection.create_process(term_type="weird", term_size=(80, 24), encoding="utf-8")
        await shell.stdout.readuntil(PROMPT)
        shell.stdin.write("whoa\t")
        assert await shell.stdout.readuntil("whoami ") == "whoami "
    async with console.asyncssh(username="admin+plain+strict", client_version="OpenSSH_9.9") as connection:
        shell = await connection.create_process(term_type="xterm", term_size=(80, 24), encoding="utf-8")
        await shell.stdout.readuntil(PROMPT)
        shell.stdin.write("x\t")
        assert await shell.stdout.readexactly(2) == "x "


def test_conflicting_login_options_are_refused_with_a_reason(console: ConsoleServer) -> None:
    with console.paramiko(username="admin+plain+rich") as client:
        channel = client.invoke_shell()
        assert "+plain and +rich exclude each other" in read_until_end(channel)
        assert channel.recv_exit_status() == 2


async def test_a_wrong_login_option_is_reported_only_after_the_login(console: ConsoleServer) -> None:
    with pytest.raises(asyncssh.PermissionDenied):
        await console.connected(username="admin+tea", client_keys=None, password="wrong")


@pytest.mark.parametrize(("user", "line"), [("admin", "sleep 60 | json"), ("admin+json", "sleep 60")])
async def test_an_interrupted_command_still_prints_its_document(console: ConsoleServer, user: str, line: str) -> None:
    """It has the start time of the command, and no `^C` beside it."""
    async with console.asyncssh(username=user) as connection:
        process = await connection.create_process(line, encoding="utf-8")
        while not await asyncio.to_thread(console.run, "node/metrics | match /sleep"):
            pass
        await asyncio.sleep(0.5)
        process.send_signal("INT")
        ended = await asyncio.wait_for(process.wait(), 20)
    assert ended.exit_status == 130
    found = json.loads(str(ended.stdout))
    assert (found["status"], found["error"]["kind"]) == (130, "interrupted")
    assert found["exec"]["time_ms"] >= 500


async def test_a_stop_leaves_json_lines_whole(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    console.start()
    why = "The console is stopping; log in again later."
    async with console.asyncssh(username="admin+json") as connection:
        idle = await connection.create_process(encoding="utf-8")
        idle.stdin.write("whoami\n")
        first = await idle.stdout.readline()
        busy = await connection.create_process("sleep 60", encoding="utf-8")
        while "│2" not in await asyncio.to_thread(console.run, "node/metrics | match commands_running"):
            pass
        assert await asyncio.to_thread(console.stop) == 0
        told = [await asyncio.wait_for(process.wait(), 20) for process in (idle, busy)]
    assert json.loads(first)["lines"] == ["admin"]
    for ended in told:
        assert ended.exit_status == 75
        found = json.loads(str(ended.stdout))
        assert found["error"] == {"kind": "temporary", "message": why, "hints": []}
