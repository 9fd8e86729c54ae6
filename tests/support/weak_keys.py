"""Public keys that the console must refuse, with private keys where they exist."""

from __future__ import annotations

import base64
import sqlite3
import struct
import subprocess
from contextlib import closing
from pathlib import Path

from console import ConsoleServer
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

WEAK_BITS = 1024


def weak_rsa(folder: Path, bits: int = WEAK_BITS) -> tuple[Path, str]:
    """Make a short RSA key with openssl, as ssh-keygen refuses to; return its file and the public line."""
    path = folder / f"rsa{bits}"
    subprocess.run(["openssl", "genrsa", "-traditional", "-out", path, str(bits)], check=True, capture_output=True)
    path.chmod(0o600)
    key = load_pem_private_key(path.read_bytes(), None)
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    path.with_suffix(".pub").write_text(f"{line}\n")
    return path, line


def public_line(kind: str, *fields: bytes) -> str:
    """Return a public key with these fields."""
    blob = b"".join(struct.pack(">I", len(each)) + each for each in (kind.encode(), *fields))
    return f"{kind} {base64.b64encode(blob).decode()}"


def rsa_line(exponent: int, modulus: int) -> str:
    """Return an RSA key of these numbers."""
    return public_line("ssh-rsa", *(each.to_bytes(each.bit_length() // 8 + 1, "big") for each in (exponent, modulus)))


def good_modulus(bits: int = 2048) -> int:
    """Return a modulus without a weakness."""
    return rsa.generate_private_key(65537, bits).public_key().public_numbers().n


def stored(console: ConsoleServer, name: str, line: str, *, sources: str = "", only: bool = False) -> None:
    """Give a user a key as an older version stored it; with `only`, remove all other login methods."""
    with closing(sqlite3.connect(console.database, timeout=10)) as database:
        if only:
            database.execute("UPDATE users SET password_hash = NULL WHERE name = ?", (name,))
            database.execute("DELETE FROM user_keys WHERE user_name = ?", (name,))
        database.execute(
            "INSERT INTO user_keys (user_name, public_key, comment, sources, added_at) VALUES (?, ?, '', ?, '2021')",
            (name, " ".join(line.split()[:2]), sources),
        )
        database.commit()
