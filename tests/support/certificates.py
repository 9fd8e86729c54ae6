"""A TLS authority and a server certificate, made when a test needs them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_AUTHORITY = "test authority"


@dataclass(frozen=True)
class Issued:
    """A server certificate with its private key, and the certificate of the authority that signed it; all in PEM."""

    authority: bytes
    certificate: bytes
    private_key: bytes


def issued_for(address: str) -> Issued:
    """Make an authority, and let it sign a certificate that is valid for one IP address and no name."""
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    named = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    authority = _builder(_AUTHORITY, authority_key).sign(authority_key, hashes.SHA256())
    certificate = _builder(address, key).add_extension(named, critical=False).sign(authority_key, hashes.SHA256())
    return Issued(
        authority.public_bytes(serialization.Encoding.PEM),
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def _builder(name: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _AUTHORITY)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=name == _AUTHORITY, path_length=None), critical=True)
    )
