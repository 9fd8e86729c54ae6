"""`exec time` is the working time, without waits for an operator's answers."""

from __future__ import annotations

import json
import re
import time

import pytest
from console import PASSWORD, ConsoleServer, read_until_suffix

from server.node.measures import CommandMeasures, Run, Stopwatch

#: How long the operator thinks in these tests; the work takes a hundredth of it.
THOUGHT_SECONDS = 1.5
KEY = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ01"
DOCUMENT = '[{"client_id": "j1", "type": "widget", "api_key": "' + KEY + '"}]'


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "answers", "path"),
    [
        ("domain/remove biysk.local", [("no ?> ", "yes")], "/domain/remove"),
        ("domain/remove biysk.local", [("no ?> ", "no")], "/domain/remove"),
        ("domain/biysk.local/integrations/import", [("line: ", DOCUMENT)], "/domain/<DOMAIN>/integrations/import"),
        ("cocon/user/add eve", [("eve: ", PASSWORD), ("more: ", PASSWORD)], "/cocon/user/add"),
    ],
    ids=["confirmed", "not confirmed", "document", "password"],
)
def test_field_exec_time_excludes_waits_for_answers(
    console: ConsoleServer, line: str, answers: list[tuple[str, str]], path: str
) -> None:
    """A minute of thinking once gave `exec time: 60123ms` and raised the slow-command alarm."""
    console.run("domain/declare biysk.local")
    with console.paramiko() as client:
        channel = client.invoke_shell(term="vt100")
        read_until_suffix(channel, "$ ")
        channel.sendall(f"{line}\n".encode())
        for question, answer in answers:
            read_until_suffix(channel, question)
            time.sleep(THOUGHT_SECONDS)  # the operator's thinking time is under test
            channel.sendall(f"{answer}\n".encode())
        reply = read_until_suffix(channel, "$ ")
    found = re.search(r"exec time: (\d+)ms", reply)
    assert found is not None
    shown = int(found[1])
    assert shown < THOUGHT_SECONDS * 1000 / 2
    metrics = json.loads(console.run(f"node/metrics | match command_seconds_sum | match 'command={path}' | json"))
    (row,) = (row for row in metrics["rows"] if row["labels"] == f"command={path}")
    assert float(row["value"]) * 1000 < THOUGHT_SECONDS * 1000 / 2
    audit = json.loads(console.run("cocon/audit/list | json"))["rows"]
    (recorded,) = (row["duration_ms"] for row in audit if row["command"] == path)
    assert recorded <= shown + 1


def test_field_exec_time_in_a_document_excludes_waits(console: ConsoleServer) -> None:
    console.run("domain/declare biysk.local")
    with console.paramiko() as client:
        channel = client.get_transport().open_session()  # type: ignore[union-attr]
        channel.exec_command("domain/biysk.local/integrations/import | json")
        time.sleep(THOUGHT_SECONDS)
        channel.sendall(DOCUMENT.encode())
        channel.shutdown_write()
        received = b""
        while data := channel.recv(65536):
            received += data
    assert json.loads(received)["exec"]["time_ms"] < THOUGHT_SECONDS * 1000 / 2


def test_a_paused_stopwatch_does_not_advance() -> None:
    watch, measures = Stopwatch(), CommandMeasures()
    with Run(measures, watch) as run:
        run.path = "/x"
        with watch.paused():
            before = watch.seconds
            time.sleep(0.02)
            assert watch.seconds == before
        assert watch.seconds < 0.02
    assert measures.durations["/x"].sum_seconds <= watch.seconds
