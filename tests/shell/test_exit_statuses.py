"""The table of outcomes: first words of the reply and exit status of `ssh host command`."""

from __future__ import annotations

import resource
import sqlite3
import time

import pytest
from console import PASSWORD, ConsoleServer, without_wildcards

FOOTER = "\n[exec at: TIME, nodes: ds1@ecss1 v.3.14.7.585]\n"


def test_add_prints_the_three_parts_of_the_reply_and_ends_with_0(console: ConsoleServer) -> None:
    console.run("domain/declare biysk.local")
    ran = console.ssh("domain/biysk.local/integrations/add tester")
    expected = f"New integration was added.\nAPI key: {'K' * 64}\n{FOOTER}"
    assert (ran.returncode, without_wildcards(ran.stdout.decode())) == (0, expected)
    again = console.ssh("domain/biysk.local/integrations/add tester")
    assert again.returncode == 1
    assert again.stdout.startswith(b"Command error: integration tester exists already")


@pytest.mark.parametrize(
    ("command", "status", "beginning"),
    [
        ("whoami", 0, "admin\n"),
        ("sleep 0", 0, "\n["),
        ("cd domain", 0, ""),
        ("exit", 0, ""),
        ("quit 9", 9, ""),
        ("", 0, ""),
        ("domain/nowhere/integrations/list", 1, "Command error: there is no domain nowhere\n"),
        ("domain/nowhere/integrations/remove x", 1, "Command error: there is no domain nowhere\n"),
        ("help nonsense", 1, "Command error: there is no command or directory nonsense\n"),
        ("domain/nowhere/integrations/add", 2, "Invalid command's arguments: <ClientId> is missing"),
        ("domain/nowhere/integrations/set x", 2, "Invalid command's arguments: nothing to change"),
        ("domain/nowhere/integrations/add x --widget --service", 2, "Invalid command's arguments: --widget and"),
        ("domain/calendar/integrations/list", 2, "Invalid command's arguments: <DOMAIN>: calendar is a reserved"),
        ("domain/list/integrations/list", 2, "Invalid command's arguments: <DOMAIN>: list is a command of /domain"),
        ("domain/declare -x", 2, "Invalid command's arguments: <DOMAIN>: a domain name does not begin"),
        ("domain/declare remove", 2, "Invalid command's arguments: <DOMAIN>: remove is a command of /domain"),
        ("sleep -1", 2, "Invalid command's arguments: <SECONDS>: -1 is not a time"),
        ("sleep 1 2", 2, "Invalid command's arguments: 2 is one word too many\nUsage: sleep <SECONDS>\n"),
        (
            "whoami | tea",
            2,
            "Invalid command's arguments: there is no filter tea; use match, except, regex, count,",
        ),
        ("whoami |", 2, "Invalid command's arguments: a filter is expected after |: match, except,"),
        ("whoami | match", 2, "Invalid command's arguments: | match takes one word, <TEXT>: "),
        ("whoami | first x", 2, "Invalid command's arguments: | first: x is not a count"),
        ("whoami | json | count", 2, "Invalid command's arguments: | json is the last filter"),
        ("whoami | regex (", 2, "Invalid command's arguments: | regex: ( is not a regular expression: missing ): ("),
        ("whoami | count", 0, "Count: 1\n\n["),
        ("whoami | match ADMIN", 0, "admin\n\n["),
        ("whoami | except admin", 0, "\n["),
        ("echo 'open", 2, "Invalid command's arguments: the quote ' at column 6 is not closed\nUsage: echo"),
        ("nonsense", 127, "There is no such command: nonsense\n\n["),
        ("domain/", 127, "There is no such command: domain/\n"),
        ("domain/list/", 127, "There is no such command: domain/list/\n"),
        ("dom/list", 127, "There is no such command: dom/list\n"),
        ("LIST", 127, "There is no such command: LIST\n"),
    ],
)
def test_outcome(shared_console: ConsoleServer, command: str, status: int, beginning: str) -> None:
    ran = shared_console.ssh(command) if command else shared_console.ssh(" ")
    printed = ran.stdout.decode()
    assert ran.returncode == status
    assert printed.startswith(beginning)
    assert ran.stderr == b""
    assert without_wildcards(printed).endswith(FOOTER) or printed == ""


def test_a_range_of_a_billion_numbers_is_refused_at_once_and_takes_no_memory(console: ConsoleServer) -> None:
    console.run("domain/declare biysk.local")
    assert console.process is not None
    before = _resident_kb(console.process.pid)
    for numbers in ("24010{0-999999999}", "24010{1-999999999}", "{1-9}" * 20, ",".join(["{1-9999}"] * 20)):
        ran = console.ssh(f"domain/biysk.local/integrations/add x --service --numbers {numbers}")
        assert ran.returncode == 2
        assert ran.stdout.startswith(b"Invalid command's arguments: --numbers: ")
    assert _resident_kb(console.process.pid) - before < 20_000


def test_a_locked_store_is_a_temporary_failure_and_reads_work(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    console.start()
    console.run("domain/declare biysk.local")
    other = sqlite3.connect(console.database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    ran = console.ssh("domain/biysk.local/integrations/add tester")
    assert time.monotonic() - began < 30
    assert ran.returncode == 75
    assert ran.stdout.startswith(b"Command error: temporary locked: the store is busy")
    assert "biysk.local" in console.run("domain/list")
    other.execute("ROLLBACK")
    other.close()
    console.run("domain/biysk.local/integrations/add tester")


def test_a_viewer_gets_permission_denied_for_changes(console: ConsoleServer) -> None:
    console.run("domain/declare biysk.local")
    console.run("domain/biysk.local/integrations/add tester")
    added = console.program("user", "add", "eve", "--role", "viewer", "--password-stdin", text=PASSWORD + "\n")
    assert added.returncode == 0
    console.run("cocon/user/grant eve biysk.local")
    with console.paramiko(username="eve") as client:
        _, stdout, _ = client.exec_command("domain/biysk.local/integrations/replace tester")
        assert stdout.read().startswith(
            b"Command error: permission denied: /domain/<DOMAIN>/integrations/replace needs"
        )
        assert stdout.channel.recv_exit_status() == 126
        _, stdout, _ = client.exec_command("domain/biysk.local/integrations/list")
        shown = stdout.read().decode()
    key = console.run("domain/biysk.local/integrations/list").split("│")[8]
    assert key not in shown
    assert f"│{key[:4]}{'*' * 56}{key[-4:]}│" in shown


def test_several_lines_of_one_command_run_one_after_another(shared_console: ConsoleServer) -> None:
    ran = shared_console.ssh("echo one\nnonsense\necho three")
    assert [line for line in ran.stdout.decode().splitlines() if line and line[0] != "["] == [
        "one",
        "There is no such command: nonsense",
        "three",
    ]
    assert ran.returncode == 0


def _resident_kb(pid: int) -> int:
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:  # noqa: PTH123  a kernel file, not a path of ours
        return int(file.read().split()[1]) * resource.getpagesize() // 1024
