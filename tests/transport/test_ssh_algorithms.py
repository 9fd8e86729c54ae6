"""Algorithms as ssh-audit rates them, the clients that log in with them, and rekeying by volume."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest
from console import PASSWORD, ConsoleServer, needs

from server.transport import algorithms

SSH_AUDIT = Path(sys.executable).with_name("ssh-audit")
NO_QUANTUM = "does not provide protection against post-quantum attacks"
ML_KEM = "mlkem768x25519-sha256"
POST_QUANTUM = {"ECSS_CONSOLE_SSH__POLICY": "post-quantum"}


def _audit(server: ConsoleServer) -> dict[str, dict[str, dict[str, list[str]]]]:
    """Return the findings of ssh-audit: kind -> algorithm -> severity -> texts."""
    ran = subprocess.run(
        [SSH_AUDIT, "-jj", "--skip-rate-test", "-p", str(server.port), "127.0.0.1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    report = json.loads(ran.stdout)
    assert report["cves"] == []
    return {kind: {each["algorithm"]: each["notes"] for each in report[kind]} for kind in ("kex", "key", "enc", "mac")}


def _findings(report: dict[str, dict[str, dict[str, list[str]]]]) -> list[tuple[str, str, str]]:
    """Return (severity, algorithm, text) of all findings above a remark."""
    return sorted(
        (severity, algorithm, text)
        for algorithms in report.values()
        for algorithm, notes in algorithms.items()
        for severity in ("fail", "warn")
        for text in notes.get(severity, [])
    )


def test_ssh_audit_finds_only_that_curve25519_is_not_post_quantum(shared_console: ConsoleServer) -> None:
    report = _audit(shared_console)
    assert _findings(report) == [
        ("warn", "curve25519-sha256", NO_QUANTUM),
        ("warn", "curve25519-sha256@libssh.org", NO_QUANTUM),
    ]
    offered = [name for name in report["kex"] if not name.startswith(("ext-info-", "kex-strict-"))]
    assert offered == ["curve25519-sha256", "curve25519-sha256@libssh.org", ML_KEM]
    assert set(report["key"]) == {"ssh-ed25519"}


def test_terrapin_strict_key_exchange_is_offered(shared_console: ConsoleServer) -> None:
    assert "kex-strict-s-v00@openssh.com" in _audit(shared_console)["kex"]


@pytest.fixture
def post_quantum(stopped_console: ConsoleServer) -> ConsoleServer:
    """A server with `ssh.policy: post-quantum`."""
    stopped_console.start(**POST_QUANTUM)
    return stopped_console


async def test_the_policy_post_quantum_refuses_clients_without_ml_kem(post_quantum: ConsoleServer) -> None:
    report = _audit(post_quantum)
    assert _findings(report) == []
    assert [name for name in report["kex"] if not name.startswith(("ext-info-", "kex-strict-"))] == [ML_KEM]
    async with post_quantum.asyncssh(kex_algs=[ML_KEM]) as connection:
        assert str((await connection.run("whoami", check=True)).stdout).startswith("admin\n")
    # asyncssh's client may see the end of the connection before it has looked at the algorithms
    with pytest.raises((asyncssh.KeyExchangeFailed, asyncssh.ConnectionLost)):
        await post_quantum.connected(kex_algs=["curve25519-sha256"])
    assert post_quantum.logs("no common key exchange algorithm", "curve25519-sha256", ML_KEM)


def test_ssh_audit_names_the_weaknesses_of_the_policy_compatible(stopped_console: ConsoleServer) -> None:
    """NIST curves, a group of 2048 bits, encrypt-and-MAC: only these, and only under this policy."""
    stopped_console.start(ECSS_CONSOLE_SSH__POLICY="compatible")
    report = _audit(stopped_console)
    curves = "using elliptic curves that are suspected as being backdoored by the U.S. National Security Agency"
    assert _findings(report) == [
        ("fail", "ecdh-sha2-nistp256", curves),
        ("fail", "ecdsa-sha2-nistp256", curves),
        ("warn", "curve25519-sha256", NO_QUANTUM),
        ("warn", "curve25519-sha256@libssh.org", NO_QUANTUM),
        ("warn", "diffie-hellman-group14-sha256", "2048-bit modulus only provides 112-bits of symmetric strength"),
        ("warn", "diffie-hellman-group14-sha256", NO_QUANTUM),
        ("warn", "ecdh-sha2-nistp256", NO_QUANTUM),
        ("warn", "ecdsa-sha2-nistp256", "using weak random number generator could reveal the key"),
        ("warn", "hmac-sha2-256", "using encrypt-and-MAC mode"),
    ]
    assert [*report["kex"]][:3] == ["curve25519-sha256", "curve25519-sha256@libssh.org", ML_KEM]
    assert [*report["key"]] == ["ssh-ed25519", "ecdsa-sha2-nistp256"]
    assert "kex-strict-s-v00@openssh.com" in report["kex"]


@pytest.fixture
def key_exchanges(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """The client's log lines about its key exchanges."""
    asyncssh.set_debug_level(2)
    with caplog.at_level(logging.DEBUG, "asyncssh"):
        yield caplog
    asyncssh.set_debug_level(1)


@pytest.mark.parametrize(
    ("offered", "used"),
    [
        ([ML_KEM, "curve25519-sha256"], ML_KEM),
        (["curve25519-sha256", ML_KEM], "curve25519-sha256"),
        (["curve25519-sha256@libssh.org"], "curve25519-sha256@libssh.org"),
    ],
)
async def test_the_client_decides_whether_it_is_ml_kem(
    shared_console: ConsoleServer, key_exchanges: pytest.LogCaptureFixture, offered: list[str], used: str
) -> None:
    async with shared_console.asyncssh(kex_algs=offered) as connection:
        await connection.run("whoami", check=True)
    assert f"Key exchange alg: {used}" in key_exchanges.text


