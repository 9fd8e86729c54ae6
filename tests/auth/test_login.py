"""Passwords, keys with options, certificates, and locked and expired users."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import asyncssh
import paramiko
import pexpect
import pytest
from argon2 import PasswordHasher
from authority import Authority, new_key
from console import PASSWORD, PROMPT, ConsoleServer

from server.auth.keys import fingerprint
from server.model.access import UserKey

REFUSED = 255


async def _enters(console: ConsoleServer, user: str, **more: object) -> bool:
    """Return whether a user can log in, with the key of `admin` by default."""
    try:
        async with console.asyncssh(username=user, **more) as connection:
            ran = await connection.run("whoami")
    except asyncssh.PermissionDenied:
        return False
    return str(ran.stdout).startswith(user.partition("+")[0] + "\n")


def _set(console: ConsoleServer, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(console.database)) as database:
        database.execute(sql, values)
        database.commit()


@pytest.mark.slow
@pytest.mark.parametrize("state", ["locked", "expired"])
async def test_a_locked_or_expired_user_is_refused_by_every_way(console: ConsoleServer, state: str) -> None:
    console.add_user("vera", "viewer")
    console.ssh(text="cocon/user/passwd vera\nsecret\nsecret\n")
    assert await _enters(console, "vera")
    change = {"locked": "lock vera", "expired": "set vera --expires 2020-01-01"}[state]
    console.run(f"cocon/user/{change}")
    assert not await _enters(console, "vera")
    assert not await _enters(console, "vera", client_keys=None, password="secret")
    assert await asyncio.to_thread(console.logs, "vera from 127.0.0.1:", state)
    console.run("cocon/user/" + {"locked": "unlock vera", "expired": "set vera --expires never"}[state])
    assert await _enters(console, "vera")
    assert await _enters(console, "vera", client_keys=None, password="secret")


async def test_a_key_works_from_where_and_until_when_it_says(console: ConsoleServer, tmp_path: Path) -> None:
    key = new_key(tmp_path, "id")
    public = key.with_suffix(".pub").read_text().strip()
    (tmp_path / "authorized_keys").write_text(f'from="127.0.0.0/8,!127.0.0.3",expiry-time="21000101Z" {public}\n')
    assert console.program("user", "add", "vera", "--authorized-key", str(tmp_path / "authorized_keys")).returncode == 0
    for address, enters in (("127.0.0.1", True), ("127.0.0.2", True), ("127.0.0.3", False)):
        assert await _enters(console, "vera", client_keys=[str(key)], local_addr=(address, 0)) is enters
    _set(console, "UPDATE user_keys SET expires_at = '2020-01-01T00:00:00.000+00:00' WHERE user_name = 'vera'")
    assert not await _enters(console, "vera", client_keys=[str(key)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ('from="10.0.0.0/99"', "10.0.0.0/99 is no address or network"),
        ('from="crm.example"', "crm.example is no address or network"),
        ('from="!10.0.0.1"', "works from nowhere"),
        ('expiry-time="tomorrow"', "tomorrow is no time"),
        ('command="sh"', "has options that are not supported"),
        ("cert-authority", "has options that are not supported"),
        ('from="10.0.0.1",from="10.0.0.2"', "has options that are not supported"),
    ],
)
def test_an_option_that_is_wrong_is_refused_and_not_dropped(
    console: ConsoleServer, tmp_path: Path, options: str, told: str
) -> None:
    public = new_key(tmp_path, "id").with_suffix(".pub").read_text()
    (tmp_path / "authorized_keys").write_text(f"{options} {public}")
    ran = console.program("user", "add", "vera", "--authorized-key", str(tmp_path / "authorized_keys"))
    assert ran.returncode == 1
    assert told in ran.stderr
    assert "vera" not in console.program("user", "list").stdout


async def test_trusted_certificates_log_in_their_principals(
    stopped_console: ConsoleServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    console = stopped_console
    authority = Authority(console, tmp_path_factory.mktemp("authority"))
    console.start()
    for name in ("vera", "oleg"):
        assert console.program("user", "add", name, "--password-stdin", text="x\n").returncode == 0
    vera = authority.signed("vera,somebody")
    assert await _enters(console, "vera", client_keys=vera)
    assert await _enters(console, "vera+plain", client_keys=vera)
    signer = fingerprint(authority.key.with_suffix(".pub").read_text())
    assert await asyncio.to_thread(console.logs, "vera from", f"by certificate by {signer}")
    refused = {
        "for another user": ("oleg", vera),
        "for somebody who is no user": ("somebody", vera),
        "that is over": ("vera", authority.signed("vera", validity="20200101:20200102")),
        "that has not begun": ("vera", authority.signed("vera", validity="21000101:21000102")),
        "of a host": ("vera", authority.signed("vera", host=True)),
        "from elsewhere": ("vera", authority.signed("vera", "source-address=10.0.0.0/8")),
    }
    for story, (name, keys) in refused.items():
        assert not await _enters(console, name, client_keys=keys), story
    assert await _enters(console, "vera", client_keys=authority.signed("vera", "source-address=127.0.0.0/8"))
    console.run("cocon/user/lock vera")
    assert not await _enters(console, "vera", client_keys=vera)


async def test_refused_certificates_are_recorded_and_scanners_are_not(
    stopped_console: ConsoleServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """An expired certificate was once recorded as `no key offered`, as was every scanner."""
    console = stopped_console
    authority = Authority(console, tmp_path_factory.mktemp("authority"))
    folder = tmp_path_factory.mktemp("stranger")
    stranger = Authority(ConsoleServer(folder), folder)
    console.start()
    assert console.program("user", "add", "vera", "--password-stdin", text="x\n").returncode == 0
    words = console.ssh_words("-o", "PreferredAuthentications=none", user="vera")
    assert await asyncio.to_thread(lambda: subprocess.run(words, capture_output=True, check=False).returncode) == 255
    assert not await _enters(console, "vera", client_keys=authority.signed("vera", validity="20200101:20200102"))
    assert not await _enters(console, "vera", client_keys=stranger.signed("vera"))
    printed = await asyncio.to_thread(_failures, console)
    # asyncssh's client offers the bare key behind its certificate
    assert printed == [("vera", "key: 1 key, 1 certificate offered, nothing proved")] * 2


async def test_a_certificate_with_an_unknown_condition_is_refused(
    stopped_console: ConsoleServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The OpenSSH client sends the certificate unchanged. The server refuses it."""
    authority = Authority(stopped_console, tmp_path_factory.mktemp("authority"))
    stopped_console.start()

    def status(key: str) -> int:
        options = ("-o", f"CertificateFile={key}-cert.pub", "-o", f"IdentityFile={key}", "-o", "IdentitiesOnly=yes")
        base = [word for word in stopped_console.ssh_words() if word != str(stopped_console.key)]
        base.remove("-i")
        words = [base[0], *options, *base[1:], "whoami"]
        return subprocess.run(words, capture_output=True, check=False, stdin=subprocess.DEVNULL).returncode

    (good,), (odd,) = authority.signed("admin"), authority.signed("admin", "critical:moon=full")
    assert await asyncio.to_thread(status, good) == 0
    assert await asyncio.to_thread(status, odd) == 255


