"""API keys in the store: encrypted, with a keyed hash beside them for lookup.

A stolen database or backup reveals no key without the storage key. Each ciphertext is bound to the folded name of its
domain and to its client id, so it cannot be decrypted in another client's row.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from server.model.domains import folded
from server.storage.chain import Sealer

STORAGE_KEY_BYTES = 32
_NONCE_BYTES = 12


class Vault:
    """Encrypts and decrypts API keys with one storage key of 32 bytes."""

    def __init__(self, storage_key: bytes) -> None:
        """Derive the working keys and forget the storage key. Raises ValueError for a wrong length."""
        if len(storage_key) != STORAGE_KEY_BYTES:
            message = f"a storage key has {STORAGE_KEY_BYTES} bytes"
            raise ValueError(message)
        self._sealing = AESGCM(_derived(storage_key, b"ecss-console api key sealing"))
        self._hashing = _derived(storage_key, b"ecss-console api key lookup")
        self.audit = Sealer(
            _derived(storage_key, b"ecss-console audit record"), _derived(storage_key, b"ecss-console audit head")
        )
        self._backup = _derived(storage_key, b"ecss-console backup manifest")
        self._nodes = _derived(storage_key, b"ecss-console node messages")
        self.fingerprint = _derived(storage_key, b"ecss-console storage key fingerprint").hex()

    def seal(self, domain: str, client_id: str, key: str) -> str:
        """Return the key encrypted, as base64 of nonce and ciphertext."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._sealing.encrypt(nonce, key.encode(), _binding(domain, client_id))
        return base64.b64encode(nonce + sealed).decode()

    def open(self, domain: str, client_id: str, sealed: str) -> str:
        """Return the key in clear.

        Raises ValueError when it was not sealed for this client with this storage key.
        """
        try:
            raw = binascii.a2b_base64(sealed, strict_mode=True)
            return self._sealing.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _binding(domain, client_id)).decode()
        except (InvalidTag, ValueError):
            message = f"the key of {client_id} in {domain} does not open with this storage key"
            raise ValueError(message) from None

    def lookup_hash(self, key: str) -> str:
        """Return the keyed hash that finds the client of a key."""
        return hmac.new(self._hashing, key.encode(), hashlib.sha256).hexdigest()

    def backup_mac(self, manifest: bytes) -> str:
        """Return the mac, in hex, that proves that a holder of the storage key made a backup."""
        return hmac.digest(self._backup, manifest, "sha256").hex()

    def node_mac(self, kind: str, *parts: str) -> str:
        """Return the mac, in hex, that proves that a holder of the storage key wrote a message to other nodes."""
        return hmac.digest(self._nodes, json.dumps([kind, *parts]).encode(), "sha256").hex()


def new_storage_key() -> bytes:
    """Make a storage key from the system's random source."""
    return os.urandom(STORAGE_KEY_BYTES)


def _derived(storage_key: bytes, purpose: bytes) -> bytes:
    return HKDF(SHA256(), STORAGE_KEY_BYTES, salt=None, info=purpose).derive(storage_key)


def _binding(domain: str, client_id: str) -> bytes:
    return f"{folded(domain)}\0{client_id}".encode()
