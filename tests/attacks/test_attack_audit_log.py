"""The JSON log of the audit continues, or reports why not, whatever an attacker puts into its file."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import time
from pathlib import Path

import pytest
from console import ConsoleServer
from faults import Faults, Kind

from server.audit.export import Exporter
from server.storage.sqlite.engine import SqliteEngine
from server.storage.store import Store
from server.storage.vault import Vault

_TAIL_BYTES = 262_144
_ODD = {
    "Infinity": b"Infinity\n",
    "an endless id": b'{"id": Infinity, "at": "x"}\n',
    "deep nesting": b"[" * 100_000 + b"\n",
    "deep nesting in a record": b'{"id": ' + b"[" * 100_000 + b"\n",
    "a huge number": b'{"id": ' + b"9" * 100_000 + b', "at": "x"}\n',
    "an id above all": b'{"id": ' + b"9" * 30 + b', "at": "x"}\n',
    "true": b'{"id": true, "at": "x"}\n',
    "a negative id": b'{"id": -5, "at": "x"}\n',
    "zero": b'{"id": 0, "at": "x"}\n',
    "a fraction": b'{"id": 1.5, "at": "x"}\n',
    "a text": b'{"id": "1", "at": "x"}\n',
    "no id": b"{}\n",
    "binary": bytes(range(256)) * 20 + b"\n",
    "empty lines": b"\n" * 1000,
    "two lines in one": b'{"id": 1, "at": "x"}{"id": 1, "at": "x"\n',
}


def _waited(console: ConsoleServer, path: Path, wanted: int) -> list[int]:
    """Return the ids of the complete records in the log once it contains the wanted one."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        lines = path.read_bytes().split(b"\n") if path.is_file() else []
        ids = [json.loads(line)["id"] for line in lines if b'"mac": ' in line and line.endswith(b'"}')]
        if wanted in ids:
            return ids
        time.sleep(0.05)
    raise AssertionError("".join(console.log))


def _gapless(ids: list[int]) -> bool:
    """Tell whether each record stands in the log once; the end of a session may be recorded after the last one."""
    return ids == list(range(2, ids[-1] + 1))


def _last(console: ConsoleServer) -> int:
    return int(str(console.audit()[-1]["id"]))


def _stopped_log(console: ConsoleServer, path: Path) -> int:
    """Make a log of some records, stop the server, and record one more; return the last id of the log."""
    console.start(ECSS_CONSOLE_AUDIT__LOG=str(path))
    console.run("domain/declare one")
    assert console.stop() == 0
    logged = _waited(console, path, _last(console))
    assert console.program("user", "add", "eve", "--password-stdin", text="x\n").returncode == 0
    return logged[-1]


@pytest.mark.slow
@pytest.mark.parametrize("odd", _ODD)
def test_attack_an_odd_line_neither_stops_the_log_nor_loses_a_record(stopped_console: ConsoleServer, odd: str) -> None:
    """Such a line once ended the exporter silently, and no later record was written."""
    console, path = stopped_console, stopped_console.folder / "audit.jsonl"
    _stopped_log(console, path)
    with path.open("ab") as file:
        file.write(_ODD[odd])
    console.start(ECSS_CONSOLE_AUDIT__LOG=str(path))
    console.run("domain/declare two")
    ids = _waited(console, path, _last(console))
    assert _gapless(ids), "each once, also what was recorded while nobody served"
    assert not [line for line in console.log if "audit's log" in line]


