"""The strength of users' SSH public keys. Pure; the cost of every step is bounded beforehand."""

from __future__ import annotations

import base64
import binascii
from math import gcd, prod

from cryptography.hazmat.primitives.asymmetric import ec

#: RSA: the minimum is that of NIST SP 800-131A. The maximum is the largest that OpenSSH verifies, and bounds the cost
#: of a signature.
RSA_BITS = (2048, 16384)
#: OpenSSL's own limit for a large modulus. With a larger exponent, one signature costs as much as hundreds.
_MOST_EXPONENT_BITS = 64
#: The longest blob that is parsed: RSA of 16384 bits needs 2,083 bytes.
MOST_BLOB_BYTES = 4096
#: The result of `weakness` for a key that cannot be parsed.
DAMAGED = "a damaged key"
_LENGTH_BYTES = 4
#: A modulus with one of these factors is not the product of two large primes (NIST SP 800-89, 5.3.3).
_SMALL_PRIMES = prod(n for n in range(2, 752) if all(n % d for d in range(2, n)))
_CURVES: dict[str, ec.EllipticCurve] = {
    "nistp256": ec.SECP256R1(),
    "nistp384": ec.SECP384R1(),
    "nistp521": ec.SECP521R1(),
}
_ED25519_BYTES = 32
_P = 2**255 - 19
#: The y of the points of small order on edwards25519: anybody can sign for such a key (libsodium refuses them too).
_SMALL_ORDER = frozenset(
    {
        0,
        1,
        _P - 1,
        0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
    }
)


def weakness(public_key: str) -> str | None:
    """Return why a key, `algorithm base64`, is refused, such as "RSA of 1024 bits"; None for a strong one.

    A key that cannot be parsed counts as weak. Kind and size are read from the blob, not from the text before it.
    """
    blob = public_key.split(" ")[1] if " " in public_key else ""
    if len(blob) > MOST_BLOB_BYTES // 3 * 4:
        return _too_long(len(blob) // 4 * 3)
    try:
        return blob_weakness(base64.b64decode(blob, validate=True))
    except binascii.Error:
        return DAMAGED


def blob_weakness(blob: bytes) -> str | None:
    """Return why the key in an SSH wire blob without certificate is refused; None for a strong one."""
    if len(blob) > MOST_BLOB_BYTES:
        return _too_long(len(blob))
    try:
        kind, *fields = _fields(blob)
        return _weakness_by_kind(kind.decode("ascii"), fields)
    except ValueError:  # too few fields, a point that is not on the curve, or letters that are not ASCII
        return DAMAGED


def _too_long(size: int) -> str:
    return f"a key of {size:,} bytes"


def _weakness_by_kind(kind: str, fields: list[bytes]) -> str | None:
    if kind == "ssh-rsa":
        exponent, modulus = fields
        return _rsa(_integer(exponent), _integer(modulus))
    if kind == "ssh-dss":
        return f"DSA of {_integer(fields[0]).bit_length()} bits"
    if kind in {"ssh-ed25519", "sk-ssh-ed25519@openssh.com"}:
        return _ed25519(fields[0])
    name, _, device = kind.removeprefix("sk-").partition("@")
    curve = _CURVES.get(name.removeprefix("ecdsa-sha2-"))
    if curve is None or (device and name != "ecdsa-sha2-nistp256"):
        return "a key of an unknown kind"
    return _ecdsa(curve, fields)


def _rsa(exponent: int, modulus: int) -> str | None:
    bits = modulus.bit_length()
    least, most = RSA_BITS
    if not least <= bits <= most:
        return f"RSA of {bits} bits"
    if exponent % 2 == 0 or exponent == 1 or exponent.bit_length() > _MOST_EXPONENT_BITS:
        size = exponent.bit_length()
        shown = f"the exponent {exponent}" if size <= _MOST_EXPONENT_BITS else f"an exponent of {size} bits"
        return f"RSA of {bits} bits with {shown}"
    if gcd(modulus, _SMALL_PRIMES) != 1:
        return f"RSA of {bits} bits with a small factor"
    return None


def _ed25519(point: bytes) -> str | None:
    if len(point) != _ED25519_BYTES:
        return DAMAGED
    y = int.from_bytes(point, "little") & ((1 << 255) - 1)
    return "Ed25519 of small order" if y % _P in _SMALL_ORDER else None


def _ecdsa(curve: ec.EllipticCurve, fields: list[bytes]) -> str | None:
    if fields[0].decode("ascii") not in _CURVES or _CURVES[fields[0].decode("ascii")] is not curve:
        return DAMAGED
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(curve, fields[1])
    except ValueError:
        return f"ECDSA with a point that is not on {fields[0].decode('ascii')}"
    return None


def _fields(blob: bytes) -> list[bytes]:
    """Split a blob into its fields, at least two; raises ValueError for a wrong length."""
    fields = []
    position = 0
    while position < len(blob):
        field, position = _field(blob, position)
        fields.append(field)
    if len(fields) < 2:  # noqa: PLR2004
        message = "fields are missing"
        raise ValueError(message)
    return fields


def _integer(field: bytes) -> int:
    """Read an mpint. Raises ValueError for a negative one, which no key has."""
    number = int.from_bytes(field, "big", signed=True)
    if number <= 0:
        message = "a number of the key is not positive"
        raise ValueError(message)
    return number


def _field(blob: bytes, position: int) -> tuple[bytes, int]:
    """Return the field at a position, and the position of the next one."""
    start = position + _LENGTH_BYTES
    end = start + int.from_bytes(blob[position:start], "big")
    if not start <= end <= len(blob):
        message = "a field is longer than what is left"
        raise ValueError(message)
    return blob[start:end], end
