"""Copy a store to another database, of the same engine or another one. Blocking.

The copy passes through an SQLite file, as a backup does. The present store stays as it is. The new one appears whole or
not at all, so a migration that was killed starts over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from server.backup.copy_record import record_in_copy
from server.backup.options import MigrateOptions
from server.backup.place import StorePlace
from server.backup.places import place_of
from server.config import Config
from server.errors import StartError
from server.file_names import DATABASE_NAME
from server.model.events import EventKind
from server.storage.owner import working_for
from server.storage.sqlite.files import store_errors
from server.storage.sqlite.schema import newest, upgrade
from server.storage.sqlite.snapshot import contents, copying
from server.storage.vault import Vault

_OTHERWISE = "take an empty database, or a file that does not exist"


@dataclass(frozen=True, slots=True)
class Migrated:
    """A finished migration: the names of both stores, and the number of rows by table."""

    source: str
    target: str
    counts: Mapping[str, int]


def migrate(config: Config, options: MigrateOptions) -> Migrated:
    """Copy the store of one URL to that of another; both have the configured storage key. Raises StartError."""
    source, target = _with_store(config, "FROM", options.source), _with_store(config, "TO", options.target)
    if source.store_name == target.store_name:
        message = "FROM and TO are the same store"
        raise StartError(message)
    newest()  # read the migrations as root, because the store's owner may not be able to read the program's files
    with store_errors(), working_for(*source.places, *target.places):
        old, new = place_of(source), place_of(target)
        vault = old.check()
        with new.replacing(_OTHERWISE), new.scratch() as folder:
            copy = folder / DATABASE_NAME
            with copying(folder.parent):
                counts = _copied(old, copy, vault)
            facts = {"from": old.name, "to": new.name}
            node = config.node.name
            asyncio.run(record_in_copy(copy, vault, node, "migrate-store", facts, EventKind.STORE_MIGRATED))
            new.put(copy, {}, datetime.now(UTC), _OTHERWISE)
    return Migrated(old.name, new.name, counts)


def _with_store(config: Config, which: str, url: str) -> Config:
    try:
        return config.with_store(url)
    except ValueError as error:
        message = f"{which} is no URL of a store: {error}"
        raise StartError(message) from error


def _copied(old: StorePlace, copy: Path, vault: Vault) -> Mapping[str, int]:
    """Copy the store to a file of the newest schema, check it, and return the number of rows by table."""
    old.move_to(copy)
    found = contents(copy)
    if found.damage is not None:
        message = f"the store {old.name} is damaged ({found.damage}): restore it from a backup; nothing was changed"
        raise StartError(message)
    if found.storage_key != vault.fingerprint:
        message = f"the store {old.name} was replaced meanwhile by one with another storage key; try again"
        raise StartError(message)
    if found.schema < newest():
        upgrade(copy, vault)
    return found.counts