@pytest.mark.slow
def test_attack_a_line_cut_by_a_power_failure_loses_no_record(stopped_console: ConsoleServer) -> None:
    """The next record was once appended to the partial line, and no collector could parse either."""
    console, path = stopped_console, stopped_console.folder / "audit.jsonl"
    _stopped_log(console, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    console.start(ECSS_CONSOLE_AUDIT__LOG=str(path))
    console.run("domain/declare two")
    assert _gapless(_waited(console, path, _last(console)))


def test_attack_an_overlong_line_is_reported_until_the_file_is_moved(stopped_console: ConsoleServer) -> None:
    console, path = stopped_console, stopped_console.folder / "audit.jsonl"
    _stopped_log(console, path)
    before = path.read_bytes()
    with path.open("ab") as file:
        file.write(b"x" * (_TAIL_BYTES + 1) + b"\n")
    console.start(ECSS_CONSOLE_AUDIT__LOG=str(path))
    assert console.logs("the audit's log cannot be written, its lines wait: there is no record in its last 262,144")
    began = _last(console)
    console.run("domain/declare two")
    path.write_bytes(before)  # an operator repairs it
    ids = _waited(console, path, _last(console))
    assert began in ids
    assert _gapless(ids)
    assert console.logs("the audit's log is written again")
    assert sum("cannot be written" in line for line in console.log) == 1, "told once"


def test_attack_an_unreadable_log_is_reported_and_loses_no_record(
    stopped_console: ConsoleServer, library: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The export once restarted at the end of the store and lost all records of the downtime."""
    console, folder = stopped_console, stopped_console.folder / "logs"
    folder.mkdir()
    path = folder / "audit.jsonl"
    _stopped_log(console, path)
    faults = Faults.make(library, tmp_path_factory.mktemp("control") / "control", folder)
    faults.fail(Kind.READ)
    console.start(ECSS_CONSOLE_AUDIT__LOG=str(path), **faults.environment())
    assert console.logs("the audit's log cannot be written", "Input/output error")
    console.run("domain/declare two")
    assert faults.mend()
    assert _gapless(_waited(console, path, _last(console)))


def test_attack_a_folder_at_the_log_path_is_reported_and_stops_nothing(stopped_console: ConsoleServer) -> None:
    console, path = stopped_console, stopped_console.folder / "audit.jsonl"
    path.mkdir()
    console.start(ECSS_CONSOLE_AUDIT__LOG=str(path))
    console.run("domain/declare two")
    assert console.logs("the audit's log cannot be written", "Is a directory")
    path.rmdir()
    assert _gapless(_waited(console, path, _last(console)))


def test_attack_an_unread_pipe_is_reported_and_filled_when_read(stopped_console: ConsoleServer) -> None:
    """The export once blocked for ever while the log and the metric reported no fault."""
    console, pipe = stopped_console, stopped_console.folder / "pipe"
    os.mkfifo(pipe)
    console.start(ECSS_CONSOLE_AUDIT__LOG=str(pipe))
    console.run("domain/declare two")
    assert console.logs("the audit's log cannot be written", "it has taken nothing for 5 seconds")
    descriptor = os.open(pipe, os.O_RDONLY)
    with os.fdopen(descriptor, "rb") as reader:
        assert json.loads(reader.readline())["id"] == 2
    assert console.logs("the audit's log is written again")


def test_attack_a_device_at_the_log_path_is_reported_and_stops_nothing(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    console.start(ECSS_CONSOLE_AUDIT__LOG="/dev/full")
    assert console.logs("the audit's log cannot be written", "No space left")
    assert "one" in console.run("domain/declare one")
    assert console.process is not None
    console.process.send_signal(signal.SIGUSR1)
    assert console.logs(" now: ")


async def test_attack_the_end_of_the_exporter_task_is_reported(
    stopped_console: ConsoleServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The task once ended unseen. Now the log and the metric report it."""
    key = (stopped_console.folder / "keys" / "storage.key").read_bytes()
    store = Store(await SqliteEngine.open(stopped_console.database), Vault(base64.b64decode(key)))
    exporter = Exporter(store, stopped_console.folder / "audit.jsonl")
    before = asyncio.all_tasks()
    await exporter.start()
    (following,) = asyncio.all_tasks() - before
    following.cancel()
    await asyncio.wait({following})
    await asyncio.sleep(0)
    (reading,) = exporter.readings()
    assert reading.values == [((), 1)]
    assert "the audit's log is not written any more, restart the server" in caplog.text
    await exporter.stop()
    await store.close()
