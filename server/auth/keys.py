"""Public keys as users give them: lines of an OpenSSH `.pub` or `authorized_keys` file."""

from __future__ import annotations

import base64
import binascii
import hashlib

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

#: What the SSH layer can verify. DSA and security keys with options are not among them.
ALGORITHMS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
_NAME_LENGTH_BYTES = 4


def parse_authorized_keys(text: str) -> tuple[str, ...]:
    """Return the keys of a file as `algorithm base64`, comments dropped.

    Raises ValueError with the line that is no key, or that carries options: dropping them silently would open more
    than the file says.
    """
    keys = [
        _parse_line(number, line.strip())
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.strip().startswith("#")
    ]
    if not keys:
        message = "there is no public key in it"
        raise ValueError(message)
    return tuple(dict.fromkeys(keys))


def fingerprint(public_key: str) -> str:
    """Return `SHA256:…` of a stored key, as `ssh-keygen -l` prints it."""
    digest = hashlib.sha256(base64.b64decode(public_key.split(" ")[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def _parse_line(number: int, line: str) -> str:
    algorithm, *rest = line.split(None, 2)
    if "PRIVATE KEY" in line:
        message = f"line {number} is a private key: give the .pub file"
        raise ValueError(message)
    if algorithm not in ALGORITHMS:
        known = any(name in line for name in ALGORITHMS)
        what = "has options before the key, which are not supported" if known else "is no public key of a known kind"
        message = f"line {number} {what}; known are {', '.join(ALGORITHMS)}"
        raise ValueError(message)
    blob = rest[0] if rest else ""
    try:
        raw = base64.b64decode(blob, validate=True)
    except binascii.Error:
        raw = b""
    length = int.from_bytes(raw[:_NAME_LENGTH_BYTES], "big")
    if raw[_NAME_LENGTH_BYTES : _NAME_LENGTH_BYTES + length] != algorithm.encode():
        message = f"line {number} is cut or damaged: the key does not say {algorithm} inside"
        raise ValueError(message)
    try:
        if not algorithm.startswith("sk-"):  # keys on a security device are taken as they are
            load_ssh_public_key(f"{algorithm} {blob}".encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        message = f"line {number} is cut or damaged: {error}"
        raise ValueError(message) from error
    return f"{algorithm} {blob}"
