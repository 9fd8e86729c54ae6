"""Defects and crashes reveal no key in the log, reply, audit or process arguments, and dump no core."""

from __future__ import annotations

import base64
import json
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from console import PASSWORD, ConsoleServer

from server.model.integrations import new_key

_HERE = "domain/biysk.local/integrations/"
_INCIDENT = re.compile(r"internal error, incident ([0-9A-F]{8})")


def _damage(console: ConsoleServer, sql: str) -> None:
    """Change the running store as no ecss-console program would."""
    with closing(sqlite3.connect(console.database)) as database:
        database.execute(sql)
        database.commit()


def _proc(console: ConsoleServer, name: str) -> bytes:
    assert console.process is not None
    return Path(f"/proc/{console.process.pid}/{name}").read_bytes()


def _kept(console: ConsoleServer) -> dict[str, bytes]:
    """Return every stored or logged byte of the run except the storage key."""
    files = [path for path in console.folder.rglob("*") if path.is_file() and path.name != "storage.key"]
    return {"the log": "".join(console.log).encode(), **{path.name: path.read_bytes() for path in files}}


def _check_untold(console: ConsoleServer, secrets: list[str]) -> None:
    kept = _kept(console)
    assert any(name.endswith("-wal") for name in kept)
    for where, data in kept.items():
        for secret in secrets:
            assert secret.encode() not in data, where
    assert b"$argon2id$" not in kept["the log"]


def _storage_key(console: ConsoleServer) -> list[str]:
    """Return the storage key in each form in which it could be written."""
    text = (console.folder / "keys" / "storage.key").read_text().strip()
    return [text, base64.b64decode(text).hex(), repr(base64.b64decode(text))[2:-1]]


def _adopts(typed: str) -> tuple[str, str]:
    return f"{_HERE}adopt crm {typed}", ""


def _imports(typed: str) -> tuple[str, str]:
    rows = [{"client_id": "crm", "type": "widget", "api_key": typed}]
    return f"{_HERE}import", json.dumps({"rows": rows}) + "\n"


_Command = Callable[[str], tuple[str, str]]
_NO_COLUMN = "ALTER TABLE integrations RENAME COLUMN key_hash TO gone"
_NO_TYPE = "UPDATE integrations SET type = 'nonsense' WHERE client_id = 'second'"


@pytest.mark.slow
@pytest.mark.parametrize("log", ["console", "json"])
@pytest.mark.parametrize(
    ("damage", "command"),
    [
        (_NO_COLUMN, lambda _typed: (f"{_HERE}add crm", "")),
        (_NO_COLUMN, lambda _typed: (f"{_HERE}replace first", "")),
        (_NO_COLUMN, _adopts),
        (_NO_COLUMN, _imports),
        (_NO_TYPE, lambda _typed: (f"{_HERE}list", "")),
        (_NO_TYPE, lambda _typed: (f"{_HERE}export", "")),
    ],
    ids=["add", "replace", "adopt", "import", "list", "export"],
)
def test_a_defect_reveals_no_key(stopped_console: ConsoleServer, damage: str, command: _Command, log: str) -> None:
    console = stopped_console
    console.start(ECSS_CONSOLE_LOG__LEVEL="debug", ECSS_CONSOLE_LOG__FORMAT=log)
    console.run("domain/declare biysk.local")
    added = [console.run(f"{_HERE}add {name}").split("API key: ")[1][:64] for name in ("first", "second")]
    assert console.ssh(text=f"cocon/user/add vera\n{PASSWORD}\n{PASSWORD}\n").returncode == 0
    typed = new_key()
    _damage(console, damage)
    line, document = command(typed)
    ran = console.ssh(line, text=document)
    told = ran.stdout.decode() + ran.stderr.decode()
    assert ran.returncode == 70, told
    found = _INCIDENT.search(told)
    assert found
    assert console.logs(f"incident {found[1]}:")
    assert console.logs("Traceback")
    assert not any(secret in told for secret in (*added, typed))
    _check_untold(console, [*added, typed, PASSWORD, *_storage_key(console)])


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV], ids=lambda number: number.name)
def test_a_crash_reveals_no_key_and_writes_no_core_dump(stopped_console: ConsoleServer, number: signal.Signals) -> None:
    """The watchdog of the service manager ends a blocked console with SIGABRT."""
    console = stopped_console
    console.start(PYTHONFAULTHANDLER="1")  # as a developer may set it to find the cause
    console.run("domain/declare biysk.local")
    keys = [console.run(f"{_HERE}add first").split("API key: ")[1][:64], new_key()]
    console.run(f"{_HERE}adopt second {keys[1]}")
    assert all(key in console.run(f"{_HERE}list") for key in keys)
    limits = [line.split() for line in _proc(console, "limits").decode().splitlines()]
    assert ["Max", "core", "file", "size", "0", "0", "bytes"] in limits
    for secret in (*keys, PASSWORD, *_storage_key(console)):
        for name in ("cmdline", "environ"):
            assert secret.encode() not in _proc(console, name), name
    assert console.stop(number) == -number
    assert "Fatal Python error" in "".join(console.log)
    _check_untold(console, [*keys, PASSWORD, *_storage_key(console)])
    assert not [path for path in _kept(console) if path.startswith("core")]


def test_no_subcommand_writes_a_core_dump(stopped_console: ConsoleServer) -> None:
    """`backup` and `user passwd` hold the same secrets as `serve`."""
    words = ["from server.__main__ import main", "import resource", "main(['config', 'check'])"]
    told = "print(resource.getrlimit(resource.RLIMIT_CORE))"
    ran = subprocess.run(
        [sys.executable, "-c", "; ".join([*words, told])],
        cwd=stopped_console.folder,
        env=stopped_console.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines()[-1] == "(0, 0)"
