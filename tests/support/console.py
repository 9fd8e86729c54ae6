"""A real server in its own folder, and clients to drive it."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh
import paramiko
import pytest
from asyncssh import SSHClientConnection

from server.model.access import Operator, Role
from server.model.integrations import Integration
from server.storage import domains, integrations
from server.storage.sqlite.engine import SqliteEngine
from server.storage.store import Store
from server.storage.vault import Vault

PASSWORD = "correct horse battery staple"
PROMPT = "admin@ds1@ecss1:/$ "
#: A user with all permissions, for tests without a server.
ADMIN = Operator("admin", Role.ADMIN, "127.0.0.1:22", "00000000")
PROGRAM = (sys.executable, "-m", "server")
_PORT = re.compile(r"listens on \S+ port (\d+)")


def needs(program: str) -> None:
    """Skip the test where an outside program is absent; with CI=true fail instead."""
    if shutil.which(program) is None:
        is_absent(f"the outside program {program} is not installed")


def needs_library(name: str, *words: str) -> None:
    """Skip the test where another language's library is absent (`words` fail), as `needs` does."""
    needs(words[0])
    if subprocess.run(words, capture_output=True, check=False, timeout=60).returncode:
        is_absent(f"the library {name} is not installed")


def is_absent(message: str) -> None:
    """Skip the test with this message; with CI=true fail instead."""
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@dataclass
class ConsoleServer:
    """One server process and the means to reach it."""

    folder: Path
    process: subprocess.Popen[str] | None = None
    port: int = 0
    log: list[str] = field(default_factory=list)
    reader: threading.Thread | None = None
    launcher: Sequence[str | Path] = PROGRAM
    descriptors: tuple[int, ...] = ()  # left open for the launcher

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.folder / "var" / "console.db"

    @property
    def key(self) -> Path:
        """The private key of `admin`."""
        return self.folder / "id_admin"

    def audit(self) -> list[dict[str, object]]:
        """Return the audit records from the store, oldest first."""
        with closing(sqlite3.connect(self.database, timeout=10)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute("SELECT * FROM audit ORDER BY id")]

    def recorded(self, found: Callable[[list[dict[str, object]]], bool]) -> list[dict[str, object]]:
        """Wait until the audit has matching records, as reads and logins are stored in batches. Return its records."""
        deadline = time.monotonic() + 20
        while not found(records := self.audit()):
            assert time.monotonic() < deadline, records
            time.sleep(0.02)
        return records

    def runs_a_command(self) -> None:
        """Wait until a command runs in a session other than the one that checks."""
        deadline = time.monotonic() + 20
        while [row["idle_seconds"] for row in self._sessions()].count(None) < 2:
            assert time.monotonic() < deadline, self._sessions()

    def _sessions(self) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = json.loads(self.run("cocon/session/list | json"))["rows"]
        return rows

    def environment(self, **more: str) -> dict[str, str]:
        """Return the program's environment: a free port, and no settings from outside."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ECSS_CONSOLE_")}
        return {**kept, "ECSS_CONSOLE_LISTEN__PORT": "0", "PYTHONUNBUFFERED": "1", **more}

    async def seed(self, domain: str, rows: Iterable[tuple[Integration, str]]) -> None:
        """Put a domain with these integrations and their keys into the store of a stopped server."""
        vault = Vault(base64.b64decode((self.folder / "keys" / "storage.key").read_bytes()))
        store = Store(await SqliteEngine.open(self.database), vault)
        async with store.transaction() as query:
            await domains.insert(query, domain, "2021-02-16T08:00:00Z")
            for integration, key in rows:
                await integrations.insert(query, vault, domain, integration, key, "2021-02-16T08:00:00Z")
        await store.close()

    def program(self, *words: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the program's command line in the server's folder."""
        return subprocess.run(
            [*PROGRAM, *words],
            cwd=self.folder,
            env=self.environment(**environment),
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    def prepare(self, **environment: str) -> None:
        """Make a key and the user `admin`, who may log in with it and with `PASSWORD`."""
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
        words = ("user", "add", "admin", "--password-stdin", "--authorized-key", f"{self.key}.pub")
        added = self.program(*words, text=PASSWORD + "\n", **environment)
        assert added.returncode == 0, added.stderr

    def start(self, **environment: str) -> None:
        """Start the server and wait for the port."""
        ready = self.launch(**environment)
        assert ready.wait(20), "the server does not start:\n" + "".join(self.log)

    def launch(self, **environment: str) -> threading.Event:
        """Start the server without a wait; return an event for the known port or the end of the process."""
        self.log.clear()
        self.process = subprocess.Popen(
            [*self.launcher, "serve"],
            cwd=self.folder,
            env=self.environment(**environment),
            pass_fds=self.descriptors,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        ready = threading.Event()
        self.reader = threading.Thread(target=self._read_log, args=(self.process, ready), daemon=True)
        self.reader.start()
        return ready

    def _read_log(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                self.log.append(line)
                if found := _PORT.search(line):
                    self.port = int(found[1])
                    ready.set()
        ready.set()

    def logs(self, *words: str) -> bool:
        """Wait until a log line has all these words; False when none comes."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if any(all(word in line for word in words) for line in self.log):
                return True
            time.sleep(0.01)
        return False

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, read the rest of the log, and return the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(20)
        if self.reader is not None:
            self.reader.join(5)
        return status

    def ssh_words(self, *options: str, user: str = "admin") -> list[str]:
        """Return the arguments of an OpenSSH client without a terminal and without the caller's settings."""
        fixed = ["IdentitiesOnly=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        settings = [word for option in fixed for word in ("-o", option)]
        return [
            "ssh",
            "-F",
            "none",
            "-p",
            str(self.port),
            "-i",
            str(self.key),
            *settings,
            *options,
            f"{user}@127.0.0.1",
        ]

    def ssh(
        self, *command: str, text: str | bytes = b"", options: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `ssh host command` with `text` on standard input."""
        given = text.encode() if isinstance(text, str) else text
        words = [*self.ssh_words(*options), *command]
        return subprocess.run(words, input=given, capture_output=True, check=False, timeout=60)

    def run(self, command: str) -> str:
        """Run a command that must succeed and return its output."""
        ran = self.ssh(command)
        assert ran.returncode == 0, ran.stdout.decode() + ran.stderr.decode()
        return ran.stdout.decode()

    def add_user(self, name: str, role: str, *domains: str) -> None:
        """Add a user with the key of `admin` and grants for domains."""
        added = self.program("user", "add", name, "--authorized-key", f"{self.key}.pub", "--role", role)
        assert added.returncode == 0, added.stderr
        for domain in domains:
            self.run(f"cocon/user/grant {name} {domain}")

    def told(self, user: str, command: str) -> tuple[int, str]:
        """Run a command as a user; return its status and its output without the footer."""
        words = [*self.ssh_words(user=user), command]
        ran = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60)
        return ran.returncode, ran.stdout.split("\n[exec at: ")[0] + ran.stderr

    async def connected(self, **more: object) -> SSHClientConnection:
        """Return an asyncssh connection, logged in with the key; the caller closes it."""
        options: dict[str, object] = {
            "username": "admin",
            "client_keys": [str(self.key)],
            "known_hosts": None,
            "agent_path": None,
            "config": None,
        }
        return await asyncssh.connect("127.0.0.1", self.port, **(options | more))

    @asynccontextmanager
    async def asyncssh(self, **more: object) -> AsyncIterator[SSHClientConnection]:
        """Give asyncssh's connection."""
        connection = await self.connected(**more)
        async with connection:
            yield connection

    @contextmanager
    def paramiko(self, **more: object) -> Iterator[paramiko.SSHClient]:
        """Give a connected paramiko client, logged in with the password as automation does."""
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())  # noqa: S507  the server of this test
        options: dict[str, object] = {"username": "admin", "password": PASSWORD}
        try:
            client.connect("127.0.0.1", self.port, look_for_keys=False, allow_agent=False, **(options | more))  # type: ignore[arg-type]
            yield client
        finally:
            client.close()


def read_until_end(channel: paramiko.Channel) -> str:
    """Wait for the exit status first, as automation does, then read all output."""
    channel.settimeout(30)
    channel.recv_exit_status()
    received = b""
    while data := channel.recv(65536):
        received += data
    return received.decode()


def read_until_suffix(channel: paramiko.Channel, suffix: str) -> str:
    """Read until the output ends with `suffix`."""
    channel.settimeout(30)
    received = b""
    while not received.endswith(suffix.encode()):
        data = channel.recv(65536)
        assert data, received.decode()
        received += data
    time.sleep(0.05)
    assert not channel.recv_ready(), "bytes follow"
    return received.decode()


_TIME = re.compile(r"exec at: \d{2}\.\d{2}\.\d{4} \d{2}:\d{2}:\d{2}, exec time: \d+ms")
_KEY = re.compile(r"(?<![A-Za-z0-9])[A-Za-z0-9]{64}(?![A-Za-z0-9])")


def without_wildcards(text: str) -> str:
    """Blank out times, milliseconds and API keys, which differ from run to run."""
    return _KEY.sub("K" * 64, _TIME.sub("exec at: TIME", text))
