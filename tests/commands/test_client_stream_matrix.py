"""Each client with each terminal: the stream is a contract. docs/automation.md names these tests."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pexpect
import pytest
from console import PROMPT, ConsoleServer, needs, read_until_end

TERMS = (None, "", "dumb", "linux", "vt100", "xterm", "xterm-256color", "screen-256color")
PATTERNS = (r"\$ $", r"@ds1@ecss1:[^ ]*\$ ")
LONG = "echo " + " ".join(["long"] * 40)


class Log:
    """Keeps the text that a client reads."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        """Take it."""
        self.text += text

    def flush(self) -> None:
        """Nothing is buffered."""


def check_stream(stream: str) -> None:
    """Check the stream of `whoami`, a long echo and `exit 6`, each sent after a prompt."""
    assert "\x1b" not in stream
    assert stream.count(f"{PROMPT}whoami\r\nadmin\r\n\r\n[exec at: ") == 1
    assert stream.count(f"{PROMPT}{LONG}\r\n{LONG[5:]}\r\n\r\n[exec at: ") == 1
    assert stream.endswith(f"{PROMPT}exit 6\r\n")
    assert stream.count(PROMPT) == 3


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("term", TERMS)
def test_pexpect_over_openssh(shared_console: ConsoleServer, term: str | None, pattern: str) -> None:
    words = shared_console.ssh_words("-o", "RequestTTY=force", "-q")
    environment = {"PATH": "/usr/bin:/bin", **({} if term is None else {"TERM": term})}
    child = pexpect.spawn(words[0], words[1:], env=environment, encoding="utf-8", timeout=20)
    child.logfile_read = log = Log()
    for line in ("whoami", LONG, "exit 6"):
        child.expect(pattern)
        time.sleep(0.02)
        child.sendline(line)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 6
    check_stream(log.text)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("term", TERMS)
def test_tcl_expect_over_openssh(shared_console: ConsoleServer, term: str | None, pattern: str) -> None:
    needs("expect")
    set_term = "catch { unset env(TERM) }" if term is None else f'set env(TERM) "{term}"'
    sends = "\n".join(
        f'expect -re {{{pattern}}} {{ after 20; send "{line}\\r" }} timeout {{ exit 99 }}'
        for line in ("whoami", LONG, "exit 6")
    )
    script = f"""
        {set_term}
        set timeout 20
        match_max 100000
        spawn -noecho {" ".join(shared_console.ssh_words("-o", "RequestTTY=force", "-q"))}
        {sends}
        expect eof
        exit [lindex [wait] 3]
    """
    ran = subprocess.run(["expect"], input=script.encode(), capture_output=True, check=False, timeout=60)
    assert ran.returncode == 6, ran.stdout
    check_stream(ran.stdout.decode())


@pytest.mark.parametrize(
    ("term", "width", "height"), [("vt100", 80, 24), ("xterm", 80, 24), ("dumb", 0, 0), ("", 80, 24)]
)
def test_paramiko_invoke_shell(shared_console: ConsoleServer, term: str, width: int, height: int) -> None:
    with shared_console.paramiko() as client:
        channel = client.invoke_shell(term=term, width=width, height=height)
        channel.sendall(f"whoami\n{LONG}\nexit 6\n".encode())
        check_stream(read_until_end(channel))
        assert channel.recv_exit_status() == 6


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize("options", [(), ("-tt",)])
def test_openssh_script_on_standard_input(shared_console: ConsoleServer, options: tuple[str, ...], end: str) -> None:
    ran = shared_console.ssh(text=end.join(["whoami", LONG, "exit 6"]), options=options)
    assert ran.returncode == 6
    stream = ran.stdout.decode()
    if options:
        check_stream(stream + ("\r\n" if not stream.endswith("\n") else ""))
    else:
        assert "\x1b" not in stream
        assert stream.startswith(f"{PROMPT}admin\n\n[exec at: ")
        assert stream.count(f"{PROMPT}{LONG[5:]}\n\n[exec at: ") == 1
        assert stream.endswith(PROMPT)


@pytest.mark.parametrize("options", [(), ("-tt",)])
def test_openssh_command(shared_console: ConsoleServer, options: tuple[str, ...]) -> None:
    ran = shared_console.ssh(LONG, options=options)
    end = "\r\n" if options else "\n"
    assert ran.stdout.decode().startswith(f"{LONG[5:]}{end}{end}[exec at: ")
    assert ran.stdout.decode().endswith(f"]{end}")
    assert ran.returncode == 0
    assert shared_console.ssh("nonsense", options=options).returncode == 127


def test_openssh_connection_sharing(shared_console: ConsoleServer, tmp_path: Path) -> None:
    share = ("-o", "ControlMaster=auto", "-o", f"ControlPath={tmp_path}/c", "-o", "ControlPersist=5")
    for number in range(5):
        ran = shared_console.ssh(f"echo {number}", options=share)
        assert ran.stdout.decode().startswith(f"{number}\n")
    shared_console.ssh(options=("-O", "exit", *share))


@pytest.mark.slow
@pytest.mark.parametrize("term", ["vt100", None])
def test_two_hundred_kilobytes_typed_ahead_while_a_command_runs(
    shared_console: ConsoleServer, term: str | None
) -> None:
    lines = "".join(f"echo typed {number:05}\n" for number in range(12_000))
    with shared_console.paramiko() as client:
        transport = client.get_transport()
        assert transport is not None
        channel = transport.open_session()
        if term:
            channel.get_pty(term)
        channel.invoke_shell()
        channel.sendall(b"sleep 1\n")
        received = b""
        channel.settimeout(60)
        sending = lines.encode() + b"exit 5\n"
        while not channel.exit_status_ready() or channel.recv_ready():
            while sending and channel.send_ready():
                sending = sending[channel.send(sending[:30_000]) :]
            while channel.recv_ready():
                received += channel.recv(1 << 20)
            time.sleep(0.001)
        while data := channel.recv(1 << 20):
            received += data
        assert channel.recv_exit_status() == 5
    found = re.findall(r"^(?:admin@ds1@ecss1:/\$ )?typed (\d{5})\r?$", received.decode(), re.MULTILINE)
    assert found == [f"{number:05}" for number in range(12_000)]
