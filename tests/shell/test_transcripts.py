"""Golden transcripts: terminal output over real SSH, exact except for times and keys.

A transcript in `transcripts/` is sent whole in advance, as automation does, so its echo follows each prompt.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from console import ConsoleServer, read_until_end, without_wildcards

FOLDER = Path(__file__).with_name("transcripts")
_TYPED = re.compile(r"^(?:admin@ds1@ecss1:\S*\$|Are you sure\?: yes/no \?>) (.*)$", re.MULTILINE)

transcripts = pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)


def typed(transcript: str) -> str:
    """Return the typed lines of a transcript, at prompts and at questions."""
    return "".join(f"{line}\n" for line in _TYPED.findall(transcript))


@pytest.mark.slow
@transcripts
def test_transcript_typed_ahead_by_paramiko(console: ConsoleServer, path: Path) -> None:
    expected = path.read_text(encoding="utf-8")
    with console.paramiko() as client:
        channel = client.invoke_shell()
        channel.sendall(typed(expected).encode())
        received = read_until_end(channel)
    assert "\x1b" not in received
    assert without_wildcards(received) == without_wildcards(expected).replace("\n", "\r\n")
    assert channel.recv_exit_status() == (7 if path.stem == "errors" else 0)


@pytest.mark.slow
@transcripts
def test_transcript_piped_into_openssh_with_a_terminal(console: ConsoleServer, path: Path) -> None:
    expected = path.read_text(encoding="utf-8")
    ran = console.ssh(text=typed(expected), options=["-tt"])
    assert without_wildcards(ran.stdout.decode()) == without_wildcards(expected).replace("\n", "\r\n")


@pytest.mark.slow
@transcripts
def test_transcript_typed_line_by_line_after_each_prompt(console: ConsoleServer, path: Path) -> None:
    """The output is the same when each line is sent only after its prompt."""
    expected = path.read_text(encoding="utf-8")
    ends = re.compile(r"(?:admin@ds1@ecss1:\S*\$|Are you sure\?: yes/no \?>) \Z")
    with console.paramiko() as client:
        channel = client.invoke_shell(term="xterm", width=40, height=10)
        channel.settimeout(20)
        received = b""
        for line in typed(expected).splitlines(keepends=True):
            deadline = time.monotonic() + 20
            while not ends.search(received.decode("utf-8", "ignore")):
                assert time.monotonic() < deadline, received
                received += channel.recv(65536)
            channel.sendall(line.encode())
            while not received.decode("utf-8", "ignore").endswith("\r\n"):
                received += channel.recv(1)
        received += read_until_end(channel).encode()
    assert without_wildcards(received.decode()) == without_wildcards(expected).replace("\n", "\r\n")
