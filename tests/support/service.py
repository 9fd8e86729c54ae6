"""A store in the folder of an unprivileged user, as in docs/operations.md, and files that the user plants."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from killed import in_child

from server.__main__ import main

UID = 60_999
SECRET = b"root:$6$very-secret\n"
ROOT = Path(__file__).parents[2]


def needs_root() -> None:
    """Skip the test unless it runs as root; with CI=true fail instead."""
    if os.geteuid() != 0:
        message = "only root works in folders of somebody else"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


@contextmanager
def public_folder() -> Iterator[Path]:
    """Give a folder that every user can traverse, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="ecss-console-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@dataclass(frozen=True)
class Service:
    """`var` belongs to the service, `etc` and `home` to root; `home` has a secret readable by root only."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Service:
        """Make the folders, the store as root, and the storage key readable by root only."""
        service = cls(folder)
        for each in (service.etc, service.var, service.home):
            each.mkdir(mode=0o700)
        service.etc.chmod(0o755)
        os.chown(service.var, UID, UID)
        (service.home / "secret").write_bytes(SECRET)
        (service.home / "secret").chmod(0o600)
        config = f'storage: {{url: "sqlite:///{service.var}/console.db"}}\nkeys: {{dir: {service.var}/keys}}\n'
        (service.etc / "config.yaml").write_text(config)
        (service.etc / "passphrase").write_text("a passphrase of ten\n")
        made = service.program("init", credential=False)
        assert made.returncode == 0, made.stderr
        shutil.copy(service.var / "keys" / "storage.key", service.etc / "storage.key")
        (service.etc / "storage.key").chmod(0o600)
        (service.var / "keys" / "storage.key").unlink()
        return service

    @property
    def etc(self) -> Path:
        """Configuration, passphrase and storage key."""
        return self.folder / "etc"

    @property
    def var(self) -> Path:
        """Database and host keys."""
        return self.folder / "var"

    @property
    def home(self) -> Path:
        """Root's own folder."""
        return self.folder / "home"

    def words(self, *words: str) -> list[str]:
        """Return the words of a subcommand with this configuration."""
        return [*words, "--config", str(self.etc / "config.yaml")]

    def program(self, *words: str, credential: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a subcommand as root."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ECSS_CONSOLE_")}
        environment |= {"PYTHONPATH": str(ROOT)}
        environment |= {"CREDENTIALS_DIRECTORY": str(self.etc)} if credential else {}
        return subprocess.run(
            [sys.executable, "-m", "server", *self.words(*words)],
            cwd=self.etc,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def as_root(self, *subcommands: tuple[str, ...], seconds: int = 100) -> list[int]:
        """Run subcommands as root one after another in a child process; return their statuses.

        Raises AssertionError when they take too long, for example when one waits for a FIFO.
        """
        told = self.home.parent / "statuses"

        def run() -> None:
            signal.alarm(seconds)
            os.environ["CREDENTIALS_DIRECTORY"] = str(self.etc)
            with told.open("w") as file:  # the main program may run as the service's user
                file.write(" ".join(str(main(self.words(*words))) for words in subcommands))

        status = in_child(run, lambda: None)
        assert status == 0, f"ended with {status}"
        return [int(each) for each in told.read_text().split()]

    def plants(self, put: Callable[[], object]) -> None:
        """Do work as the service's user in the service folder."""

        def run() -> None:
            become_service()
            os.chdir(self.var)
            put()

        assert in_child(run, lambda: None) == 0

    def roots(self) -> dict[str, tuple[int, int, bytes]]:
        """Return the content of root's folder: owner, mode and content by name."""
        found = {}
        for path in sorted(self.home.rglob("*")):
            state = path.lstat()
            found[path.name] = (state.st_uid, state.st_mode, path.read_bytes() if path.is_file() else b"")
        return found

    def readable(self) -> bytes:
        """Return every file in the service folder that the service's user can read."""
        told = self.folder / "readable"

        def run() -> None:
            with told.open("wb") as file:
                become_service()
                for path in self.var.rglob("*"):
                    with suppress(PermissionError):
                        if path.is_file():
                            file.write(path.read_bytes())

        assert in_child(run, lambda: None) == 0
        return told.read_bytes()


def become_service() -> None:
    """Become the service's user permanently."""
    os.setgroups([])
    os.setresgid(UID, UID, UID)
    os.setresuid(UID, UID, UID)
