"""Prometheus, probes and `/node/` show the same true figures to authorized readers."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import asyncssh
import pytest
from console import PASSWORD, PROGRAM, ConsoleServer
from prometheus_client.parser import text_string_to_metric_families

from server import __version__
from server.commands import COMMANDS
from server.model.refusals import Refusal
from server.node.measures import BOUNDS_SECONDS
from server.node.metrics import METRICS, MetricKind
from server.systemd import activated_sockets

SUPPORT = Path(__file__).parents[1] / "support"
DOCUMENT = Path(__file__).parents[2] / "docs" / "observability.md"
_ADDRESS = re.compile(r"metrics and probes at http://(\S+):(\d+)/metrics")
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def _start(console: ConsoleServer, **environment: str) -> str:
    """Start with the endpoint on; return its address."""
    console.start(ECSS_CONSOLE_METRICS__LISTEN="127.0.0.1:0", **environment)
    return _address(console)


def _address(console: ConsoleServer) -> str:
    found = next(found for line in console.log if (found := _ADDRESS.search(line)))
    return f"http://{found[1]}:{found[2]}"


@pytest.fixture
def address(stopped_console: ConsoleServer) -> str:
    """The endpoint address of `stopped_console`, which is started."""
    return _start(stopped_console)


def _get(url: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  http of this test's server
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310  likewise
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def _samples(address: str) -> Samples:
    status, page = _get(f"{address}/metrics")
    assert status == 200
    families = text_string_to_metric_families(page)
    return {(each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples}


def _value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


def _until(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_every_metric_is_documented_and_scraped(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    address = _start(console, ECSS_CONSOLE_AUDIT__LOG="audit.log")
    console.run("whoami")
    _, page = _get(f"{address}/metrics")
    families = {family.name: family for family in text_string_to_metric_families(page)}
    document = DOCUMENT.read_text(encoding="utf-8")
    rows = [row.split(" | ") for row in document.splitlines() if row.startswith("| `")]
    documented = {row[0].strip("| `"): row for row in rows if re.match(r"\| `(ecss_console|process)_", row[0])}
    assert set(documented) == {metric.name for metric in METRICS}
    for metric in METRICS:
        name = metric.name.removesuffix("_total") if metric.kind is MetricKind.COUNTER else metric.name
        assert families[name].type == metric.kind.value, metric.name
        assert families[name].documentation == metric.meaning
        row = documented[metric.name]
        assert (row[1], row[2]) == (metric.kind.value, ", ".join(f"`{each}`" for each in metric.labels) or "none")
        assert row[3].removesuffix(" |") == metric.meaning
        assert {label for each in families[name].samples for label in each.labels} - {"le"} <= set(metric.labels)
    assert len(families) == len(METRICS)  # no default metrics of the library
    for alert in re.findall(r"\b((?:ecss_console|process)_\w+)", document.split("## Alerts")[1]):
        assert any(alert in {m.name, f"{m.name}_bucket", f"{m.name}_count", f"{m.name}_sum"} for m in METRICS), alert


async def test_events_are_counted_under_bounded_labels(stopped_console: ConsoleServer, address: str) -> None:
    console = stopped_console
    async with console.asyncssh() as connection:
        for line in (
            "domain/declare biysk.local",
            "domain/biysk.local/integrations/add tester",
            "domain/biysk.local/integrations/add tester",
            "domain/biysk.local/integrations/add -x",
            "domain/secret-domain.example/integrations/list",
            "no-such-command-typed-here",
            '"unclosed',
        ):
            await connection.run(line)
        sleeping = await connection.create_process("sleep 60", encoding="utf-8")
        samples = await asyncio.to_thread(_samples, address)
        while not _value(samples, "ecss_console_commands_running"):
            samples = await asyncio.to_thread(_samples, address)
        assert _value(samples, "ecss_console_connections", state="open") == 1
        assert _value(samples, "ecss_console_sessions") == 1
        sleeping.send_signal("INT")
        await sleeping.wait()
    with suppress(asyncssh.Error):
        await console.connected(password="wrong", client_keys=None)
    async with console.asyncssh(password=PASSWORD, client_keys=None):
        pass
    samples = await asyncio.to_thread(_samples, address)
    add, total = "/domain/<DOMAIN>/integrations/add", "ecss_console_commands_total"
    assert _value(samples, total, command=add, outcome="done") == 1
    assert _value(samples, total, command=add, outcome="refused") == 1
    assert _value(samples, total, command=add, outcome="arguments") == 1
    assert _value(samples, total, command="/domain/<DOMAIN>/integrations/list", outcome="refused") == 1
    assert _value(samples, total, command="/sleep", outcome="interrupted") == 1
    assert _value(samples, total, command="none", outcome="unknown") == 1
    assert _value(samples, total, command="none", outcome="arguments") == 1
    assert _value(samples, "ecss_console_command_seconds_count", command=add) == 3
    assert _value(samples, "ecss_console_logins_total", outcome="accepted", method="key") == 1
    assert _value(samples, "ecss_console_logins_total", outcome="accepted", method="password") == 1
    assert _value(samples, "ecss_console_logins_total", outcome="failed", method="password") >= 1
    assert _value(samples, "ecss_console_commands_running") == 0
    assert _value(samples, "ecss_console_store_seconds_count", operation="commit") >= 2
    assert _value(samples, "ecss_console_store_seconds_count", operation="change") >= 2
    assert _value(samples, "ecss_console_store_seconds_count", operation="read") >= 2
    assert _value(samples, "ecss_console_store_bytes", file="database") > 10_000
    assert _value(samples, "process_resident_memory_bytes") > 10_000_000
    assert _value(samples, "process_open_fds") > 5
    assert abs(_value(samples, "process_start_time_seconds") - time.time()) < 120
    build = next(dict(found) for name, found in samples if name == "ecss_console_build_info")
    assert set(build) == {"version", "node", "node_version", "schema"}
    assert (build["version"], build["node"]) == (__version__, "ds1@ecss1")
    paths = {command.path for command in COMMANDS} | {"none"}
    for _, found in samples:
        values = dict(found)
        assert values.get("command", "none") in paths
        assert values.get("reason", "max_sessions") in {reason.value for reason in Refusal}
        assert not any("secret" in value or "typed" in value for value in values.values())


def test_refusals_are_counted_by_reason(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    address = _start(console, ECSS_CONSOLE_LIMITS__MAX_CONNECTIONS="1")
    with socket.create_connection(("127.0.0.1", console.port), 10) as held:
        held.recv(4)
        with socket.create_connection(("127.0.0.1", console.port), 10) as refused:
            assert refused.recv(64).startswith(b"Not allowed")
        assert _value(_samples(address), "ecss_console_refusals_total", reason="max_connections") == 1
        assert _value(_samples(address), "ecss_console_connections", state="login") == 1
        assert _get(f"{address}/healthz") == (200, "ok\n")
        assert _get(f"{address}/readyz") == (
            503,
            "the connection limit is reached: 1 connections are open (limits.max_connections)\n",
        )
    _until(lambda: _get(f"{address}/readyz") == (200, "ok\n"))


def test_the_same_figures_stand_in_node_metrics_without_an_endpoint(console: ConsoleServer) -> None:
    assert not any(_ADDRESS.search(line) for line in console.log)
    console.run("domain/declare biysk.local")
    rows = json.loads(console.run("node/metrics | json"))["rows"]
    names = {row["name"] for row in rows}
    for metric in METRICS:
        if metric.name != "ecss_console_audit_log_failing":  # there is no such log
            suffix = "_count" if metric.kind is MetricKind.HISTOGRAM else ""
            assert f"{metric.name}{suffix}" in names, metric.name
    declared = [row for row in rows if "command=/domain/declare" in row["labels"]]
    values = {(row["name"], row["labels"]): row["value"] for row in declared}
    assert values["ecss_console_commands_total", "command=/domain/declare, outcome=done"] == 1
    assert values["ecss_console_command_seconds_count", "command=/domain/declare"] == 1
    bound = values["ecss_console_command_seconds_p99", "command=/domain/declare"]
    assert bound is None or bound in BOUNDS_SECONDS
    assert "Count: 1\n" in console.run("node/metrics | match commands_running | count")


def test_node_info_shows_paths_to_administrators_only(console: ConsoleServer) -> None:
    console.run("domain/declare biysk.local")
    console.add_user("vera", "viewer")
    fields = json.loads(console.run("node/info | json"))["fields"]
    assert console.process is not None
    assert fields["program"] == f"ecss-console {__version__}"
    assert fields["node"].startswith("ds1@ecss1 v.")
    assert fields["pid"] == console.process.pid
    assert fields["listens"] == f"127.0.0.1 port {console.port}"
    assert fields["configuration"] == "the defaults"
    assert fields["waiting"] == "nothing"
    assert fields["database"] == str(console.database)
    with closing(sqlite3.connect(console.database)) as database:
        assert database.execute("SELECT value FROM store WHERE name = 'schema'").fetchone() == (str(fields["schema"]),)
    keys = console.program("hostkey", "list").stdout
    assert fields["host_keys"] in keys
    assert fields["store_bytes"] >= console.database.stat().st_size
    assert (fields["logins"], fields["commands_running"]) == (1, 1)
    status, seen = console.told("vera", "node/info")
    assert (status, "Host keys: SHA256:" in seen) == (0, True)
    assert not any(word in seen for word in (str(console.folder), "Process", "Configuration"))
    status, refused = console.told("vera", "node/metrics")
    assert (status, "needs node.read" in refused) == (126, True)


async def test_probes_report_draining_during_shutdown(stopped_console: ConsoleServer, address: str) -> None:
    console = stopped_console
    assert await asyncio.to_thread(_get, f"{address}/readyz") == (200, "ok\n")
    async with console.asyncssh() as connection:
        running = await connection.create_process("sleep 1.5", encoding="utf-8")
        while not _value(await asyncio.to_thread(_samples, address), "ecss_console_commands_running"):
            pass
        assert console.process is not None
        console.process.terminate()
        assert await asyncio.to_thread(console.logs, "stopping: no more logins")
        assert await asyncio.to_thread(_get, f"{address}/readyz") == (503, "the console is stopping\n")
        assert await asyncio.to_thread(_get, f"{address}/healthz") == (200, "ok\n")
        assert (await running.wait()).exit_status == 0
    assert await asyncio.to_thread(console.stop) == 0
    assert "Traceback" not in "".join(console.log)


#: Serves normally, but SIGUSR2 makes every read of the store wait until a file appears.
_STORE_STOPS = """
import asyncio, os, signal, sys
from server.storage.store import Store

