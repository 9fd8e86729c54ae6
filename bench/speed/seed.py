"""Stores with any number of domains and integrations, made by the server's storage code offline."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path

from server.model.integrations import Integration, IntegrationType
from server.storage import domains, integrations
from server.storage.sqlite.engine import SqliteEngine
from server.storage.store import Store
from server.storage.vault import Vault

_NOW = "2021-02-16T08:00:00Z"
_SERVICE_EVERY = 5


async def seed(folder: Path, sizes: Mapping[str, int]) -> None:
    """Add each domain with its number of integrations to the store in `folder`; every fifth has numbers."""
    vault = Vault(base64.b64decode((folder / "keys" / "storage.key").read_bytes()))
    store = Store(await SqliteEngine.open(folder / "var" / "console.db"), vault)
    try:
        async with store.transaction() as query:
            for domain, size in sizes.items():
                await domains.insert(query, domain, _NOW)
                for number in range(size):
                    key = hashlib.sha256(f"{domain} {number}".encode()).hexdigest()
                    await integrations.insert(query, vault, domain, _integration(number), key, _NOW)
    finally:
        await store.close()


def _integration(number: int) -> Integration:
    if number % _SERVICE_EVERY:
        return Integration(f"client{number:06d}", IntegrationType.WIDGET)
    numbers = (f"24{number:06d}", f"25{number:06d}")
    return Integration(f"client{number:06d}", IntegrationType.SERVICE, numbers)