def _failures(console: ConsoleServer) -> list[tuple[str, str]]:
    printed = console.run("cocon/audit/list --event login.failed | json")
    return [(row["user_name"], row["detail"]) for row in json.loads(printed)["rows"]]


async def test_the_forced_command_of_a_certificate_runs(
    stopped_console: ConsoleServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    authority = Authority(stopped_console, tmp_path_factory.mktemp("authority"))
    stopped_console.start()
    keys = authority.signed("admin", "force-command=whoami")
    async with stopped_console.asyncssh(client_keys=keys) as connection:
        ran = await connection.run("domain/declare stolen.local")
    assert str(ran.stdout).startswith("admin\n")
    assert "stolen" not in stopped_console.run("domain/list")


async def test_an_untrusted_authority_is_refused(
    stopped_console: ConsoleServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    Authority(stopped_console, tmp_path_factory.mktemp("authority"))
    stopped_console.start()
    folder = tmp_path_factory.mktemp("stranger")
    stranger = Authority(ConsoleServer(folder), folder)
    assert not await _enters(stopped_console, "admin", client_keys=stranger.signed("admin"))


def test_a_file_of_authorities_that_cannot_be_used_ends_the_start(stopped_console: ConsoleServer) -> None:
    for text, told in (("rubbish\n", "line 1 is no public key"), (None, "No such file")):
        path = stopped_console.folder / "ca.pub"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        (stopped_console.folder / "config.yaml").write_text("auth: {trusted_user_ca_keys: ca.pub}\n")
        ran = stopped_console.program("serve")
        assert ran.returncode == 1
        assert "auth.trusted_user_ca_keys: ca.pub: " in ran.stderr
        assert told in ran.stderr


async def test_an_outdated_password_hash_is_renewed_at_login(console: ConsoleServer) -> None:
    weak = PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash(PASSWORD)
    _set(console, "UPDATE users SET password_hash = ? WHERE name = 'admin'", weak)
    for _ in range(2):
        assert await _enters(console, "admin", client_keys=None, password=PASSWORD)
    with closing(sqlite3.connect(console.database)) as database:
        ((kept,),) = database.execute("SELECT password_hash FROM users WHERE name = 'admin'")
    assert kept != weak
    assert "m=19456,t=2,p=1" in kept


def test_a_password_that_must_be_changed_is_changed_at_the_login(console: ConsoleServer) -> None:
    assert console.program("user", "add", "vera", "--password-stdin", text="first\n").returncode == 0
    console.run("cocon/user/set vera --change-password")
    words = console.ssh_words("-o", "PubkeyAuthentication=no", user="vera")
    client = pexpect.spawn(words[0], words[1:], encoding="utf-8", timeout=20)
    client.expect("password: ")
    client.sendline("first")
    for answers in (("first", "first"), ("second", "second")):
        client.expect("[Nn]ew password: ")
        client.sendline(answers[0])
        client.expect("(Once more|Retype .*): ")
        client.sendline(answers[1])
    client.expect_exact(PROMPT.replace("admin", "vera", 1))
    client.sendline("exit")
    client.expect(pexpect.EOF)
    for password, enters in (("first", False), ("second", True)):
        try:
            with console.paramiko(username="vera", password=password):
                entered = True
        except paramiko.AuthenticationException:
            entered = False
        assert entered is enters


def test_a_client_that_cannot_change_the_password_is_refused(console: ConsoleServer) -> None:
    assert console.program("user", "add", "vera", "--password-stdin", text="first\n").returncode == 0
    console.run("cocon/user/set vera --change-password")
    with pytest.raises(paramiko.SSHException), console.paramiko(username="vera", password="first"):
        pass
    assert console.ssh("whoami").returncode == 0


async def test_refused_keys_are_recorded(stopped_console: ConsoleServer, tmp_path: Path) -> None:
    """Attempts with stolen keys once left no record."""
    console = stopped_console
    console.start(ECSS_CONSOLE_LIMITS__PER_SOURCE_PENALTIES="false")
    unknown, other = new_key(tmp_path, "unknown"), new_key(tmp_path, "other")
    for name in ("admin", "stranger"):
        assert not await _enters(console, name, client_keys=[str(unknown), str(other)])
    words = console.ssh_words("-o", "PreferredAuthentications=none", user="admin")
    assert await asyncio.to_thread(lambda: subprocess.run(words, capture_output=True, check=False).returncode) == 255
    assert not await _enters(console, "admin", client_keys=None, password="wrong")
    await asyncio.to_thread(console.recorded, lambda records: records[-1]["detail"] == "password: wrong password")
    printed = await asyncio.to_thread(console.run, "cocon/audit/list --event login.failed | json")
    told = [(row["user_name"], row["detail"]) for row in json.loads(printed)["rows"]]
    assert told == [
        ("admin", "key: 2 keys offered, nothing proved"),
        ("stranger", "key: 2 keys offered, nothing proved"),
        ("admin", "password: wrong password"),
    ]
    assert await asyncio.to_thread(console.logs, "login of stranger from 127.0.0.1:", "2 keys offered, nothing proved")


def test_renewing_a_hash_does_not_block_a_password_change(console: ConsoleServer) -> None:
    """The renewal between question and change was once taken for a change by another session."""
    weak = PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash(PASSWORD)
    _set(console, "UPDATE users SET password_hash = ? WHERE name = 'admin'", weak)
    changed = console.ssh("passwd", text=f"{PASSWORD}\nsecond\nsecond\n")
    assert changed.returncode == 0, changed.stdout
    (row,) = json.loads(console.run("cocon/audit/list --event user.change --last 1 | json"))["rows"]
    assert (row["user_name"], row["detail"]) == ("admin", "hash of the password renewed")


@pytest.mark.parametrize(
    ("sources", "opens"), [(("10.0.0.0/8",), True), (("::/0", "!10.0.0.1"), False), (("0.0.0.0/0",), True)]
)
def test_a_mapped_ipv6_address_counts_as_ipv4(sources: tuple[str, ...], opens: bool) -> None:  # noqa: FBT001
    assert UserKey("ssh-ed25519 A", "", sources).opens("::ffff:10.0.0.1", "2026") is opens
