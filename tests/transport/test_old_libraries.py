"""Packaged libraries older than the console's algorithms log in with `ssh.policy: compatible`."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from console import PASSWORD, ConsoleServer, needs_library

_FOLDER = Path(__file__).parents[1] / "support" / "libraries"
_COMPATIBLE = {"ECSS_CONSOLE_SSH__POLICY": "compatible"}
_JAR = "/usr/share/java/jsch.jar"
_LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ")


@dataclass(frozen=True)
class _Library:
    """A library: its installation check, client, key type and negotiated algorithms."""

    check: tuple[str, ...]
    words: tuple[str, ...]
    key: tuple[str, ...]
    negotiates: str


_LIBRARIES = {
    "libssh2": _Library(
        ("php", "-r", 'exit(extension_loaded("ssh2") ? 0 : 1);'),
        ("php", "-d", "display_errors=stderr", str(_FOLDER / "libssh2.php")),
        ("ecdsa", "-m", "PEM"),
        "curve25519-sha256 ecdsa-sha2-nistp256 hmac-sha2-256",
    ),
    "net-ssh": _Library(
        ("ruby", "-e", 'require "net/ssh"'),
        ("ruby", str(_FOLDER / "net_ssh.rb")),
        ("ed25519",),
        "ecdh-sha2-nistp256 ssh-ed25519 hmac-sha2-512-etm@openssh.com",
    ),
    "JSch": _Library(
        ("javac", "-version", *(() if Path(_JAR).exists() else ("no jsch.jar",))),
        ("java", "-cp", _JAR, str(_FOLDER / "Jsch.java")),
        ("ecdsa", "-m", "PEM"),
        "ecdh-sha2-nistp256 ecdsa-sha2-nistp256 hmac-sha2-256",
    ),
}


@pytest.fixture(params=_LIBRARIES)
def library(request: pytest.FixtureRequest) -> _Library:
    """Each library that is installed."""
    found = _LIBRARIES[request.param]
    needs_library(request.param, *found.check)
    return found


@pytest.fixture
def compatible(stopped_console: ConsoleServer) -> ConsoleServer:
    """A server with `ssh.policy: compatible`."""
    stopped_console.start(**_COMPATIBLE)
    return stopped_console


def _run(
    console: ConsoleServer, library: _Library, *, key: Path | None = None, idle_seconds: int = 0
) -> subprocess.CompletedProcess[str]:
    login = ("", str(key)) if key else (PASSWORD, "")
    return subprocess.run(
        [*library.words, str(console.port), *login, str(idle_seconds)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )


def _assert_all_went_well(ran: subprocess.CompletedProcess[str], library: _Library) -> None:
    """Check the login, the status of a command, and a shell that ended with its own status."""
    lines = ran.stdout.replace("\r", "").split("\n")
    assert lines[0] == f"negotiated {library.negotiates}", ran.stdout + ran.stderr
    assert lines[1] == "There is no such command: nosuch"
    assert "status 127" in lines
    assert any(line.removeprefix("admin@ds1@ecss1:/$ ") == "admin" for line in lines)
    assert lines[-2].endswith("status 3")
    assert ran.returncode == 0


def test_field_old_libraries_log_in_by_password(compatible: ConsoleServer, library: _Library) -> None:
    """Each library lacks a key exchange, Ed25519 or encrypt-then-MAC of the default policy."""
    _assert_all_went_well(_run(compatible, library), library)


def test_field_old_libraries_log_in_by_key(compatible: ConsoleServer, library: _Library, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", *library.key, "-N", "", "-f", str(key)], check=True)
    compatible.run(f"cocon/user/key/add admin {key.with_suffix('.pub').read_text().strip()}")
    _assert_all_went_well(_run(compatible, library, key=key), library)


@pytest.mark.slow
def test_field_an_idle_old_library_is_not_cut_off(compatible: ConsoleServer, library: _Library) -> None:
    """Two of them have no thread and answer nothing while their program is busy."""
    _assert_all_went_well(_run(compatible, library, idle_seconds=3), library)


def test_field_an_idle_library_without_a_thread_is_cut_off_by_ssh_keepalives(
    stopped_console: ConsoleServer,
) -> None:
    """Shows that the test above can fail: here the client does not answer a keepalive of the console."""
    library = _LIBRARIES["net-ssh"]
    needs_library("net-ssh", *library.check)
    keepalive = {"ECSS_CONSOLE_KEEPALIVE__INTERVAL_SECONDS": "1", "ECSS_CONSOLE_KEEPALIVE__COUNT": "1"}
    stopped_console.start(**_COMPATIBLE, **keepalive)
    assert _run(stopped_console, library, idle_seconds=5).returncode != 0


def test_field_the_default_policy_refuses_old_libraries(console: ConsoleServer, library: _Library) -> None:
    ran = _run(console, library)
    assert ran.stdout.startswith("no connection")
    assert console.logs("refused 127.0.0.1", "no common")


def test_field_the_policy_compatible_counts_after_a_reload(console: ConsoleServer) -> None:
    """The ECDSA host key is made when the policy first needs it, and offered only while the policy holds."""
    library = _LIBRARIES["libssh2"]
    needs_library("libssh2", *library.check)
    path = console.folder / "keys" / "ssh_host_ecdsa_key"
    assert not path.exists()
    _reload(console, "compatible")
    _assert_all_went_well(_run(console, library), library)
    assert path.stat().st_mode & 0o777 == 0o600
    listed = console.program("hostkey", "list").stdout.splitlines()
    assert [line.split("\t")[0] for line in listed] == ["in use", "in use (ECDSA)"]
    fingerprint = listed[1].split("\t")[1]
    rows = console.recorded(lambda rows: any(row["command"] == "SIGHUP" for row in rows))
    (change,) = [row for row in rows if row["command"] == "SIGHUP"]
    assert change["detail"] == "changed: ecdsa_host_key, ssh.policy"
    assert json.loads(str(change["arguments"]))["ecdsa_host_key"] == fingerprint
    assert fingerprint in console.run("node/info")
    _reload(console, "default")
    assert _run(console, library).returncode != 0
    listed = console.program("hostkey", "list").stdout.splitlines()
    assert [line.split("\t")[0] for line in listed] == ["in use", "not in use (ECDSA)"]


def _reload(console: ConsoleServer, policy: str) -> None:
    assert console.process is not None
    (console.folder / "config.yaml").write_text(f"listen: {{port: 0}}\nssh: {{policy: {policy}}}\n")
    console.log.clear()
    console.process.send_signal(signal.SIGHUP)
    assert console.logs("reloaded"), console.log


def test_the_log_of_the_policy_compatible_has_no_line_of_a_library(compatible: ConsoleServer) -> None:
    """The group of 2048 bits is intended, but its library warning once went to standard error."""
    words = ["-o", "KexAlgorithms=diffie-hellman-group14-sha256", "-o", "HostKeyAlgorithms=ecdsa-sha2-nistp256"]
    ran = compatible.ssh("whoami", options=[*words, "-o", "MACs=hmac-sha2-256", "-c", "aes128-ctr"])
    assert ran.stdout.startswith(b"admin\n"), ran.stderr
    assert compatible.stop() == 0
    assert all(_LOG_LINE.match(line) for line in compatible.log), compatible.log
