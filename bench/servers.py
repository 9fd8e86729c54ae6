"""Servers under test, and how the benchmark starts the console."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import asyncssh

OURS = "ecss-console"
_STATE = re.compile(r"now: (\d+) connections, (\d+) sessions, (\d+) tasks")


@dataclass(frozen=True)
class Server:
    """A running server: its process, port, and the login key."""

    name: str
    process: subprocess.Popen[str]
    port: int
    key: Path
    log: Path | None = None

    def cpu_ms(self) -> float:
        """Return the CPU time of the process so far, over all running and ended threads."""
        # the result of clock_getcpuclockid(3) on Linux: nanoseconds, where /proc/PID/stat has ticks of 10 ms
        return time.clock_gettime_ns(~self.process.pid << 3 | 2) / 1e6

    def resident_kb(self) -> float:
        """Return the resident memory of the process now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 1024

    def open_files(self) -> int:
        """Return the number of open files of the process."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    async def held(self) -> tuple[int, int, int]:
        """Return the connections, sessions and tasks that the console reports now."""
        before = len(self._states())
        self.process.send_signal(signal.SIGUSR1)
        for _ in range(500):
            await asyncio.sleep(0.02)
            if len(states := self._states()) > before:
                return states[-1]
        message = "the console does not say what it holds"
        raise TimeoutError(message)

    def _states(self) -> list[tuple[int, int, int]]:
        return [(int(a), int(b), int(c)) for a, b, c in _STATE.findall(self.logged())]

    def logged(self) -> str:
        """Return the log so far."""
        return self.log.read_text(errors="replace") if self.log else ""

    def kill(self) -> None:
        """Kill the process."""
        self.process.kill()  # Erlang ends slowly otherwise
        self.process.wait()

    async def connect(self, **more: object) -> asyncssh.SSHClientConnection:
        """Log in as an interactive client."""
        options: dict[str, object] = {
            "username": "admin",
            "client_keys": [_read(self.key)],
            "client_version": "OpenSSH_9.9",
            "known_hosts": None,
            "agent_path": None,
            "config": None,
            "kex_algs": ["curve25519-sha256"],
            "encryption_algs": ["aes128-gcm@openssh.com"],
        }
        return await asyncssh.connect("127.0.0.1", self.port, **(options | more))


@cache
def _read(key: Path) -> asyncssh.SSHKey:
    """Read a key once: a client that parses it for each login measures itself."""
    return asyncssh.read_private_key(key)


def make_key(key: Path) -> None:
    """Make a key pair to log in with."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)


def start_ours(folder: Path, key: Path, password: str = "", **settings: str) -> Server:
    """Start the console with an empty store; `settings` are configuration keys as in the environment."""
    more = {f"ECSS_CONSOLE_{name.upper()}": value for name, value in settings.items()}
    environment = {**os.environ, "ECSS_CONSOLE_LISTEN__PORT": "0", **more}
    program = [sys.executable, "-m", "server"]
    words = [*program, "user", "add", "admin", "--authorized-key", f"{key}.pub"]
    words += ["--password-stdin"] if password else []
    subprocess.run(
        words, cwd=folder, env=environment, check=True, capture_output=True, input=password + "\n", text=True
    )
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*program, "serve"], cwd=folder, env=environment, stderr=file, stdout=subprocess.DEVNULL, text=True
        )
    for _ in range(200):
        time.sleep(0.05)
        if found := re.search(r" port (\d+)$", log.read_text(), re.MULTILINE):
            return Server(OURS, process, int(found[1]), key, log)
    process.kill()
    message = "the console does not start:\n" + log.read_text()
    raise SystemExit(message)
