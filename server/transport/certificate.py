"""Read offered public keys and certificates before asyncssh decodes them.

asyncssh verifies the signature of a certificate while decoding it, which costs CPU. So `read_offered` reads the
authority first, without cryptography, and asyncssh never sees a certificate of an unknown authority. The layout is from
OpenSSH's PROTOCOL.certkeys.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

import asyncssh
from asyncssh.packet import PacketDecodeError, SSHPacket, String

from server.auth.credentials import OfferedKey
from server.auth.keys import ALGORITHMS
from server.auth.login_attempt import ClaimedCertificate, LoginAttempt

_CERTIFICATE = b"-cert-v01@openssh.com"
#: The number of fields of a public key after its algorithm.
_KEY_FIELDS = {
    "ssh-ed25519": 1,
    "ssh-rsa": 2,
    "ecdsa-sha2-nistp256": 2,
    "ecdsa-sha2-nistp384": 2,
    "ecdsa-sha2-nistp521": 2,
    "sk-ssh-ed25519@openssh.com": 2,
    "sk-ecdsa-sha2-nistp256@openssh.com": 3,
}
#: The longest accepted key, RSA with 16,384 bits, has about 2,100 bytes.
MOST_KEY_BYTES = 4096
MOST_CERTIFICATE_BYTES = 32 * 1024


class Authorities(asyncssh.SSHAuthorizedKeys):
    """The trusted authorities, in the form that asyncssh compares certificates with."""

    def __init__(self, attempt: LoginAttempt, claimed: ClaimedCertificate) -> None:
        """Accept certificates for the claimed principal; the attempt has at least one authority."""
        options = f'cert-authority,principals="{claimed.principal}"'
        super().__init__("\n".join(f"{options} {each.public_key}" for each in attempt.authorities))
        self._attempt = attempt
        self._claimed = claimed

    def validate(
        self,
        key: asyncssh.SSHKey,
        client_host: str,
        client_addr: str,
        cert_principals: Sequence[str] | None = None,
        ca: bool = False,  # noqa: FBT001, FBT002  asyncssh's own
    ) -> Mapping[str, object] | None:
        """Check the certificate as asyncssh does, then check its user."""
        options = super().validate(key, client_host, client_addr, cert_principals, ca)
        if options is None or self._attempt.accept_certificate(self._claimed, key.get_fingerprint()).user is None:
            return None
        return options


def read_offered(data: bytes) -> OfferedKey | None:
    """Read a key or certificate.

    Returns None for an unknown algorithm, and when it is malformed or too long.
    """
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
    """Return the algorithm of the key; None for an unknown one.

    The name of an `sk-` certificate lacks the suffix `@openssh.com` of its key's algorithm.
    """
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