reads = Store.read

def stop(*_):
    async def read(self, sql, *values):
        while not os.path.exists("go-on"):
            await asyncio.sleep(0.02)
        return await reads(self, sql, *values)
    Store.read = read
    sys.stderr.write("the store stands still\\n")

signal.signal(signal.SIGUSR2, stop)
from server.__main__ import main
sys.exit(main(["serve"]))
"""


def test_a_blocked_store_is_not_ready_but_healthy(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    console.launcher = (sys.executable, "-c", _STORE_STOPS)
    address = _start(console)
    assert console.process is not None
    console.process.send_signal(signal.SIGUSR2)
    assert console.logs("the store stands still")
    assert _get(f"{address}/readyz") == (503, "the store does not answer\n")
    assert _get(f"{address}/healthz") == (200, "ok\n")
    (console.folder / "go-on").touch()
    assert _get(f"{address}/readyz") == (200, "ok\n")


def _check_a_damaged_store_is_not_ready(console: ConsoleServer, address: str) -> None:
    with closing(sqlite3.connect(console.database)) as database:
        database.execute("ALTER TABLE store RENAME TO gone")
        database.commit()
        assert _get(f"{address}/readyz") == (503, "the store cannot be read; the log says why\n")
        database.execute("ALTER TABLE gone RENAME TO store")
        database.commit()
    assert _get(f"{address}/readyz") == (200, "ok\n")


def _raw(address: str, *pieces: bytes, read: bool = True) -> bytes:
    host, _, port = address.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), 20) as client:
        with suppress(OSError):
            for piece in pieces:
                client.sendall(piece)
        received = b""
        with suppress(OSError):
            while read and (data := client.recv(65536)):
                received += data
        return received


def test_only_minimal_http_is_served_and_a_damaged_store_is_not_ready(
    stopped_console: ConsoleServer, address: str
) -> None:
    console = stopped_console
    _check_a_damaged_store_is_not_ready(console, address)
    console.log.clear()
    ok = _raw(address, b"GET /healthz?from=probe HTTP/1.1\r\nHost: x\r\n\r\n")
    assert ok.startswith(b"HTTP/1.1 200 OK\r\n")
    assert ok.endswith(b"\r\n\r\nok\n")
    assert b"connection: close" in ok
    head = _raw(address, b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert head.endswith(b"\r\n\r\n")
    assert b"content-length: 3" in head
    assert _raw(address, b"GET /healthz HTTP/1.0\r\n\r\n").endswith(b"ok\n")
    assert _raw(address, b"GET http://x/healthz?a=b HTTP/1.1\r\nHost: x\r\n\r\n").endswith(b"ok\n")
    for odd in (b"http://[", b"*", b"//healthz"):
        assert _raw(address, b"GET " + odd + b" HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 404 ")
    assert _raw(address, b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").startswith(b"HTTP/1.1 405 ")
    assert _raw(address, b"GET /../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 404 ")
    assert _raw(address, b"SSH-2.0-OpenSSH_9.9\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert _raw(address, b"GET / HTTP/1.1\r\nX: ", b"x" * 100_000, b"\r\n\r\n")[:13] in {b"HTTP/1.1 431 ", b""}
    status, page = _get(f"{address}/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert (status, page.endswith("# EOF\n")) == (200, True)
    # a non-numeric version once logged a traceback and gave no answer
    for version in ("application/openmetrics-text; version=abc", "text/plain; version=1..0; escaping=x"):
        assert _get(f"{address}/metrics", Accept=version)[0] == 200
    assert console.stop() == 0
    assert "Traceback" not in "".join(console.log)


def test_slow_and_many_http_clients_delay_no_other(stopped_console: ConsoleServer, address: str) -> None:
    console = stopped_console
    host, _, port = address.removeprefix("http://").rpartition(":")
    slow = [socket.create_connection((host, int(port)), 20) for _ in range(40)]
    with suppress(OSError):
        for each in slow:
            each.sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: ")
    assert _get(f"{address}/healthz") == (200, "ok\n")  # was cut: a monitor would have restarted the console
    assert console.run("whoami").startswith("admin\n")
    for each in slow:  # few connections are held, each for at most five seconds
        each.settimeout(20)
        with suppress(ConnectionError):
            assert each.recv(1) == b""
        each.close()
    assert _get(f"{address}/healthz") == (200, "ok\n")
    unread = [socket.create_connection((host, int(port)), 20) for _ in range(3)]
    for each in unread:  # these send requests and never read
        each.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert _get(f"{address}/healthz") == (200, "ok\n")
    for each in unread:
        each.close()
    assert console.stop() == 0
    assert "Traceback" not in "".join(console.log)


def test_a_port_in_use_is_reported_with_its_setting(stopped_console: ConsoleServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environment = stopped_console.environment(ECSS_CONSOLE_METRICS__LISTEN=f"127.0.0.1:{port}")
        words = [*PROGRAM, "serve"]
        ran = subprocess.run(
            words, cwd=stopped_console.folder, env=environment, capture_output=True, text=True, check=False, timeout=30
        )
    assert ran.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port} (metrics.listen): Address already in use" in ran.stderr


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """Two listening sockets, as systemd opens them."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        yield [one, other]


def test_the_systemd_socket_named_metrics_serves_the_endpoint(
    stopped_console: ConsoleServer, sockets: list[socket.socket]
) -> None:
    console = stopped_console
    console.descriptors = tuple(each.fileno() for each in sockets)
    numbers = ",".join(map(str, console.descriptors))
    console.launcher = (sys.executable, SUPPORT / "activate.py", numbers, *PROGRAM)
    console.start(LISTEN_FDNAMES="ecss-console.socket:metrics")
    ssh, endpoint = (each.getsockname()[1] for each in sockets)
    assert console.port == ssh
    assert _get(f"http://127.0.0.1:{endpoint}/readyz") == (200, "ok\n")
    assert console.run("whoami").startswith("admin\n")
    assert activated_sockets({}).metrics == ()
