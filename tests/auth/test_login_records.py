"""Records and costs of logins that are neither a success nor a wrong password."""

from __future__ import annotations

import asyncio
import time

import asyncssh
import pexpect
import pytest
from authority import Authority
from console import PASSWORD, PROMPT, ConsoleServer


def _failures(console: ConsoleServer) -> list[tuple[str, str]]:
    """Return the failed users and reasons once there are any."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        failed = [record for record in console.audit() if record["event"] == "login.failed"]
        if failed:
            return [(str(record["user_name"]), str(record["detail"])) for record in failed]
        time.sleep(0.05)
    return []


def _must_change(console: ConsoleServer, name: str) -> None:
    assert console.program("user", "add", name, "--password-stdin", text="first\n").returncode == 0
    console.run(f"cocon/user/set {name} --change-password")


def _known(console: ConsoleServer) -> pexpect.spawn[str]:
    """Return a client of vera that has sent the password that must be changed."""
    words = console.ssh_words("-o", "PubkeyAuthentication=no", user="vera")
    client = pexpect.spawn(words[0], words[1:], encoding="utf-8", timeout=20)
    client.expect("password: ")
    client.sendline("first")
    return client


@pytest.fixture
def authority(stopped_console: ConsoleServer, tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority trusted by the running console, which knows vera."""
    trusted = Authority(stopped_console, tmp_path_factory.mktemp("authority"))
    stopped_console.start()
    added = stopped_console.program("user", "add", "vera", "--password-stdin", text="x\n")
    assert added.returncode == 0
    return trusted


def test_an_abandoned_required_password_change_is_recorded(console: ConsoleServer) -> None:
    """A wrong guess was recorded, the right one was not."""
    _must_change(console, "vera")
    client = _known(console)
    client.expect("New password: ")
    client.close(force=True)
    assert _failures(console) == [("vera", "password: password must be changed")]


def test_a_password_change_at_login_is_no_failure(console: ConsoleServer) -> None:
    _must_change(console, "vera")
    client = pexpect.spawn("ssh", console.ssh_words("-o", "PubkeyAuthentication=no", user="vera")[1:], timeout=20)
    for answer in ("first", "second", "second"):
        client.expect("(word|more): ")
        client.sendline(answer)
    client.expect_exact(PROMPT.replace("admin", "vera", 1))
    client.close(force=True)
    assert "login.failed" not in {record["event"] for record in console.audit()}


def test_a_required_password_change_is_no_failed_try(stopped_console: ConsoleServer) -> None:
    """With one try allowed, or after five refused keys, the owner could not change it."""
    console = stopped_console
    (console.folder / "config.yaml").write_text("limits: {max_auth_tries: 1}\n")
    console.start()
    _must_change(console, "vera")
    client = _known(console)
    for _ in range(2):
        client.expect("([Nn]ew password|Once more|Retype .*): ")
        client.sendline("second")
    client.expect_exact(PROMPT.replace("admin", "vera", 1))
    client.close(force=True)


async def test_a_locked_certificate_owner_is_refused_and_recorded(
    stopped_console: ConsoleServer, authority: Authority
) -> None:
    console = stopped_console
    console.run("cocon/user/lock vera")
    (key,) = authority.signed("vera")
    words = (
        "-o",
        f"CertificateFile={key}-cert.pub",
        "-o",
        f"IdentityFile={key}",
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        "BatchMode=yes",
    )
    client = await asyncio.create_subprocess_exec(
        *(word for word in console.ssh_words(*words, user="vera") if word not in {"-i", str(console.key)}), "whoami"
    )
    assert await client.wait() == 255
    ((name, why),) = await asyncio.to_thread(_failures, console)
    assert name == "vera"
    assert why.startswith("certificate by SHA256:")
    assert why.endswith(": locked")


async def test_a_user_locked_during_the_login_gets_no_prompt(
    stopped_console: ConsoleServer, authority: Authority
) -> None:
    """The user was once looked up only when the name arrived. Typing a key's passphrase may take minutes."""
    console = stopped_console
    (path,) = authority.signed("vera")
    key, certificate = asyncssh.read_private_key(path), asyncssh.read_certificate(f"{path}-cert.pub")

    class Slow(asyncssh.SSHClient):
        async def public_key_auth_requested(self) -> tuple[asyncssh.SSHKey, asyncssh.SSHCertificate]:
            await asyncio.to_thread(console.run, "cocon/user/lock vera")
            return key, certificate

    with pytest.raises(asyncssh.DisconnectError):
        await console.connected(username="vera", client_keys=None, client_factory=Slow)
    ((name, why),) = await asyncio.to_thread(_failures, console)
    assert name == "vera"
    assert why.endswith(": locked")


def test_a_password_that_saslprep_forbids_is_refused(console: ConsoleServer) -> None:
    """SASLprep forbids clients to send characters newer than Unicode 3.2 (RFC 4013, 2.5)."""
    for text in ("\u1d2cbc", "pass\u32ffword"):
        ran = console.program("user", "add", "vera", "--password-stdin", text=f"{text}\n")
        assert ran.returncode == 1
        assert "some SSH clients could not send it" in ran.stderr
    with console.paramiko(password=PASSWORD):
        pass
