"""The audit log has every record once, whatever happens to its file."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import time
from pathlib import Path

import pytest
from console import PASSWORD, ConsoleServer

_PATIENCE_SECONDS = 20


def _written(path: Path) -> list[dict[str, object]]:
    whole = path.read_text("utf-8").rpartition("\n")[0] if path.exists() else ""
    return [json.loads(line) for line in whole.splitlines()]


async def _lines(path: Path, most_id: int) -> list[dict[str, object]]:
    """Return the lines of the log once it has the record with this id."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        lines = _written(path)
        if lines and int(str(lines[-1]["id"])) >= most_id:
            return lines
        await asyncio.sleep(0.05)
    message = f"record {most_id} is not in {path}"
    raise AssertionError(message)


def _last(console: ConsoleServer) -> int:
    return int(str(console.audit()[-1]["id"]))


async def test_the_log_has_every_record_of_the_store_and_no_secret(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    console.start(ECSS_CONSOLE_AUDIT__LOG="var/audit.jsonl")
    console.run("domain/declare biysk.local")
    key = re.search(r"key: (\w{64})", console.run("domain/biysk.local/integrations/add tester"))
    assert key
    added = console.program("user", "add", "eve", "--password-stdin", text="a secret of eve\n")
    assert added.returncode == 0
    async with console.asyncssh(client_keys=None, password=PASSWORD) as connection:
        await connection.run("whoami")
    with pytest.raises(Exception, match="uthentication"), console.paramiko(password="wrong " + PASSWORD):
        pass
    assert console.stop() == 0
    path = console.folder / "var" / "audit.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    rows = console.audit()
    logged = await _lines(path, int(str(rows[-1]["id"])))
    first = int(str(logged[0]["id"]))
    assert logged == [row for row in rows if int(str(row["id"])) >= first]
    assert first == 2, "from the start of the server on"
    assert {"login", "login.failed", "change", "user.change", "command", "logout"} <= {row["event"] for row in logged}
    text = path.read_text("utf-8")
    for secret in (key[1], PASSWORD, "a secret of eve"):
        assert secret not in text
    head = f"{logged[-1]['seq']}:{logged[-1]['mac']}"
    assert console.program("audit", "verify", "--head", head).returncode == 0


async def test_a_rotated_log_file_is_recreated_without_losing_a_line(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    path, moved = console.folder / "audit.jsonl", console.folder / "audit.jsonl.1"
    console.start(ECSS_CONSOLE_AUDIT__LOG=str(path))
    console.run("domain/declare one")
    await _lines(path, _last(console))
    path.rename(moved)
    console.run("domain/declare two")
    await _lines(path, _last(console))
    assert console.stop() == 0
    assert console.program("user", "add", "eve", "--password-stdin", text="x\n").returncode == 0
    with path.open("a", encoding="utf-8") as file:
        file.write("")
    console.start(ECSS_CONSOLE_AUDIT__LOG=str(path))
    logged = [*(await _lines(moved, 0)), *(await _lines(path, _last(console)))]
    assert [row["id"] for row in logged] == list(range(2, len(logged) + 2))
    assert logged[-1]["event"] == "user.change", "what was recorded while nobody served is there too"


async def test_an_unwritable_log_is_reported_once_and_stops_nothing(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    folder = console.folder / "logs"
    console.start(ECSS_CONSOLE_AUDIT__LOG="logs/audit.jsonl")
    for number in range(3):
        console.run(f"domain/declare d{number}")
        await asyncio.sleep(0.7)
    told = [line for line in console.log if "the audit's log cannot be written" in line]
    assert len(told) == 1
    folder.mkdir()
    logged = await _lines(folder / "audit.jsonl", _last(console))
    assert [row["arguments"] for row in logged if row["event"] == "change"] == [
        f'{{"domain": "d{number}"}}' for number in range(3)
    ]
    assert console.stop() == 0
    assert any("is written again" in line for line in console.log)


def test_an_inaccessible_log_is_reported(stopped_console: ConsoleServer) -> None:
    """Finding the log's end once ended the export silently, and the metric reported no fault."""
    stopped_console.start(ECSS_CONSOLE_AUDIT__LOG="x" * 300)
    stopped_console.run("whoami")
    assert stopped_console.logs("the audit's log cannot be written")
    assert stopped_console.stop() == 0
    assert "never retrieved" not in "".join(stopped_console.log)


async def test_a_full_disk_or_unread_pipe_blocks_neither_changes_nor_the_stop(
    stopped_console: ConsoleServer,
) -> None:
    console = stopped_console
    pipe = console.folder / "pipe"
    os.mkfifo(pipe)
    for log in ("/dev/full", str(pipe)):
        console.start(ECSS_CONSOLE_AUDIT__LOG=log)
        console.run(f"domain/declare {Path(log).name}")
        await asyncio.sleep(0.7)
        assert Path(log).name in console.run("domain/list")
        assert console.stop() == 0


async def test_the_log_on_standard_error_is_json_between_the_programs_lines(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    console.start(ECSS_CONSOLE_AUDIT__LOG="stderr")
    console.run("domain/declare one")
    assert console.stop() == 0
    logged = [json.loads(line) for line in console.log if line.startswith("{")]
    assert logged == console.audit()[1:]