async def test_asyncssh_logs_in_with_its_own_algorithms(
    shared_console: ConsoleServer, key_exchanges: pytest.LogCaptureFixture
) -> None:
    async with shared_console.asyncssh() as connection:
        await connection.run("whoami", check=True)
    assert f"Key exchange alg: {ML_KEM}" in key_exchanges.text


def test_terrapin_openssh_sees_strict_key_exchange(shared_console: ConsoleServer) -> None:
    seen = shared_console.ssh("whoami", options=["-vvv", "-o", "LogLevel=DEBUG3"]).stderr.decode()
    assert "kex-strict-s-v00@openssh.com" in seen
    if "kex-strict-c-v00@openssh.com" in seen:  # OpenSSH from 9.6, and patched ones before
        assert "will use strict KEX ordering" in seen


def test_openssh_uses_its_preferred_offered_key_exchange(shared_console: ConsoleServer) -> None:
    """OpenSSH has ML-KEM from 9.9 and prefers it from 10.0; older ones may prefer sntrup761, not offered."""
    words = ["ssh", "-F", "none", "-G", "127.0.0.1"]
    known = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    preferred = re.search(r"^kexalgorithms (\S+)", known, re.MULTILINE)
    assert preferred
    ran = shared_console.ssh("whoami", options=["-v", "-o", "LogLevel=DEBUG1"])
    assert ran.stdout.startswith(b"admin\n")
    used = re.search(r"kex: algorithm: (\S+)", ran.stderr.decode())
    assert used
    assert used[1] == next(each for each in preferred[1].split(",") if each in algorithms.KEX["default"])


@pytest.mark.parametrize("cipher", ["aes128-gcm@openssh.com", "aes256-ctr", "chacha20-poly1305@openssh.com"])
def test_openssh_logs_in_with_each_kind_of_cipher(shared_console: ConsoleServer, cipher: str) -> None:
    assert shared_console.ssh("whoami", options=["-c", cipher]).stdout.startswith(b"admin\n")


def test_paramiko_logs_in_with_its_own_algorithms(shared_console: ConsoleServer) -> None:
    with shared_console.paramiko() as client:
        _, stdout, _ = client.exec_command("whoami")
        assert stdout.read().startswith(b"admin\n")


def test_paramiko_uses_ml_kem(post_quantum: ConsoleServer) -> None:
    with post_quantum.paramiko() as client:
        _, stdout, _ = client.exec_command("whoami")
        assert stdout.read().startswith(b"admin\n")


def test_putty_logs_in_with_its_own_algorithms(shared_console: ConsoleServer, tmp_path: Path) -> None:
    needs("plink")
    listed = shared_console.program("hostkey", "list")
    words = ["plink", "-ssh", "-batch", "-noagent", "-hostkey", listed.stdout.split("\t")[1]]
    ran = subprocess.run(
        [*words, "-P", str(shared_console.port), "-pw", PASSWORD, "admin@127.0.0.1", "whoami"],
        env={**os.environ, "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert ran.stdout.startswith(b"admin\n"), ran.stderr


def test_dropbear_logs_in_with_its_own_algorithms(shared_console: ConsoleServer, tmp_path: Path) -> None:
    needs("dbclient")
    ran = subprocess.run(
        ["dbclient", "-y", "-y", "-T", "-p", str(shared_console.port), "admin@127.0.0.1", "whoami"],
        env={**os.environ, "HOME": str(tmp_path), "DROPBEAR_PASSWORD": PASSWORD},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert ran.stdout.startswith(b"admin\n"), ran.stderr


def _several_megabytes() -> tuple[str, bytes]:
    """Return the lines to type and the least size of the reply: 5 MB."""
    word = "x" * 50_000
    return f"echo {word}\n" * 100 + "whoami\n", word.encode()


@pytest.fixture
def often_rekeying(stopped_console: ConsoleServer) -> ConsoleServer:
    """A server that rekeys after every megabyte."""
    stopped_console.start(ECSS_CONSOLE_SSH__REKEY_MEGABYTES="1")
    return stopped_console


def test_new_session_keys_after_a_megabyte_and_the_session_goes_on(often_rekeying: ConsoleServer) -> None:
    lines, word = _several_megabytes()
    ran = often_rekeying.ssh(text=lines, options=["-v", "-o", "LogLevel=DEBUG1", "-T"])
    assert ran.returncode == 0
    assert ran.stdout.count(word) == 100
    assert b"\nadmin\n" in ran.stdout.replace(b"\r", b"").replace(b"$ admin", b"\nadmin")
    assert ran.stderr.count(b"SSH2_MSG_NEWKEYS received") >= 4  # the first, and one for each megabyte but the last


def test_paramiko_continues_after_a_rekey(often_rekeying: ConsoleServer) -> None:
    word = "x" * 60_000
    with often_rekeying.paramiko() as client:
        for _ in range(40):
            stdin, stdout, _ = client.exec_command(f"echo {word}")
            stdin.close()  # later it might be sent behind the close of the channel, which waits for no new keys
            assert stdout.read().startswith(word.encode())


def test_little_traffic_needs_one_key_exchange_only(shared_console: ConsoleServer) -> None:
    lines, _ = _several_megabytes()
    ran = shared_console.ssh(text=lines, options=["-v", "-o", "LogLevel=DEBUG1", "-T"])
    assert ran.stderr.count(b"SSH2_MSG_NEWKEYS received") == 1
