"""The log for people and collectors: one line for each event, whatever input it contains."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import asyncssh
import paramiko
import pytest
from console import ConsoleServer
from hypothesis import given
from hypothesis import strategies as st

from server import __version__
from server.escaping import escaped
from server.log import MOST_WAITING_LINES, BackgroundLogHandler, ConsoleLines, JsonLines, about

HOSTILE = "x\n2026-11-24 00:00:00,000 INFO    ecss-console.login: root\r\x1b[2J\x07\x9b31m\u2028\u202e\u200b\udcff\x7f"
_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR) +ecss-console[a-z.]*: .")


def _record(message: str, *values: object, error: BaseException | None = None, **fields: object) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error is not None else None
    record = logging.LogRecord("ecss-console.test", logging.WARNING, __file__, 1, message, values, info)
    record.__dict__.update(about("tested", **fields))
    return record


def _raised(text: str) -> ValueError:
    try:
        int(text)
    except ValueError:
        return ValueError(text).with_traceback(sys.exc_info()[2])
    pytest.fail("a number")


@given(st.text(st.characters(), max_size=60))
def test_every_log_message_is_one_printable_line(text: str) -> None:
    line = ConsoleLines().format(_record("login of %s failed", text))
    assert _LINE.match(line)
    assert len(line.splitlines()) == 1
    assert not any(ord(each) < 32 or 0x7F <= ord(each) < 0xA0 for each in line)
    document = JsonLines("ds1@ecss1").format(_record("login of %s failed", text, user=text))
    assert document.isascii()
    assert document.isprintable()
    assert json.loads(document)["user"] == text
    assert json.loads(document)["message"] == f"login of {text} failed"


def test_line_breaks_and_terminal_controls_are_logged_as_escapes() -> None:
    assert escaped("a\nb\r\x1b[2J\x9b\u2028\u202e") == r"a\x0ab\x0d\x1b[2J\x9b\u2028\u202e"
    assert escaped("Prüfung → gut") == "Prüfung → gut"


def test_no_line_of_a_traceback_can_look_like_a_line_of_the_log() -> None:
    text = ConsoleLines().format(_record("incident %s", "AB", error=_raised(HOSTILE)))
    first, *rest = text.split("\n")
    assert _LINE.match(first)
    assert len(rest) > 3
    assert all(line.startswith("    ") for line in rest)
    assert "\x1b" not in text
    assert "\u202e" not in text
    document = json.loads(JsonLines("n").format(_record("incident", error=_raised(HOSTILE))))
    assert "ValueError: x\n2026" in document["traceback"]


def test_a_json_line_has_the_promised_fields() -> None:
    document = json.loads(JsonLines("ds1@ecss1").format(_record("%d of them", 3, user="eve", source="192.0.2.1:5")))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", document.pop("at"))
    assert document == {
        "level": "warning",
        "logger": "ecss-console.test",
        "node": "ds1@ecss1",
        "message": "3 of them",
        "event": "tested",
        "user": "eve",
        "source": "192.0.2.1:5",
    }


@pytest.mark.parametrize("form", ["console", "json"])
async def test_a_hostile_client_cannot_forge_log_lines(stopped_console: ConsoleServer, form: str) -> None:
    console = stopped_console
    console.start(ECSS_CONSOLE_LOG__FORMAT=form)
    forged = "eve\n2026-11-24 00:00:00,000 INFO    ecss-console.login: admin from 10.0.0.1:1 has logged in\x1b[2J\x07"
    for name, password in ((forged, "\n\x1b]0;owned\x07"), ("eve INFO has logged in …", "wrong")):
        await asyncio.to_thread(_log_in_vain, console, name, password)  # the protocol's own rules refuse the first
    async with console.asyncssh() as connection:
        await connection.run("sleep 0\x1b[2J\x07")
        await connection.run("echo \u202e\x1b[31m")
    assert await asyncio.to_thread(console.logs, "has left")
    assert await asyncio.to_thread(console.stop) == 0
    whole = "".join(console.log)
    assert "login of eve" in whole
    assert not set(whole) & set("\x1b\x07\x9b\u202e\r")
    if form == "json":
        lines = [json.loads(line) for line in console.log]
        assert all({"at", "level", "logger", "node", "message"} <= set(line) for line in lines)
        assert {line.get("user") for line in lines if line.get("event") == "login"} == {"admin"}
        failed = [line for line in lines if line.get("event") == "login.failed"]
        assert failed
        assert all(line["source"].startswith("127.0.0.1:") and line["method"] == "password" for line in failed)
    else:
        assert all(_LINE.match(line) for line in console.log)
        tries = [line for line in console.log if "login of eve" in line]
        assert tries
        assert all("WARNING ecss-console.login: login of eve" in line for line in tries)


def _log_in_vain(console: ConsoleServer, name: str, password: str) -> None:
    with suppress(paramiko.SSHException, EOFError), console.paramiko(username=name, password=password):
        pytest.fail("it came in")


def test_json_log_lines_of_one_session(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    (console.folder / "config.yaml").write_text("log: {format: json}\n")
    console.start()
    console.run("whoami")
    assert console.logs('"logout"')
    assert console.stop() == 0
    told = {line["event"]: line for line in map(json.loads, console.log) if "event" in line}
    started = told["started"]
    assert started["version"] == __version__
    assert started["configuration"] == str(console.folder / "config.yaml")
    assert started["database"] == str(console.database)
    assert started["listens"] == [f"127.0.0.1 port {console.port}"]
    assert started["schema"].isdecimal()
    assert started["host_keys"][0].startswith("SHA256:")
    login, logout = told["login"], told["logout"]
    assert (login["user"], login["node"]) == ("admin", "ds1@ecss1")
    assert login["method"].startswith("key SHA256:")
    assert (login["session"], login["source"]) == (logout["session"], logout["source"])
    assert {"stopping", "drained", "stopped"} <= set(told)


def test_the_start_line_names_version_node_store_and_port(console: ConsoleServer) -> None:
    line = next(line for line in console.log if "listens on" in line)
    for word in (__version__, "ds1@ecss1", "none, the defaults", str(console.database), "schema ", str(console.port)):
        assert word in line


async def test_records_below_the_level_are_not_logged(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    console.start()
    (console.folder / "config.yaml").write_text("log: {level: warning}\n")
    assert console.process is not None
    console.process.send_signal(signal.SIGHUP)
    done = "host.change"
    while '"SIGHUP"' not in await asyncio.to_thread(console.run, f"cocon/audit/list --event {done} --last 1 | json"):
        pass
    before = len(console.log)
    with suppress(asyncssh.Error):
        await console.connected(username="nobody", password="wrong", client_keys=None)
    assert await asyncio.to_thread(console.logs, "WARNING", "login of nobody")
    assert await asyncio.to_thread(console.stop) == 0
    assert not any(" INFO " in line for line in console.log[before:])


def test_an_unread_log_blocks_no_session(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    read, write = os.pipe()
    room = fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    words = [*console.launcher, "serve"]
    process = subprocess.Popen(words, cwd=console.folder, env=console.environment(), stderr=write)
    os.close(write)
    said = b""
    while not (found := re.search(rb"listens on \S+ port (\d+)", said)):
        said += os.read(read, 4096)
    console.port = int(found[1])
    for _ in range(100):
        process.send_signal(signal.SIGUSR1)  # one line each
        time.sleep(0.01)
    assert console.run("echo still here").startswith("still here")
    process.terminate()
    assert process.wait(5) == 0
    left = b""
    while more := os.read(read, 65536):
        left += more
    os.close(read)
    assert room * 0.9 < len(left) <= room


def test_dropped_log_lines_are_counted() -> None:
    read, write = os.pipe()
    log = BackgroundLogHandler(write)
    log.setFormatter(ConsoleLines())
    for number in range(MOST_WAITING_LINES + 2000):
        log.handle(_record("line %d of many, with as much in it as others have", number))
    lines: list[str] = []

    def collect() -> None:
        with os.fdopen(read, encoding="utf-8") as pipe:
            lines.extend(pipe)

    reader = threading.Thread(target=collect)
    reader.start()
    log.close()
    for thread in threading.enumerate():
        if thread.name == "log":
            thread.join(20)
    os.close(write)
    reader.join(20)
    (told,) = (line for line in lines if "lines of the log were lost: nobody read standard error" in line)
    lost = int(re.findall(r": (\d+) lines", told)[0])
    assert 0 < lost <= 2000
    assert len(lines) == MOST_WAITING_LINES + 2000 - lost + 1


def test_logging_and_unused_metrics_import_nothing_heavy() -> None:
    program = (
        "import sys, server.__main__; print(*sorted({'structlog', 'h11', 'prometheus_client'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "\n"
