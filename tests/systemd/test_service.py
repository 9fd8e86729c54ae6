"""The console as a systemd service: notifications, passed sockets and keys, sandbox.

The tests play systemd; docs/adr/0005 reports the trials under a real one.
"""

from __future__ import annotations

import asyncio
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confine import confinable
from console import PASSWORD, PROGRAM, ConsoleServer, needs
from postgresql import Database

from server.systemd import SystemdNotifier

SUPPORT = Path(__file__).parents[1] / "support"
UNITS = SUPPORT.parents[1] / "systemd"
SERVICE, SOCKET = UNITS / "ecss-console.service", UNITS / "ecss-console.socket"
METRICS = UNITS / "ecss-console-metrics.socket"
BACKUP = [UNITS / f"ecss-console-backup.{kind}" for kind in ("service", "timer")]
#: For a store on PostgreSQL.
REMOTE, LOCAL = "postgresql.conf", "postgresql-local.conf"
#: Serves normally, but SIGUSR2 blocks the event loop until a file appears; other threads continue.
STALLING = """
import os, signal, sys, time

def stall(*_):
    sys.stderr.write("the loop stands still\\n")
    while not os.path.exists("go-on"):
        time.sleep(0.02)

signal.signal(signal.SIGUSR2, stall)
from server.__main__ import main
sys.exit(main(["serve"]))
"""


class Manager:
    """Receives the notifications of the program."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(20)

    def told(self) -> dict[str, str]:
        """Wait for the next message."""
        lines = self._socket.recv(65536).decode().split("\n")
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    def told_until(self, name: str) -> list[dict[str, str]]:
        """Return the messages up to one that sets `name`."""
        messages = [self.told()]
        while name not in messages[-1]:
            messages.append(self.told())
        return messages

    def told_already(self) -> list[dict[str, str]]:
        """Return the pending messages without waiting."""
        self._socket.settimeout(0)
        messages = []
        try:
            while True:
                messages.append(self.told())
        except BlockingIOError:
            self._socket.settimeout(20)
            return messages

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """A service manager's socket."""
    listening = Manager(str(tmp_path / "notify"))
    yield listening
    listening.close()


def test_systemd_is_notified_of_start_reload_and_end(stopped_console: ConsoleServer, manager: Manager) -> None:
    stopped_console.start(NOTIFY_SOCKET=manager.address)
    ready = manager.told()
    assert ready == {
        "READY": "1",
        "STATUS": f"listens on 127.0.0.1 port {stopped_console.port}; 0 connections, 0 sessions",
    }
    with socket.create_connection(("127.0.0.1", stopped_console.port), 10) as client:
        assert client.recv(4) == b"SSH-"
    assert stopped_console.process is not None
    stopped_console.process.send_signal(signal.SIGHUP)
    assert set(manager.told()) == {"RELOADING", "MONOTONIC_USEC"}
    assert manager.told()["READY"] == "1"
    assert stopped_console.stop() == 0
    assert manager.told()["STOPPING"] == "1"
    assert manager.told_already() == []  # no watchdog is configured


def test_an_abstract_notify_socket_is_used(stopped_console: ConsoleServer) -> None:
    name = f"ecss-console-test-{os.getpid()}"
    listening = Manager(f"\0{name}")
    stopped_console.start(NOTIFY_SOCKET=f"@{name}")
    assert listening.told()["READY"] == "1"
    listening.close()
    assert stopped_console.stop() == 0  # a missing service manager is no failure


def test_watchdog_pings_stop_when_the_event_loop_is_blocked(stopped_console: ConsoleServer, manager: Manager) -> None:
    stopped_console.launcher = (sys.executable, "-c", STALLING)
    stopped_console.start(NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="400000")
    assert manager.told()["READY"] == "1"
    for _ in range(5):
        assert manager.told()["WATCHDOG"] == "1"
    assert stopped_console.process is not None
    stopped_console.process.send_signal(signal.SIGUSR2)
    while "the loop stands still\n" not in stopped_console.log:
        time.sleep(0.02)
    manager.told_already()  # messages already sent
    time.sleep(1.6)  # four times systemd's timeout
    assert manager.told_already() == []
    (stopped_console.folder / "go-on").touch()
    assert manager.told()["WATCHDOG"] == "1"


