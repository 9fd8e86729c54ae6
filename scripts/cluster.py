"""Run two consoles on one PostgreSQL on this machine, for trying a cluster out: `make cluster`.

Everything lies in temporary folders. Ctrl-C, SIGTERM or a closed terminal ends the programs and removes the folders.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from postgresql import Database, free_port, is_installed, postgresql_server  # noqa: E402  tests are no package

NAMES = ("ds1@ecss1", "ds2@ecss1")
#: Tried first, so that the port is the usual one.
_FIRST_PORT = 8023
_START_SECONDS = 30
_STOP_SECONDS = 10
_MISSING = (
    "PostgreSQL's server is not installed: apt-get install postgresql, or name the folder of initdb in $PG_BIN; "
    "its service need not run, because make cluster starts a server of its own"
)
_PROGRAM = (sys.executable, "-m", "server")


class _ProblemError(Exception):
    """The text says what is wrong."""


@dataclass
class Node:
    """One console in a folder of its own."""

    name: str
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """The log of the console."""
        return self.folder / "log"

    def configure(self, database: Database) -> None:
        """Write the configuration."""
        self.folder.mkdir(mode=0o700)
        (self.folder / "config.yaml").write_text(
            f"listen: {{host: 127.0.0.1, port: {self.port}}}\n"
            f"node: {{name: {self.name}}}\n"
            f'storage: {{url: "{database.url}", password_file: {database.password_file}}}\n',
            encoding="utf-8",
        )

    def add_administrator(self, password: str) -> None:
        """Make the store with the user `admin`."""
        words = (*_PROGRAM, "user", "add", "admin", "--password-stdin")
        ran = subprocess.run(  # noqa: S603  our own program
            words,
            cwd=self.folder,
            env=_environment(),
            input=password + "\n",
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode:
            raise _ProblemError(ran.stderr.strip())

    def start(self) -> None:
        """Start the console and wait until it accepts clients."""
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603  our own program
                [*_PROGRAM, "serve"], cwd=self.folder, env=_environment(), stdin=subprocess.DEVNULL, stderr=log
            )
        deadline = time.monotonic() + _START_SECONDS
        while "log in with: " not in self.log.read_text(encoding="utf-8"):
            if self.process.poll() is not None or time.monotonic() > deadline:
                message = f"{self.name} does not start:\n{self.log.read_text(encoding='utf-8')}"
                raise _ProblemError(message)
            time.sleep(0.05)

    def stop(self) -> None:
        """End the console; safe to call twice."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            self.process.terminate()
            self.process.send_signal(signal.SIGCONT)
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def running_cluster() -> Iterator[tuple[list[Node], str]]:
    """Give two running nodes and the password of `admin`. The end stops and removes everything."""
    password = secrets.token_urlsafe(12)
    with ExitStack() as stack:
        database = stack.enter_context(postgresql_server()).database("ecss")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ecss-cluster-")))
        nodes = [Node(name, folder / name.partition("@")[0], _port(number)) for number, name in enumerate(NAMES)]
        first = nodes[0]
        for each in nodes:
            each.configure(database)
            if each is first:
                first.add_administrator(password)
            else:  # all nodes have the same storage key and, so that clients see one host, the same host keys
                shutil.copytree(first.folder / "keys", each.folder / "keys")
            stack.callback(each.stop)
            each.start()
        yield nodes, password


def _known_hosts(nodes: list[Node]) -> Path:
    """Write the host keys for OpenSSH, so that it neither asks nor finds those of an earlier cluster."""
    file = nodes[0].folder.parent / "known_hosts"
    lines = [
        f"[127.0.0.1]:{each.port} {key.read_text(encoding='utf-8').strip()}\n"
        for each in nodes
        for key in each.folder.glob("keys/ssh_host_*.pub")
    ]
    file.write_text("".join(lines), encoding="utf-8")
    return file


def _port(number: int) -> int:
    """Return the usual port plus a number, or any free port when that one is taken."""
    with socket.socket() as probe, suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", _FIRST_PORT + number))
        return _FIRST_PORT + number
    return free_port()


def _environment() -> dict[str, str]:
    """Return the environment without settings for another console."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ECSS_CONSOLE_")}
    return {**kept, "PYTHONPATH": str(ROOT)}


def _describe(nodes: list[Node], password: str) -> str:
    """Return the text for the terminal."""
    known = _known_hosts(nodes)
    logins = [f"ssh -o UserKnownHostsFile={known} -p {each.port} admin@127.0.0.1" for each in nodes]
    processes = [f"{each.name} is process {each.process.pid}, its log {each.log}" for each in nodes if each.process]
    return "\n".join(
        [
            "",
            "Two consoles share one PostgreSQL. Log in to either:",
            "",
            *(f"    {login}" for login in logins),
            "",
            f"The password of admin, shown only now: {password}",
            "",
            "Try domain/declare biysk.local on one, and domain/list, node/list, date --on all on the other.",
            *processes,
            "Stop a node with kill and its process number, and ask the other one for node/list.",
            "Ctrl-C ends and removes everything.",
        ]
    )


def _watch(nodes: list[Node]) -> None:
    """Return when no node runs any more; report each one that ends."""
    alive = list(nodes)
    while alive:
        time.sleep(0.2)
        for each in [each for each in alive if each.process and each.process.poll() is not None]:
            status = each.process.returncode if each.process else 0
            print(f"{each.name} has ended with status {status}", flush=True)
            alive.remove(each)


def _interrupt(*_: object) -> None:
    """End on the first signal; later ones do not interrupt the clean-up."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Run the cluster until it is interrupted."""
    if not is_installed():
        print(_MISSING, file=sys.stderr)
        return 1
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    try:
        with running_cluster() as (nodes, password):
            print(_describe(nodes, password), flush=True)
            _watch(nodes)
    except KeyboardInterrupt:
        with suppress(OSError):  # the terminal may be closed
            print("\neverything is stopped and removed", flush=True)
    except (_ProblemError, AssertionError, OSError) as error:  # the server of the tests fails with assertions
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
