"""Stores with any number of domains and integrations, made by the server's storage code offline."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from server.config import load_config
from server.model.integrations import Integration, IntegrationType
from server.storage import domains, integrations
from server.storage.opening import open_store

_NOW = "2021-02-16T08:00:00Z"
_SERVICE_EVERY = 5


async def seed(folder: Path, sizes: Mapping[str, int]) -> None:
    """Add each domain with its number of integrations to the store of `folder`; every fifth has numbers."""
    async with open_store(load_config(folder / "config.yaml"), make=False) as store, store.transaction() as query:
        for domain, size in sizes.items():
            await domains.insert(query, domain, _NOW)
            for number in range(size):
                key = hashlib.sha256(f"{domain} {number}".encode()).hexdigest()
                await integrations.insert(query, store.vault, domain, _integration(number), key, _NOW)


def _integration(number: int) -> Integration:
    if number % _SERVICE_EVERY:
        return Integration(f"client{number:06d}", IntegrationType.WIDGET)
    numbers = (f"24{number:06d}", f"25{number:06d}")
    return Integration(f"client{number:06d}", IntegrationType.SERVICE, numbers)
