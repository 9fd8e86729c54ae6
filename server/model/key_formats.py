"""Public keys in other formats than OpenSSH's line: RFC 4716 is converted, others are named. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator

_BEGIN, _END = "---- BEGIN SSH2 PUBLIC KEY ----", "---- END SSH2 PUBLIC KEY ----"
_NAME_LENGTH_BYTES = 4
#: Other formats and their messages; the first match counts. No valid line of a key matches, whatever its comment says,
#: except one that mentions a private key.
_NAMED = (
    (
        re.compile(r"\APuTTY-User-Key-File"),
        "is a private key of PuTTY: give the public one, which puttygen -L FILE prints on one line",
    ),
    (re.compile(r"PRIVATE KEY"), "is a private key: give the .pub file"),
    (
        re.compile(r"\A-+ *BEGIN SSH2 PUBLIC KEY"),
        "is a key in the format of RFC 4716, as PuTTYgen saves it: ssh-keygen -i -f FILE prints its line",
    ),
    (re.compile(r"\A-+ *BEGIN RSA PUBLIC KEY"), "is a key in PEM: ssh-keygen -i -m PEM -f FILE prints its line"),
    (re.compile(r"\A-+ *BEGIN PUBLIC KEY"), "is a key in PEM: ssh-keygen -i -m PKCS8 -f FILE prints its line"),
    (re.compile(r"\A-+ *BEGIN CERTIFICATE"), "is an X.509 certificate, which SSH has no use for: give the .pub file"),
    (
        re.compile(r"\A(?:[0-9]+ )?(?:SHA256:|MD5:|(?:[0-9a-fA-F]{2}:){15})"),
        "is the fingerprint of a key, from which the key cannot be made: give the .pub file",
    ),
    (
        re.compile(r"\A\S+-cert-v01@openssh\.com "),
        "is a certificate: give the key in it, or trust its authority by auth.trusted_user_ca_keys",
    ),
    (re.compile(r"\AAAAA[A-Za-z0-9+/]{40}"), "has no algorithm in front, as in ssh-ed25519 AAAA…"),
)


def named_format(text: str) -> str:
    """Name the format of a line that is no key, and the remedy, to continue `line 3 …`; empty if unknown."""
    return next((said for pattern, said in _NAMED if pattern.search(text)), "")


def key_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a file of keys; a key in RFC 4716 format becomes one OpenSSH line.

    Raises ValueError for such a key that is cut or damaged.
    """
    lines = iter(enumerate(re.split(r"\r\n?|\n", text), 1))
    for number, line in lines:
        if line.strip() != _BEGIN:
            yield number, line.strip()
            continue
        block: list[str] = []
        for _, inside in lines:
            if inside.strip() == _END:
                break
            block.append(inside.strip())
        else:
            message = f"line {number} begins a key that is cut: {_END} is missing"
            raise ValueError(message)
        yield number, _line(number, block)


def _line(number: int, block: list[str]) -> str:
    """Convert a block to a line: its headers, of which only the comment is kept, then the key in base64."""
    comment, body = "", iter(block)
    blob: list[str] = []
    for line in body:
        name, colon, value = line.partition(":")
        if not colon:
            blob.append(line)
            continue
        while value.endswith("\\"):
            value = value[:-1] + next(body, "")
        if name.lower() == "comment":
            comment = value.strip().removeprefix('"').removesuffix('"')
    key = "".join(blob)
    try:
        raw = base64.b64decode(key, validate=True)
        length = int.from_bytes(raw[:_NAME_LENGTH_BYTES], "big")
        algorithm = raw[_NAME_LENGTH_BYTES : _NAME_LENGTH_BYTES + length].decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        algorithm = ""
    if not algorithm.isprintable() or not algorithm or " " in algorithm:
        message = f"line {number} begins a key that is cut or damaged: it does not say its algorithm inside"
        raise ValueError(message)
    return f"{algorithm} {key} {comment}".rstrip()
