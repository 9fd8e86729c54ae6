"""Parse public keys: lines of an OpenSSH `.pub` or `authorized_keys` file."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from datetime import UTC, datetime

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from server.addresses import plain_network
from server.model.access import UserKey
from server.model.key_formats import key_lines, named_format
from server.model.names import with_foreign
from server.model.public_keys import DAMAGED, RSA_BITS, weakness

__all__ = ["fingerprint", "parse_authorized_keys", "parse_key", "parse_sources", "parse_time", "weakness"]

#: The algorithms that the SSH layer can verify, without DSA.
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
#: The limit of one `from=`. Reading each network takes 8 microseconds of the event loop.
MOST_NETWORKS = 1_000
_OPTION = re.compile(r'([A-Za-z0-9-]+)(?:="((?:[^"\\]|\\.)*)")?(?:,|(?=[ \t]))')
_TIME_FORMATS = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}


def parse_authorized_keys(text: str) -> tuple[UserKey, ...]:
    """Return the keys of a file, each once: lines of OpenSSH, or blocks as PuTTYgen saves them (RFC 4716).

    Raises ValueError with the number of a line that is not a key, or that has an option other than `from` and
    `expiry-time`. Ignoring an option would grant more access than the file allows.
    """
    keys = []
    for number, line in key_lines(text):
        if line and not line.startswith("#"):
            try:
                keys.append(parse_key(line))
            except ValueError as wrong:
                message = f"line {number} {wrong}"
                raise ValueError(message) from wrong
    if not keys:
        message = "there is no public key in it"
        raise ValueError(message)
    return tuple({key.public_key: key for key in keys}.values())


def parse_key(line: str) -> UserKey:
    """Return the key of one line, with its options and comment.

    Raises ValueError with a message that continues `line 3 …`.
    """
    if named := named_format(line):
        raise ValueError(named)
    given, rest = _options(line)
    algorithm, blob, comment = (*rest.split(None, 2), "", "", "")[:3]
    if algorithm not in ALGORITHMS:
        if algorithm == "ssh-dss":
            weak = weakness(f"{algorithm} {blob}")
            raise _weak(weak if weak and weak != DAMAGED else "DSA")
        message = f"is no public key of a known kind; known are {', '.join(ALGORITHMS)}"
        raise ValueError(with_foreign(message, algorithm))
    _check_blob(algorithm, blob)
    if not comment.strip().isprintable():
        message = "has a comment with control characters"
        raise ValueError(message)
    try:
        sources = parse_sources(given["from"]) if "from" in given else ()
        expires_at = parse_time(given["expiry-time"]) if "expiry-time" in given else None
    except ValueError as wrong:
        message = f"has an option that is wrong: {wrong}"
        raise ValueError(message) from wrong
    return UserKey(f"{algorithm} {blob}", comment.strip(), sources, expires_at)


def parse_sources(text: str) -> tuple[str, ...]:
    """Return the networks of `from=`: addresses or networks; `!` excludes one, as in sshd(8).

    IPv4-mapped IPv6 becomes IPv4. Raises ValueError for anything else: host names would need a trusted name service,
    and a zone (`%eth0`) names an interface.
    """
    given = text.split(",")
    if len(given) > MOST_NETWORKS:
        message = f"{len(given):,} addresses or networks, at most {MOST_NETWORKS:,} are allowed"
        raise ValueError(message)
    sources = tuple(_source(each.strip()) for each in given)
    if all(each.startswith("!") for each in sources):
        message = "only addresses that are shut out: such a key works from nowhere"
        raise ValueError(message)
    return sources


def _source(text: str) -> str:
    """Return one entry of `from=` as given; IPv4 written as IPv6 becomes IPv4."""
    shut_out, given = text[: text.startswith("!")], text.removeprefix("!")
    try:
        network = plain_network(given)
    except ValueError as wrong:
        if "%" in given or "IPv4-mapped" in str(wrong):
            raise
        message = f"{text or 'nothing'} is no address or network, as 10.0.0.0/8 is"
        raise ValueError(message) from None
    if network.version == 6 or ":" not in given:  # noqa: PLR2004
        return text
    return shut_out + str(network).removesuffix("/32")


def parse_time(text: str) -> str:
    """Return a time in UTC.

    It is written `YYYYMMDD[HHMM[SS]][Z]` or `YYYY-MM-DD[THH:MM[:SS]][Z]`; without Z it is local time of the node.

    Raises ValueError. Source: sshd(8), `expiry-time`.
    """
    digits = re.sub(r"[-:T]", "", text.removesuffix("Z"))
    try:
        when = datetime.strptime(digits, _TIME_FORMATS[len(digits)])  # noqa: DTZ007  the zone comes next
    except (KeyError, ValueError):
        message = (
            f"{text} is no time: a day of the calendar is expected, YYYY-MM-DD or YYYY-MM-DDTHH:MM, with Z for UTC"
        )
        raise ValueError(message) from None
    try:
        aware = when.replace(tzinfo=UTC) if text.endswith("Z") else when.astimezone()
        return aware.astimezone(UTC).isoformat(timespec="milliseconds")
    except (OverflowError, OSError):
        message = f"{text} is no time that can be reckoned with"
        raise ValueError(message) from None


def fingerprint(public_key: str) -> str:
    """Return `SHA256:…` of a stored key, as `ssh-keygen -l` prints it."""
    digest = hashlib.sha256(base64.b64decode(public_key.split(" ")[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def _options(line: str) -> tuple[dict[str, str], str]:
    """Split the options before the key from the rest."""
    given: dict[str, str] = {}
    if line.partition(" ")[0] in ALGORITHMS or not any(f"{name} " in line for name in ALGORITHMS):
        return given, line
    position = 0
    while found := _OPTION.match(line, position):
        name, value = found[1].lower(), found[2]
        if name not in {"from", "expiry-time"} or value is None or name in given:
            break
        given[name], position = value, found.end()
        if line[position : position + 1] in {" ", "\t"}:
            return given, line[position:].strip()
    message = 'has options that are not supported; from="NETWORKS" and expiry-time="TIME" are'
    raise ValueError(message)


def _check_blob(algorithm: str, blob: str) -> None:
    try:
        raw = base64.b64decode(blob, validate=True)
    except binascii.Error:
        raw = b""
    length = int.from_bytes(raw[:_NAME_LENGTH_BYTES], "big")
    if raw[_NAME_LENGTH_BYTES : _NAME_LENGTH_BYTES + length] != algorithm.encode():
        message = f"is cut or damaged: the key does not say {algorithm} inside"
        raise ValueError(message)
    weak = weakness(f"{algorithm} {blob}")  # first, because the library would spend much time on a huge key
    if weak is not None and weak != DAMAGED:
        raise _weak(weak)
    try:
        if algorithm.startswith("sk-"):  # a key of a security device
            _check_device_key(raw)
        else:
            load_ssh_public_key(f"{algorithm} {blob}".encode())
    except (ValueError, UnsupportedAlgorithm, NotImplementedError) as error:
        message = f"is cut or damaged: {error}"
        raise ValueError(message) from error


def _weak(what: str) -> ValueError:
    least, most = RSA_BITS
    return ValueError(f"is too weak: {what}; use Ed25519, ECDSA, or RSA of {least} to {most} bits (exponent 65537)")


def _check_device_key(raw: bytes) -> None:
    """Raise ValueError unless the blob has the fields of a security device's key (OpenSSH's PROTOCOL.u2f)."""
    fields: list[bytes] = []
    while raw:
        length = int.from_bytes(raw[:_NAME_LENGTH_BYTES], "big")
        fields.append(raw[_NAME_LENGTH_BYTES : _NAME_LENGTH_BYTES + length])
        if len(raw) < _NAME_LENGTH_BYTES + length:
            break
        raw = raw[_NAME_LENGTH_BYTES + length :]
    sizes = [len(each) for each in fields[1:]]
    if raw or not ((sizes[:1] == [32] and len(sizes) == 2) or (sizes[:2] == [8, 65] and len(sizes) == 3)):  # noqa: PLR2004
        message = "its fields are not those of a key"
        raise ValueError(message)
