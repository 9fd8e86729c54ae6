"""Weak keys: a 512-bit RSA key, factored in an afternoon, was accepted (a report from the field)."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import asyncssh
import pytest
from authority import Authority, new_key
from console import PASSWORD, ConsoleServer, needs
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from weak_keys import WEAK_BITS, good_modulus, public_line, rsa_line, stored, weak_rsa

from server.auth.keys import fingerprint, parse_key, weakness

_P = 2**255 - 19
_SMALL_ORDER = (0, 1, _P - 1, _P, _P + 1)
_ORDER_8 = (
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
)


def _line(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _enters(console: ConsoleServer, name: str, key: Path) -> bool:
    async def entered() -> bool:
        with suppress(asyncssh.PermissionDenied):
            async with console.asyncssh(username=name, client_keys=[str(key)]) as connection:
                return (await connection.run("whoami")).exit_status == 0
        return False

    return asyncio.run(entered())


@pytest.mark.slow
@pytest.mark.parametrize("bits", [512, 1024, 2040])
def test_field_a_weak_rsa_key_is_refused_wherever_it_would_be_added(console: ConsoleServer, bits: int) -> None:
    needs("openssl")
    key, line = weak_rsa(console.folder, bits)
    told = f"is too weak: RSA of {bits} bits; use Ed25519, ECDSA, or RSA of 2048 to 16384 bits"
    for command in (f"cocon/user/add weak --key '{line}'", f"cocon/user/key/add admin {line}"):
        status, shown = console.told("admin", command)
        assert status == 2
        assert told in shown
    ran = console.program("user", "add", "weak", "--authorized-key", f"{key}.pub")
    assert (ran.returncode, told in ran.stderr) == (1, True)
    assert "weak" not in console.run("cocon/user/list")
    assert not _enters(console, "admin", key)


def test_field_a_weak_authority_ends_the_start_and_is_not_taken_by_a_reload(stopped_console: ConsoleServer) -> None:
    needs("openssl")
    console = stopped_console
    key, _ = weak_rsa(console.folder)
    (console.folder / "config.yaml").write_text(f"auth: {{trusted_user_ca_keys: {key}.pub}}\n")
    ran = console.program("serve")
    assert ran.returncode == 1
    assert f"line 1 is too weak: RSA of {WEAK_BITS} bits" in ran.stderr
    (console.folder / "config.yaml").write_text("")
    console.start()
    assert console.process is not None
    (console.folder / "config.yaml").write_text(f"auth: {{trusted_user_ca_keys: {key}.pub}}\n")
    console.process.send_signal(signal.SIGHUP)
    assert console.logs("not reloaded, nothing has changed", f"line 1 is too weak: RSA of {WEAK_BITS} bits")
    assert console.stop() == 0


def test_field_a_stored_weak_key_is_refused_and_named_at_the_start(stopped_console: ConsoleServer) -> None:
    needs("openssl")
    console = stopped_console
    key, line = weak_rsa(console.folder)
    console.program("user", "add", "eve", "--password-stdin", "--role", "viewer", text=f"{PASSWORD}\n")
    stored(console, "eve", line)
    console.start()
    print_ = fingerprint(line)
    assert console.logs(f"the key {print_} of eve opens nothing, it is too weak: RSA of {WEAK_BITS} bits")
    assert not _enters(console, "eve", key)
    assert console.logs("login of eve from 127.0.0.1:", f"failed by key {print_}: weak key: RSA of {WEAK_BITS} bits")
    assert (
        f"eve\tviewer\tpassword, {print_} (weak, opens nothing: RSA of 1024 bits)\n"
        in console.program("user", "list").stdout
    )
    (row,) = json.loads(console.run("cocon/user/key/list eve | json"))["rows"]
    assert (row["fingerprint"], row["weakness"]) == (print_, "RSA of 1024 bits")
    assert "weak, opens nothing: RSA of 1024 bits" in console.run("cocon/user/key/list eve")
    console.run(f"cocon/user/key/remove eve {print_}")
    assert console.stop() == 0
    failed = [each["detail"] for each in console.audit() if each["event"] == "login.failed"]
    assert failed == [f"key {print_}: weak key: RSA of {WEAK_BITS} bits"]
    assert line.split()[1] not in "".join(console.log)


def test_field_an_upgrade_says_loudly_when_weak_keys_leave_no_administrator(stopped_console: ConsoleServer) -> None:
    needs("openssl")
    console = stopped_console
    _, line = weak_rsa(console.folder)
    stored(console, "admin", line, only=True)
    console.program("user", "add", "vera", "--password-stdin", "--role", "viewer", text=f"{PASSWORD}\n")
    console.start()
    recovery = "ecss-console user passwd admin, or ecss-console user add NAME"
    assert console.logs("ERROR", f"no administrator can log in; on this host run {recovery}")
    assert console.program("user", "passwd", "admin", "--password-stdin", text="another one\n").returncode == 0
    with console.paramiko(password="another one") as client:
        assert client.exec_command("whoami")[1].read().startswith(b"admin\n")
    assert console.stop() == 0
    console.start()
    assert console.logs("the key ", "of admin opens nothing")
    assert not any("no administrator can log in" in each for each in console.log)
    assert console.stop() == 0


@pytest.mark.parametrize("way", ["key", "certificate"])
def test_field_administrators_with_another_way_in_are_no_reason_for_an_alarm(
    stopped_console: ConsoleServer, way: str
) -> None:
    needs("openssl")
    console = stopped_console
    _, line = weak_rsa(console.folder)
    stored(console, "admin", line, only=True)
    if way == "key":
        strong = new_key(console.folder, "strong").with_suffix(".pub").read_text()
        stored(console, "admin", strong, sources="10.0.0.0/8")
    else:
        Authority(console, console.folder)
    console.start()
    assert console.logs("opens nothing, it is too weak")
    assert console.logs("log in with")
    assert console.stop() == 0
    assert not any("no administrator" in each for each in console.log)


def test_field_a_log_names_twenty_weak_keys_and_counts_the_others(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    modulus = good_modulus()
    for number in range(25):
        stored(console, "admin", rsa_line(2 * number + 2, modulus))
    console.start()
    assert console.logs("5 more weak keys open nothing; ecss-console user list marks them")
    assert console.stop() == 0
    assert sum("opens nothing, it is too weak" in each for each in console.log) == 20


def test_field_an_administrator_with_only_a_weak_key_does_not_count(console: ConsoleServer) -> None:
    """It counted once: the only administrator able to log in was removed for good."""
    needs("openssl")
    _, line = weak_rsa(console.folder)
    console.add_user("ghost", "admin")
    with closing(sqlite3.connect(console.database)) as database:
        database.execute("UPDATE users SET password_hash = NULL WHERE name = 'ghost'")
        database.commit()
    stored(console, "ghost", line, only=True)
    for command in ("lock admin", "remove admin --force", "set admin --role viewer"):
        status, shown = console.told("admin", f"cocon/user/{command}")
        assert (status, "admin is the last administrator" in shown) == (1, True)
    ran = console.program("user", "remove", "admin")
    assert (ran.returncode, "admin is the last administrator" in ran.stderr) == (1, True)
    strong = new_key(console.folder, "strong").with_suffix(".pub").read_text()
    stored(console, "ghost", strong)
    assert console.told("admin", "cocon/user/lock admin")[0] == 0


def _weak_lines() -> dict[str, str]:
    modulus = good_modulus()
    lines = {
        "RSA of 2048 bits with the exponent 1": rsa_line(1, modulus),
        "RSA of 2048 bits with the exponent 65536": rsa_line(65536, modulus),
        "RSA of 2048 bits with an exponent of 65 bits": rsa_line(2**64 + 1, modulus),
        "RSA of 2048 bits with an exponent of 2047 bits": rsa_line(2**2046 + 1, modulus),
        "RSA of 2048 bits with a small factor": rsa_line(65537, 751 * (modulus // 751)),
        "RSA of 16392 bits": rsa_line(65537, modulus << 14344 | 1),
        "DSA of 1024 bits": public_line("ssh-dss", (1 << 1023).to_bytes(129, "big"), b"\3", b"\5", b"\7"),
        "ECDSA with a point that is not on nistp256": public_line(
            "ecdsa-sha2-nistp256", b"nistp256", b"\4" + b"\1" * 64
        ),
    }
    lines |= {
        f"Ed25519 of small order, {y:x}"[:40]: public_line("ssh-ed25519", y.to_bytes(32, "little"))
        for y in _SMALL_ORDER
    }
    return lines | {f"Ed25519 of small order, {y[:6]}": public_line("ssh-ed25519", bytes.fromhex(y)) for y in _ORDER_8}


def test_field_forgeable_and_costly_keys_are_weak() -> None:
    for what, line in _weak_lines().items():
        reason = what.partition(", ")[0]
        assert weakness(line) == reason
        with pytest.raises(ValueError, match=f"is too weak: {reason}; use Ed25519"):
            parse_key(line)
    for huge in (rsa_line(65537, 1 << 380_000), public_line("ssh-ed25519", b"\1" * 40_000)):
        with pytest.raises(ValueError, match=r"is too weak: a key of [0-9,]+ bytes"):
            parse_key(huge)
    strong = [rsa_line(e, good_modulus()) for e in (3, 35, 65537)]
    strong += [_line(ec.generate_private_key(curve())) for curve in (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)]
    strong += [_line(ed25519.Ed25519PrivateKey.generate()) for _ in range(20)]
    assert [weakness(line) for line in strong] == [None] * len(strong)
    assert [str(parse_key(line)) for line in strong] == strong


def test_field_a_signature_without_any_private_key_fits_a_point_of_small_order() -> None:
    """The library accepts the signature below, which was made without a private key."""
    forged = (1).to_bytes(32, "little") + bytes(32)
    for point in [y.to_bytes(32, "little") for y in (0, 1, _P - 1)] + [bytes.fromhex(y) for y in _ORDER_8]:
        public = ed25519.Ed25519PublicKey.from_public_bytes(point)
        assert any(_verifies(public, forged, f"message {number}".encode()) for number in range(500)), point.hex()
        assert weakness(public_line("ssh-ed25519", point)) is not None


def _verifies(public: ed25519.Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        public.verify(signature, message)
    except InvalidSignature:
        return False
    return True


@pytest.mark.parametrize("blob", ["", "!!!!", "AAAA", "AAAAB3NzaC1yc2E=", "AAAAB3NzaC1yc2H/////", "/////w=="])
def test_field_malformed_keys_are_never_strong(blob: str) -> None:
    assert weakness(f"ssh-rsa {blob}") == "a damaged key"
    assert weakness(blob) == "a damaged key"
    with pytest.raises(ValueError, match="is cut or damaged"):
        parse_key(f"ssh-rsa {blob}")


def test_field_a_certificate_for_a_weak_key_is_refused(stopped_console: ConsoleServer, tmp_path: Path) -> None:
    """A trusted authority may sign any key. An attacker who factors that key has the certificate too."""
    needs("openssl")
    console = stopped_console
    authority = Authority(console, tmp_path)
    key, _ = weak_rsa(tmp_path)
    signer = asyncssh.read_private_key(authority.key)
    certified = signer.generate_user_certificate(asyncssh.read_private_key(str(key)), "id", principals=["admin"])
    Path(f"{key}-cert.pub").write_bytes(certified.export_certificate("openssh"))
    console.start()
    assert not _enters(console, "admin", key)
    assert console.logs("login of admin", "failed by certificate", f"weak key: RSA of {WEAK_BITS} bits")