def test_a_watchdog_of_another_process_is_not_pinged() -> None:
    assert SystemdNotifier({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).watchdog_seconds == 0
    assert SystemdNotifier({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}).watchdog_seconds == 1
    assert SystemdNotifier({"WATCHDOG_USEC": "1000000"}).watchdog_seconds == 1


def test_a_failed_notification_does_not_stop_later_ones(manager: Manager) -> None:
    """The watchdog task once ended, and systemd killed a server that briefly lacked descriptors."""
    notifier = SystemdNotifier({"NOTIFY_SOCKET": manager.address})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        notifier.ready("missed")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    notifier.ready("there again")
    assert manager.told()["STATUS"] == "there again"


async def test_without_a_service_manager_no_notification_is_sent() -> None:
    notifier = SystemdNotifier({})
    notifier.ready("all is well")
    await asyncio.wait_for(notifier.beat(lambda: "all is well"), 10)  # ends at once


def _activated(server: ConsoleServer, *sockets: socket.socket) -> None:
    """Start the program with these sockets, as systemd does."""
    server.descriptors = tuple(each.fileno() for each in sockets)
    numbers = ",".join(map(str, server.descriptors))
    server.launcher = (sys.executable, SUPPORT / "activate.py", numbers, *PROGRAM)


def test_clients_wait_through_a_restart_on_the_socket_that_systemd_holds(stopped_console: ConsoleServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        _activated(stopped_console, held)
        stopped_console.start(ECSS_CONSOLE_LISTEN__PORT="1")  # which is not asked for
        assert stopped_console.port == held.getsockname()[1]
        assert stopped_console.run("whoami").startswith("admin\n")
        assert stopped_console.stop() == 0
        waiting = subprocess.Popen(
            [*stopped_console.ssh_words(), "whoami"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        time.sleep(1)
        assert waiting.poll() is None  # connected, but not accepted yet
        stopped_console.start()
        answered, _ = waiting.communicate(timeout=60)
        assert answered.startswith(b"admin\n")


def test_several_sockets_are_all_served(stopped_console: ConsoleServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        _activated(stopped_console, first, second)
        stopped_console.start()
        for each in (first, second):
            stopped_console.port = each.getsockname()[1]
            assert stopped_console.run("whoami").startswith("admin\n")
        assert stopped_console.stop() == 0


def test_descriptors_meant_for_another_process_are_not_touched(stopped_console: ConsoleServer) -> None:
    stopped_console.start(LISTEN_FDS="3", LISTEN_PID="1")
    assert stopped_console.run("whoami").startswith("admin\n")


@pytest.mark.parametrize("kind", ["a file", "a connected socket", "a Unix socket"])
def test_an_unsuitable_socket_descriptor_is_refused(stopped_console: ConsoleServer, kind: str) -> None:
    left, right = socket.socketpair()
    local = socket.socket(socket.AF_UNIX)
    local.bind(str(stopped_console.folder / "local"))
    local.listen()
    with (stopped_console.folder / "id_admin.pub").open() as file, left, right, local:
        given = {"a file": file.fileno(), "a connected socket": left.fileno(), "a Unix socket": local.fileno()}[kind]
        ran = subprocess.run(
            [sys.executable, SUPPORT / "activate.py", str(given), *PROGRAM, "serve"],
            cwd=stopped_console.folder,
            env=stopped_console.environment(),
            pass_fds=(given,),
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    assert ran.returncode == 1
    assert "descriptor 3 from the service manager is no listening TCP socket" in ran.stderr


def _credential(server: ConsoleServer) -> Path:
    """Move the storage key to the credentials folder of systemd, and return that folder."""
    folder = server.folder / "credentials"
    folder.mkdir()
    (server.folder / "keys" / "storage.key").rename(folder / "storage.key")
    (folder / "storage.key").chmod(0o440)
    return folder


def test_the_storage_key_comes_as_a_credential(stopped_console: ConsoleServer) -> None:
    stopped_console.start()
    stopped_console.run("domain/declare a.example")
    key = re.findall(r"API key: (\w+)", stopped_console.run("domain/a.example/integrations/add one"))[0]
    stopped_console.stop()
    folder = _credential(stopped_console)
    stopped_console.start(CREDENTIALS_DIRECTORY=str(folder))
    assert key in stopped_console.run("domain/a.example/integrations/list")
    assert stopped_console.stop() == 0
    assert (folder / "storage.key").stat().st_mode & 0o777 == 0o440  # systemd owns it
    assert not (stopped_console.folder / "keys" / "storage.key").exists()


def test_the_storage_key_is_read_from_the_configured_path(stopped_console: ConsoleServer) -> None:
    folder = _credential(stopped_console)
    stopped_console.start(ECSS_CONSOLE_KEYS__STORAGE_KEY_FILE="credentials/storage.key")
    assert stopped_console.run("whoami").startswith("admin\n")
    assert stopped_console.stop() == 0
    (folder / "storage.key").chmod(0o444)
    ran = subprocess.run(
        [*PROGRAM, "serve"],
        cwd=stopped_console.folder,
        env=stopped_console.environment(ECSS_CONSOLE_KEYS__STORAGE_KEY_FILE="credentials/storage.key"),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert ran.returncode == 1
    assert "everybody may read the storage key" in ran.stderr


@pytest.mark.parametrize(
    ("lost", "words"),
    [("the credential", "is there but its storage key"), ("the database", "is there but its database")],
)
def test_a_credential_does_not_change_which_files_are_made(
    stopped_console: ConsoleServer, lost: str, words: str
) -> None:
    folder = _credential(stopped_console)
    if lost == "the credential":
        (folder / "storage.key").unlink()
    else:
        shutil.rmtree(stopped_console.folder / "var")
    ran = subprocess.run(
        [*PROGRAM, "serve"],
        cwd=stopped_console.folder,
        env=stopped_console.environment(CREDENTIALS_DIRECTORY=str(folder)),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert ran.returncode == 1
    assert words in ran.stderr
    assert not (stopped_console.folder / "keys" / "storage.key").exists()


def _installed(folder: Path, unit: Path, *drop_ins: str) -> Path:
    """Copy a unit with these drop-ins, because systemd-analyze reads all drop-ins beside a unit."""
    installed = folder / unit.name
    installed.write_text(unit.read_text())
    for name in drop_ins:
        copied = folder / f"{unit.name}.d" / name
        copied.parent.mkdir(exist_ok=True)
        copied.write_text((UNITS / f"{unit.name}.d" / name).read_text())
    return installed


@pytest.mark.parametrize("drop_ins", [[], [REMOTE], [LOCAL]], ids=["SQLite", "PostgreSQL", "local PostgreSQL"])
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path, drop_ins: list[str]) -> None:
    needs("systemd-analyze")
    program = tmp_path / "ecss-console"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    installed = [_installed(tmp_path, unit, *drop_ins) for unit in (SERVICE, BACKUP[0])]
    installed += [_installed(tmp_path, unit) for unit in (SOCKET, METRICS, BACKUP[1])]
    for unit in installed:
        unit.write_text(unit.read_text().replace("/opt/ecss-console/.venv/bin/ecss-console", str(program)))
    words = ["systemd-analyze", "verify", "--man=no", *map(str, installed)]
    ran = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@pytest.mark.parametrize("unit", [SERVICE, BACKUP[0]], ids=["server", "backup"])
@pytest.mark.parametrize(
    ("drop_ins", "most"),
    [([], 0.5), ([REMOTE], 1.5), ([LOCAL], 0.5)],
    ids=["SQLite", "PostgreSQL", "local PostgreSQL"],
)
def test_the_systemd_exposure_score_is_below_one_and_a_half(
    tmp_path: Path, unit: Path, drop_ins: list[str], most: float
) -> None:
    """Only a database on other hosts takes the score above 0.5."""
    needs("systemd-analyze")
    installed = str(_installed(tmp_path, unit, *drop_ins))
    words = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=15", installed]
    ran = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    found = re.search(rf"Overall exposure level for {unit.name}: ([0-9.]+)", ran.stdout)
    assert found, ran.stdout + ran.stderr
    assert float(found[1]) <= most
    assert ran.returncode == 0


@pytest.mark.parametrize("name", [REMOTE, LOCAL])
def test_a_drop_in_opens_the_same_for_the_server_and_the_backup(name: str) -> None:
    server, backup = (_settings((UNITS / f"{unit.name}.d" / name).read_text()) for unit in (SERVICE, BACKUP[0]))
    assert server == backup
    assert server["LoadCredential"] == ["database.password:/etc/ecss-console/database.password"]
    opened = {"PrivateNetwork", "IPAddressAllow", "RestrictAddressFamilies"}
    assert server.keys() & opened == (opened if name == REMOTE else set())


def test_the_nightly_backup_runs_in_the_sandbox_of_the_server() -> None:
    server, backup = (_sandbox(unit) for unit in (SERVICE, BACKUP[0]))
    assert server["PrivateUsers"] == ["yes"]
    assert server["SystemCallFilter"] == ["@system-service", "~@privileged @resources"]
    assert backup.pop("ReadWritePaths") == ["/var/lib/ecss-console /var/backups/ecss-console"]
    assert backup == server


def _sandbox(unit: Path) -> dict[str, list[str]]:
    """Return a unit's settings from `User=` on, without those of a listening server."""
    found = _settings(unit.read_text().partition("\nUser=")[2].partition("[Install]")[0])
    of_the_server = {"WorkingDirectory", "StateDirectory", "StateDirectoryMode", "LimitNOFILE"}
    return {name: values for name, values in found.items() if name not in of_the_server}


def _settings(text: str) -> dict[str, list[str]]:
    named = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    found: dict[str, list[str]] = {}
    for name, _, value in named:
        found.setdefault(name, []).append(value)
    return found


def _confined(folder: Path, *drop_ins: str) -> list[str]:
    """Return the words before a program that runs under the unit with these drop-ins."""
    merged = folder / SERVICE.name
    texts = [SERVICE.read_text(), *((UNITS / f"{SERVICE.name}.d" / name).read_text() for name in drop_ins)]
    merged.write_text("\n".join(texts))
    return [sys.executable, str(SUPPORT / "confine.py"), str(merged)]


def test_the_console_works_under_the_units_system_call_filters(stopped_console: ConsoleServer) -> None:
    """The unit's system call, memory and address family restrictions, applied through libseccomp."""
    confinable()
    with socket.create_server(("127.0.0.1", 0)) as held:
        _activated(stopped_console, held)
        stopped_console.launcher = (sys.executable, SUPPORT / "confine.py", SERVICE, *stopped_console.launcher)
        stopped_console.start()
        assert stopped_console.process is not None
        state = Path(f"/proc/{stopped_console.process.pid}/status").read_text()
        assert re.search(r"^Seccomp:\s2$", state, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\s1$", state, re.MULTILINE)
        stopped_console.run("domain/declare a.example")
        added = stopped_console.run("domain/a.example/integrations/add one --service --numbers 1{0-9}")
        assert "API key: " in added
        with stopped_console.paramiko(password=PASSWORD) as client:
            _, stdout, _ = client.exec_command("domain/list | regex a.*e | json")
            assert b"a.example" in stdout.read()
        assert stopped_console.stop() == 0
        assert "Traceback" not in "".join(stopped_console.log)


@pytest.mark.parametrize("way", ["an address", "a name", "a Unix socket"])
def test_the_console_reaches_postgresql_under_the_filters(database: Database, tmp_path: Path, way: str) -> None:
    """With the drop-ins. The password is a credential, as systemd gives it."""
    confinable()
    credentials = tmp_path / "credentials"
    credentials.mkdir(mode=0o700)
    shutil.copy(database.password_file, credentials / "database.password")
    by_name = database.url.replace("127.0.0.1", "localhost")
    url = {"an address": database.url, "a name": by_name, "a Unix socket": database.socket_url}[way]
    console = ConsoleServer(tmp_path / "console")
    console.folder.mkdir()
    (console.folder / "config.yaml").write_text(f'storage: {{url: "{url}"}}\n')
    console.prepare(CREDENTIALS_DIRECTORY=str(credentials))
    with socket.create_server(("127.0.0.1", 0)) as held:
        _activated(console, held)
        drop_in = LOCAL if way == "a Unix socket" else REMOTE
        console.launcher = (*_confined(tmp_path, drop_in), *console.launcher)
        console.start(CREDENTIALS_DIRECTORY=str(credentials))
        assert console.process is not None
        state = Path(f"/proc/{console.process.pid}/status").read_text()
        assert re.search(r"^Seccomp:\s2$", state, re.MULTILINE)
        console.run("domain/declare a.example")
        assert "a.example" in console.run("domain/list")
        assert "ds1@ecss1" in console.run("node/list")
        assert console.stop() == 0
        assert "Traceback" not in "".join(console.log)


@pytest.mark.parametrize(
    ("attempt", "refused"),
    [
        ("socket.socket(socket.AF_INET)", "Address family not supported"),
        ("mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)", "Operation not permitted"),
        ("os.setuid(1)", "Operation not permitted"),
        ("os.chroot('/')", "Operation not permitted"),
    ],
)
def test_the_system_call_filters_refuse_other_calls(tmp_path: Path, attempt: str, refused: str) -> None:
    confinable()
    program = f"import mmap, os, socket\n{attempt}"
    words = [*_confined(tmp_path), sys.executable, "-c", program]
    ran = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 1
    assert refused in ran.stderr


@pytest.mark.parametrize(
    ("drop_in", "family", "status"),
    [
        (REMOTE, "AF_INET", 0),
        (REMOTE, "AF_INET6", 0),
        (REMOTE, "AF_NETLINK", 1),
        (REMOTE, "AF_PACKET", 1),
        (LOCAL, "AF_INET", 1),
        (LOCAL, "AF_UNIX", 0),
    ],
)
def test_a_drop_in_opens_only_the_address_families_of_the_database(
    tmp_path: Path, drop_in: str, family: str, status: int
) -> None:
    confinable()
    program = f"import socket\nsocket.socket(socket.{family}, socket.SOCK_DGRAM)"
    words = [*_confined(tmp_path, drop_in), sys.executable, "-c", program]
    ran = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == status, ran.stderr
    assert ("Address family not supported" in ran.stderr) == bool(status)
