"""`make cluster`: two consoles and a PostgreSQL that start with one command, and leave nothing behind."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from console import needs
from postgresql import needs_postgresql

from server.model.lines import one_line

SCRIPT = Path(__file__).parents[2] / "scripts" / "cluster.py"
_LIMIT_SECONDS = 60
_READY = "Ctrl-C ends and removes everything."


class Terminal:
    """`make cluster` on a terminal of its own, and what it shows."""

    def __init__(self) -> None:
        self.master, slave = os.openpty()
        self.text = ""
        self.process = subprocess.Popen(
            [sys.executable, SCRIPT],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  no threads run yet
        )
        os.close(slave)

    def read_until(self, text: str) -> None:
        """Read until the terminal shows the text."""
        while text not in self.text:
            try:
                self.text += os.read(self.master, 65536).decode().replace("\r\n", "\n")
            except OSError as error:  # the program has ended
                raise AssertionError(self.text) from error

    def folders(self) -> list[Path]:
        """Return the folders of the consoles and of PostgreSQL."""
        (own,) = set(re.findall(r"UserKnownHostsFile=(\S+)/known_hosts", self.text))
        (password_file,) = re.findall(r"password_file: ([^\s}]+)", (Path(own) / "ds1" / "config.yaml").read_text())
        return [Path(own), Path(password_file).parent]

    def close(self) -> None:
        """Close the terminal; safe to call twice."""
        if self.master >= 0:
            os.close(self.master)
            self.master = -1


@pytest.fixture
def cluster() -> Iterator[Terminal]:
    """A cluster that is ready."""
    needs_postgresql()
    needs("ssh")
    terminal = Terminal()
    try:
        terminal.read_until(_READY)
        yield terminal
    finally:
        terminal.close()
        if terminal.process.poll() is None:
            terminal.process.terminate()
        terminal.process.wait(_LIMIT_SECONDS)


def _processes_in(folders: list[Path]) -> list[str]:
    """Return the processes that work in these folders."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(str(process.joinpath("cwd").readlink()).startswith(f"{folder}/") for folder in folders):
                found.append(one_line(process.joinpath("cmdline").read_text()))
    return found


def _run(login: str, command: str, askpass: Path) -> str:
    """Type a login command as it is shown, with a command behind it; `askpass` knows the password."""
    environment = {**os.environ, "SSH_ASKPASS": str(askpass), "SSH_ASKPASS_REQUIRE": "force"}
    words = [*login.split(), command]
    ran = subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)  # noqa: PLW1510
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stderr == ""  # no warning about an unknown host
    return ran.stdout


@pytest.mark.slow
def test_an_integration_added_on_one_node_is_listed_on_the_other(cluster: Terminal, tmp_path: Path) -> None:
    (password,) = re.findall(r"shown only now: (\S+)", cluster.text)
    askpass = tmp_path / "askpass"
    askpass.write_text(f"#!/bin/sh\necho {password}\n")
    askpass.chmod(0o700)
    first, second = re.findall(r"^ +(ssh .*)$", cluster.text, re.MULTILINE)
    _run(first, "domain/declare biysk.local", askpass)
    _run(first, "domain/biysk.local/integrations/add tester", askpass)
    listed = _run(second, "domain/biysk.local/integrations/list", askpass)
    assert "tester" in listed
    assert "ds2@ecss1 v." in listed
    folders = cluster.folders()
    assert any("serve" in words for words in _processes_in(folders))
    assert any("postgres" in words for words in _processes_in(folders))
    cluster.process.send_signal(signal.SIGTERM)
    cluster.read_until("everything is stopped and removed")
    assert cluster.process.wait(_LIMIT_SECONDS) == 0
    assert (_processes_in(folders), [each for each in folders if each.exists()]) == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize("end", ["Ctrl-C", "a closed terminal"])
def test_the_end_of_the_cluster_leaves_nothing_behind(cluster: Terminal, end: str) -> None:
    folders = cluster.folders()
    assert len(_processes_in(folders)) > 3
    if end == "Ctrl-C":
        os.write(cluster.master, b"\x03")
        cluster.read_until("everything is stopped and removed")
    else:
        cluster.close()
    cluster.process.wait(_LIMIT_SECONDS)
    assert (_processes_in(folders), [each for each in folders if each.exists()]) == ([], [])


@pytest.mark.slow
def test_a_node_that_ends_is_reported_and_the_other_goes_on(cluster: Terminal) -> None:
    first, second = (int(pid) for pid in re.findall(r"is process (\d+)", cluster.text))
    os.kill(first, signal.SIGTERM)
    cluster.read_until("ds1@ecss1 has ended with status 0")
    assert cluster.process.poll() is None
    os.kill(second, signal.SIGTERM)
    cluster.read_until("ds2@ecss1 has ended with status 0")
    assert cluster.process.wait(_LIMIT_SECONDS) == 0


def test_without_postgresql_it_says_what_to_install(tmp_path: Path) -> None:
    environment = {**os.environ, "PG_BIN": str(tmp_path)}
    words = [sys.executable, str(SCRIPT)]
    ran = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=30)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "PostgreSQL's server is not installed: apt-get install postgresql" in ran.stderr
