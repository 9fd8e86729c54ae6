"""Subcommands with Ctrl-C at questions, invalid input, and closed output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pexpect
import pytest
from console import PROGRAM, ConsoleServer

_QUESTIONS = [
    (("user", "add", "vera"), "New password: "),
    (("user", "passwd", "admin"), "New password: "),
    (("backup", "b.age"), "Passphrase of the backup: "),
]


def _asked(console: ConsoleServer, words: tuple[str, ...], question: str) -> pexpect.spawn[str]:
    client = pexpect.spawn(
        sys.executable, [*PROGRAM[1:], *words], cwd=console.folder, env=console.environment(), timeout=20
    )
    client.expect_exact(question)
    return client


@pytest.mark.usefixtures("heard_ctrl_c")
@pytest.mark.parametrize(("words", "question"), _QUESTIONS)
def test_ctrl_c_at_a_question_ends_it_at_once(
    stopped_console: ConsoleServer, words: tuple[str, ...], question: str
) -> None:
    """The first Ctrl-C was once held until both passwords were typed."""
    client = _asked(stopped_console, words, question)
    client.sendintr()
    client.expect_exact("ecss-console: interrupted, nothing was changed")
    client.expect(pexpect.EOF)
    client.close()
    assert client.exitstatus == 130


@pytest.mark.parametrize(("words", "question"), _QUESTIONS)
def test_an_undecodable_secret_is_refused_and_not_shown(
    stopped_console: ConsoleServer, words: tuple[str, ...], question: str
) -> None:
    client = _asked(stopped_console, words, question)
    client.send(b"\xff\xfesecret\n")
    client.expect("the (password|passphrase) is no UTF-8 text")
    left: bytes = client.read()  # type: ignore[assignment]
    client.close()
    assert client.exitstatus == 1
    assert b"Traceback" not in left
    assert b"secret" not in left


#: Writes a byte for each opened file and module, from the program's first own import on. Before that the interpreter
#: still starts, and the program cannot handle Ctrl-C.
_TELLS_STEPS = """
import os, sys

def steps(told=int(os.environ["STEPS"]), write=os.write, begun=[]):
    def step(event, args):
        if event == "import" and args[0] == "argparse":
            begun.append(True)
        if begun and event in ("import", "open", "sqlite3.connect", "socket.__new__"):
            write(told, b".")
    return step

sys.addaudithook(steps())
"""
_INTERRUPTIONS = 30


def _interrupted(console: ConsoleServer, words: tuple[str, ...], step: int | None) -> tuple[int, int, str]:
    """Run the program and interrupt it at a step. Return its status, its steps and its output."""
    read, write = os.pipe()
    with subprocess.Popen(
        [*PROGRAM, *words],
        cwd=console.folder,
        env=console.environment(STEPS=str(write), PYTHONPATH=str(console.folder / "steps")),
        pass_fds=(write,),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(write)
        taken = 0
        while told := os.read(read, 65536):
            taken += len(told)
            if step is not None and taken >= step:
                process.send_signal(signal.SIGINT)
                step = None
        os.close(read)
        _, said = process.communicate(timeout=60)
    return process.returncode, taken, said


@pytest.mark.slow
@pytest.mark.usefixtures("heard_ctrl_c")
@pytest.mark.parametrize("words", [("user", "list"), ("config", "check"), ("audit", "verify")])
def test_ctrl_c_at_any_moment_prints_at_most_one_line(stopped_console: ConsoleServer, words: tuple[str, ...]) -> None:
    """While parsing or opening the store, it once printed tracebacks and interpreter warnings."""
    folder = stopped_console.folder / "steps"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_TELLS_STEPS)
    status, steps, said = _interrupted(stopped_console, words, None)
    assert (status, said) == (0, "")
    assert steps > _INTERRUPTIONS
    statuses = set()
    for number in range(_INTERRUPTIONS):
        status, _, said = _interrupted(stopped_console, words, 1 + steps * number // _INTERRUPTIONS)
        assert status in {0, 130, -signal.SIGINT}
        assert said in {"", "ecss-console: interrupted, nothing was changed\n"}
        statuses.add(status)
    assert -signal.SIGINT in statuses  # while the program still loads its modules


def _shell(console: ConsoleServer, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f'"$0" -m server {script}', sys.executable],
        cwd=console.folder,
        env=console.environment(),
        input="a password\n",
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("script", "answer"),
    [
        ("user list >&-", "admin\tadmin"),
        ("user add vera --password-stdin >&-", "User vera added."),
        ("hostkey rotate >/dev/full", "The next host key is SHA256:"),
    ],
)
def test_a_closed_standard_output_is_reported_on_standard_error(
    stopped_console: ConsoleServer, script: str, answer: str
) -> None:
    """With standard output closed, a change was made and then ended in a traceback."""
    ran = _shell(stopped_console, script)
    assert ran.returncode == 1
    assert "ecss-console: the answer cannot be written: " in ran.stderr
    assert f"; it was: {answer}" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_console_serves_without_a_standard_error(stopped_console: ConsoleServer) -> None:
    began = subprocess.Popen(
        ["sh", "-c", 'exec "$0" -m server serve 2>&-', sys.executable],
        cwd=stopped_console.folder,
        env=stopped_console.environment(),
    )
    deadline = time.monotonic() + 20
    while not _listens(began.pid):
        assert began.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    began.send_signal(signal.SIGTERM)
    assert began.wait(timeout=20) == 0


def _listens(process_id: int) -> bool:
    """Return whether a process has a listening socket."""
    sockets = {path.readlink().name for path in Path(f"/proc/{process_id}/fd").iterdir() if path.is_symlink()}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[3] == "0A" and f"socket:[{row[9]}]" in sockets for row in rows)
