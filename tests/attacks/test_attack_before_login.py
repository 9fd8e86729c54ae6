"""Input of an unauthenticated client costs no more than a wrong password, and counts as a try."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from asyncssh.packet import Boolean, String, UInt32
from authority import Authority, new_key
from console import PASSWORD, ConsoleServer
from hostile import Stranger, cpu_seconds, stranger
from sources import refused_lines, wait_until_all_have_left

from server.transport.asyncssh_overrides.authentication import MOST_PASSWORD_BYTES
from server.transport.asyncssh_overrides.connection import MOST_KEY_EXCHANGES_BEFORE_LOGIN
from server.transport.certificate import read_offered

#: Sorting these is quadratic: 60 KB of them stopped the console for 1.5 seconds.
_MARKS = ("a" + "\u0300\u0316" * 14_900).encode()
#: Normalisation turns each into eighteen characters.
_GROWING = ("\ufdfa" * 19_900).encode()
#: A wrong password takes 20 ms. Normalisation in the event loop took more than a second.
_MOST_CPU_SECONDS = 0.7


def _failures(console: ConsoleServer) -> list[tuple[str, str]]:
    return [
        (str(each["user_name"]), str(each["detail"])) for each in console.audit() if each["event"] == "login.failed"
    ]


@pytest.mark.parametrize("password", [_MARKS, _GROWING], ids=["marks", "growing"])
@pytest.mark.parametrize("way", ["password", "changed password", "answer", "user name"])
async def test_attack_one_packet_of_sixty_kilobytes_delays_no_session(
    console: ConsoleServer, way: str, password: bytes
) -> None:
    """One such packet once blocked the console for 1.5 s, eight for 9.5 s; 64 such clients may be connected."""
    async with stranger(console) as client:
        before = cpu_seconds(console)
        if way == "password":
            client.give_password("admin", password)
        elif way == "changed password":
            client.log_in("admin", "password", Boolean(True), String(PASSWORD), String(password))  # noqa: FBT003
        elif way == "answer":
            await client.answer("admin", password)
        else:
            client.give_password(password, "x")
        await client.refused()
        assert cpu_seconds(console) - before < _MOST_CPU_SECONDS
    await asyncio.to_thread(wait_until_all_have_left, console)
    assert console.logs("failed by password")


async def test_attack_a_password_over_the_limit_is_wrong_and_one_below_it_is_checked(console: ConsoleServer) -> None:
    async with stranger(console) as client:
        client.give_password("admin", PASSWORD + "x" * (MOST_PASSWORD_BYTES - len(PASSWORD) + 1))
        await client.refused()
    async with console.asyncssh(client_keys=None, password=PASSWORD) as connection:
        assert (await connection.run("whoami")).exit_status == 0


@pytest.mark.parametrize("trusts", [False, True], ids=["without authorities", "with an authority"])
async def test_attack_unknown_certificates_count_as_tries(
    stopped_console: ConsoleServer,
    tmp_path: Path,
    trusts: bool,  # noqa: FBT001
) -> None:
    """Their signatures were verified even without a configured authority, and counted as no try."""
    console = stopped_console
    if trusts:
        folder = tmp_path / "trusted"
        folder.mkdir()
        Authority(console, folder)
    key = new_key(tmp_path, "stranger")
    words = ["ssh-keygen", "-q", "-s", str(key), "-I", "x", "-n", "admin", f"{key}.pub"]
    await asyncio.to_thread(subprocess.run, words, check=True)
    certificate = asyncssh.read_certificate(f"{key}-cert.pub")
    console.start()
    async with stranger(console) as client:
        for _ in range(20):
            if client.gone.is_set():
                break
            client.offer("admin", "ssh-ed25519-cert-v01@openssh.com", certificate.public_data)
            await client.refused()
        assert client.gone.is_set()
        assert client.failures <= 6
    assert refused_lines(console, "max_auth_tries")
    assert await asyncio.to_thread(console.logs, "failed by certificate", "1 certificate offered")


async def test_attack_malformed_keys_count_as_tries(console: ConsoleServer) -> None:
    """RSA with huge exponents, points on no curve, partial certificates: the server decodes none of them."""
    modulus, exponent = b"\0" + b"\xff" * 384, b"\0" + b"\xfe" * 383 + b"\xff"
    offers = [
        ("ssh-rsa", String("ssh-rsa") + String(exponent) + String(modulus)),
        ("ssh-rsa", String("ssh-rsa") + String(b"\1") + String(b"\0" + b"\xff" * 30_000)),
        ("ecdsa-sha2-nistp521", String("ecdsa-sha2-nistp521") + String("nistp521") + String(b"\4" + b"\1" * 132)),
        ("ssh-rsa-cert-v01@openssh.com", String("ssh-rsa-cert-v01@openssh.com") + String(b"nonce") + b"\xff" * 40),
        ("x509v3-ssh-rsa", String("x509v3-ssh-rsa") + UInt32(1) + String(b"\x30" * 20_000)),
        ("ssh-dss", b""),
    ]
    async with stranger(console) as client:
        before = cpu_seconds(console)
        for algorithm, data in offers:
            client.offer("admin", algorithm, data)
            await client.refused()
        assert client.gone.is_set()
        assert cpu_seconds(console) - before < _MOST_CPU_SECONDS
    assert refused_lines(console, "max_auth_tries")


async def test_attack_key_exchanges_before_the_login_are_few(console: ConsoleServer) -> None:
    """Each costs the server a millisecond of CPU and the client one packet."""
    async with stranger(console) as client:
        await _exchange_keys(client)
    assert await asyncio.to_thread(console.logs, "refused 127.0.0.2: protocol", "Too many key exchanges")


@pytest.mark.filterwarnings("ignore:Diffie-Hellman over finite fields")
async def test_attack_group_exchanges_before_login_cost_little(stopped_console: ConsoleServer) -> None:
    """The policy `compatible` offers a group of 2048 bits, eight times as costly as curve25519."""
    stopped_console.start(ECSS_CONSOLE_SSH__POLICY="compatible")
    before = cpu_seconds(stopped_console)
    options: dict[str, Any] = {
        "kex_algs": ["diffie-hellman-group14-sha256"],
        "server_host_key_algs": ["ecdsa-sha2-nistp256"],
    }
    for _ in range(5):
        async with stranger(stopped_console, **options) as client:
            await _exchange_keys(client)
    assert cpu_seconds(stopped_console) - before < _MOST_CPU_SECONDS
    assert await asyncio.to_thread(stopped_console.logs, "refused 127.0.0.2: protocol", "Too many key exchanges")


async def _exchange_keys(client: Stranger) -> None:
    """Begin one key exchange over the limit before login. Raises TimeoutError if the server allows it."""
    for _ in range(MOST_KEY_EXCHANGES_BEFORE_LOGIN + 1):
        while not (client._kex_complete or client.gone.is_set()):  # noqa: SLF001, ASYNC110  no event tells of it
            await asyncio.sleep(0.001)
        if client.gone.is_set():
            break
        client._send_kexinit()  # noqa: SLF001
        client._kexinit_sent = True  # noqa: SLF001
    await asyncio.wait_for(client.gone.wait(), 30)


async def test_attack_a_login_is_served_beside_sixty_strangers(console: ConsoleServer) -> None:
    """Sixty certificates at once made a login from another address take 7.7 s."""
    clients = [stranger(console, f"127.0.0.{number}") for number in range(20, 60)]
    opened = await asyncio.gather(*(each.__aenter__() for each in clients))
    for client in opened:
        client.give_password("admin", _MARKS)
    before = cpu_seconds(console)
    async with console.asyncssh() as connection:
        assert (await connection.run("whoami")).exit_status == 0
    await asyncio.gather(*(client.refused() for client in opened if not client.failures))
    assert cpu_seconds(console) - before < len(opened) * 0.1
    await asyncio.gather(*(each.__aexit__(None, None, None) for each in clients))


def test_certificate_fields_are_split_as_openssh_writes_them(tmp_path: Path) -> None:
    """The fields are read without decoding; each kind of key has its own number of them."""
    authority = new_key(tmp_path, "ca")
    trusted = " ".join(authority.with_suffix(".pub").read_text().split()[:2])
    for kind in ("ed25519", "rsa", "ecdsa"):
        key = tmp_path / kind
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(key)], check=True)
        words = ["ssh-keygen", "-q", "-s", str(authority), "-I", "x", "-n", "vera,oleg", f"{key}.pub"]
        subprocess.run(words, check=True)
        offered = read_offered(asyncssh.read_certificate(f"{key}-cert.pub").public_data)
        assert offered is not None
        assert offered.authority == trusted
        assert offered.principals == ("vera", "oleg")
        assert offered.public_key == " ".join(key.with_suffix(".pub").read_text().split()[:2])
        plain = read_offered(asyncssh.read_public_key(f"{key}.pub").public_data)
        assert plain is not None
        assert (plain.public_key, plain.authority) == (offered.public_key, None)
