"""An offered key or certificate, taken apart without asyncssh: its fields only, no signature and no arithmetic.

asyncssh verifies the signature of a certificate while it decodes it. So the authority is read first, and what no
trusted authority has signed is never decoded (source of the layout: PROTOCOL.certkeys of OpenSSH).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from asyncssh.packet import PacketDecodeError, SSHPacket, String

from server.auth.keys import ALGORITHMS

_CERTIFICATE = b"-cert-v01@openssh.com"
#: How many fields a public key has behind its algorithm.
_KEY_FIELDS = {
    "ssh-ed25519": 1,
    "ssh-rsa": 2,
    "ecdsa-sha2-nistp256": 2,
    "ecdsa-sha2-nistp384": 2,
    "ecdsa-sha2-nistp521": 2,
    "sk-ssh-ed25519@openssh.com": 2,
    "sk-ecdsa-sha2-nistp256@openssh.com": 3,
}
#: An RSA key of 16,384 bits, the longest that opens, has about 2,100 bytes.
MOST_KEY_BYTES = 4096
MOST_CERTIFICATE_BYTES = 32 * 1024


@dataclass(frozen=True, slots=True)
class OfferedKey:
    """A public key, `algorithm base64`. With an `authority`, likewise, it is certified for the `principals`."""

    public_key: str
    authority: str | None = None
    principals: tuple[str, ...] = ()


def read_offered(data: bytes) -> OfferedKey | None:
    """Return what a client offers; None for what is no key of a known kind, or too long for one."""
    try:
        packet = SSHPacket(data)
        name = packet.get_string()
        certified = name.endswith(_CERTIFICATE)
        algorithm = _algorithm(name, certified=certified)
        if algorithm is None or len(data) > (MOST_CERTIFICATE_BYTES if certified else MOST_KEY_BYTES):
            return None
        return _certificate(packet, algorithm) if certified else OfferedKey(_text(algorithm, data))
    except (PacketDecodeError, UnicodeDecodeError):
        return None


def _algorithm(name: bytes, *, certified: bool) -> str | None:
    """Return the algorithm of a key, or of the key in a certificate: `sk-…-cert-v01@openssh.com` drops the domain."""
    text = name.decode("ascii")
    if certified:
        text = text.removesuffix(_CERTIFICATE.decode())
        text = f"{text}@openssh.com" if text.startswith("sk-") else text
    return text if text in ALGORITHMS else None


def _certificate(packet: SSHPacket, algorithm: str) -> OfferedKey:
    packet.get_string()  # nonce
    fields = b"".join(String(packet.get_string()) for _ in range(_KEY_FIELDS[algorithm]))
    packet.get_uint64()  # serial number
    packet.get_uint32()  # of a user or of a host
    packet.get_string()  # key id
    named = SSHPacket(packet.get_string())
    principals: list[str] = []
    while named:
        principals.append(named.get_string().decode("utf-8", "replace"))
    packet.get_uint64()  # valid after
    packet.get_uint64()  # valid before
    for _ in ("critical options", "extensions", "reserved"):
        packet.get_string()
    authority = packet.get_string()
    return OfferedKey(
        _text(algorithm, String(algorithm) + fields),
        _text(SSHPacket(authority).get_string().decode("ascii"), authority),
        tuple(principals),
    )


def _text(algorithm: str, data: bytes) -> str:
    return f"{algorithm} {base64.b64encode(data).decode()}"
