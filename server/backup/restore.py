"""Restore a store from a backup, completely or not at all, and verify a backup without changes.

Blocking. Files named on the command line are opened as the caller, the store's files as their owner (docs/adr/0012).
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import IO

from server.backup.archive import Manifest, Unpacked, damaged, unpack
from server.backup.copy_record import record_in_copy
from server.backup.create import audited
from server.backup.encryption import Keys, Lock, decrypt, lock_of, opened_backup
from server.backup.options import RestoreOptions
from server.backup.places import place_of
from server.config import Config
from server.errors import StartError
from server.file_names import ECDSA_HOST_KEY_NAME, HOST_KEY_NAME, STORAGE_KEY_NAME
from server.model.events import EventKind
from server.model.lines import few_lines
from server.plain_files import MOST_KEY_BYTES, read_plain
from server.storage.owner import working_for
from server.storage.schema_numbers import CHAIN_SCHEMA
from server.storage.sqlite.files import store_errors
from server.storage.sqlite.schema import newest, upgrade
from server.storage.sqlite.snapshot import contents
from server.storage.storage_key import parse_storage_key, read_storage_key, storage_key_there
from server.storage.vault import Vault

_OTHERWISE = "give --force to move it aside, where it is kept"


class Origin(Enum):
    """The console that made a backup, identified by its storage key."""

    OURS = "this console"
    ANOTHER = "another console"
    UNKNOWN = "no storage key here to compare with"


@dataclass(frozen=True)
class SealedBackup:
    """The open, unread file of a backup."""

    file: IO[bytes]
    lock: Lock


@dataclass(frozen=True)
class Checked:
    """A verified backup. `vault` is None when its storage key is not available."""

    unpacked: Unpacked
    vault: Vault | None
    origin: Origin

    @property
    def manifest(self) -> Manifest:
        """The description in the backup."""
        return self.unpacked.manifest

    @property
    def has_chain(self) -> bool:
        """Whether its audit records form a chain. Older schemas have none."""
        return self.manifest.schema >= CHAIN_SCHEMA


@dataclass(frozen=True)
class HostKeyChange:
    """A private host key before and after a restore. Clients that know the old key will warn.

    `name` is the name of the key's file.
    """

    name: str
    before: bytes = field(repr=False)
    now: bytes = field(repr=False)


@dataclass(frozen=True)
class Restored:
    """A finished restore. `kept` are the new names of the files, or of the schema, that it moved aside."""

    checked: Checked
    kept: tuple[str, ...]
    host_keys: tuple[HostKeyChange, ...]


@contextmanager
def opened(path: Path) -> Iterator[SealedBackup]:
    """Open the file of a backup. Raises StartError, also for file errors of the store inside the block."""
    newest()  # read the migrations as root, because the store's owner may not be able to read the program's files
    with store_errors(), opened_backup(path) as file:
        yield SealedBackup(file, lock_of(file, path))


def verify(config: Config, sealed: SealedBackup, keys: Keys) -> Checked:
    """Check everything in a backup and change nothing. Raises StartError for a damaged one.

    `refuse_unless_restorable` checks whether this console would restore it.
    """
    with tempfile.TemporaryDirectory(prefix="ecss-console-") as name:
        return _checked(config, sealed, keys, Path(name))


def refuse_unless_restorable(config: Config, checked: Checked, *, foreign: bool) -> None:
    """Raise StartError for a checked backup that `restore` would refuse."""
    if checked.vault is None and storage_key_there(config.storage_key):
        raise StartError(_no_key(config))
    if not foreign:
        _refuse_foreign(config, checked)


def restore(config: Config, options: RestoreOptions, sealed: SealedBackup, keys: Keys) -> Restored:
    """Restore the store from a backup. Raises StartError, and then changes nothing."""
    place, otherwise = place_of(config), None if options.replace else _OTHERWISE
    with working_for(*config.places), place.replacing(otherwise), place.scratch() as folder:
        checked = _checked(config, sealed, keys, folder)
        if not options.foreign:
            _refuse_foreign(config, checked)
        host_keys = tuple(_host_key_changes(config, checked.unpacked))
        prepared = _prepared(config, checked, options.file.absolute())
        kept = place.put(checked.unpacked.database, prepared, datetime.now(UTC), otherwise)
    return Restored(checked, tuple(kept), host_keys)


def _host_key_changes(config: Config, unpacked: Unpacked) -> Iterator[HostKeyChange]:
    """Yield each host key that was rotated since the backup, so that it differs in the keys folder."""
    for name in (HOST_KEY_NAME, ECDSA_HOST_KEY_NAME):
        place, restored = config.keys_dir / name, unpacked.keys.get(name)
        if restored is None or not place.exists():
            continue
        try:
            before = read_plain(place, MOST_KEY_BYTES)
        except OSError:
            before = b""  # an unreadable file is replaced too
        if before != restored:
            yield HostKeyChange(name, before, restored)


def _checked(config: Config, sealed: SealedBackup, keys: Keys, folder: Path) -> Checked:
    """Unpack the backup into a folder and check everything in it. Raises StartError."""

    def read(stream: IO[bytes]) -> Unpacked:
        return unpack(stream, folder)

    unpacked = decrypt(read, sealed.file, sealed.lock, keys)
    manifest = unpacked.manifest
    found = contents(unpacked.database)
    if found.damage is not None:
        raise damaged(found.damage)
    if found.schema > newest():
        message = f"the backup has schema {found.schema}, this program knows {newest()}: install the newer program"
        raise StartError(message)
    if (found.schema, found.storage_key, found.counts) != (manifest.schema, manifest.storage_key, manifest.counts):
        what = "its database is not the one that the manifest describes"
        raise damaged(what)
    vault = _vault(config, unpacked)
    if vault is not None and manifest.schema >= CHAIN_SCHEMA:
        heads, wrong = asyncio.run(audited(unpacked.database, vault))
        if heads != manifest.heads or tuple(wrong) != manifest.findings:
            raise damaged("\n".join(["its audit is not as it was when the backup was made:", *few_lines(wrong)]))
    return Checked(unpacked, vault, _origin(config, manifest.storage_key))


def _vault(config: Config, unpacked: Unpacked) -> Vault | None:
    """Return the vault of the backup's storage key, from the backup or else from this console.

    None without the key.
    """
    manifest = unpacked.manifest
    own = unpacked.keys.get(STORAGE_KEY_NAME)
    if own is not None:
        raw = parse_storage_key(own, f"{STORAGE_KEY_NAME} in the backup")
    elif storage_key_there(config.storage_key):
        raw = read_storage_key(config.storage_key)
    else:
        return None
    vault = Vault(raw)
    if vault.fingerprint != manifest.storage_key:
        if own is not None:
            what = "its storage key is not that of its database"
            raise damaged(what)
        return None
    if vault.backup_mac(manifest.signed_part()) != manifest.mac:
        what = "its manifest was changed since it was made"
        raise damaged(what)
    return vault


def _origin(config: Config, storage_key: str) -> Origin:
    """Compare the backup's storage key with this console's.

    If that is lost, use its fingerprint in the database. An unreadable key counts as another console's, because nothing
    shows that the backup is from this one.
    """
    if storage_key_there(config.storage_key):
        try:
            ours = Vault(read_storage_key(config.storage_key)).fingerprint
        except (StartError, OSError):
            return Origin.ANOTHER
    else:
        with working_for(*config.places):
            ours = place_of(config).storage_key_mark()
    if not ours:
        return Origin.UNKNOWN
    return Origin.OURS if ours == storage_key else Origin.ANOTHER


def _refuse_foreign(config: Config, checked: Checked) -> None:
    if checked.vault is None or checked.origin is not Origin.ANOTHER:
        return
    message = (
        f"the backup is of another console: its storage key is not that of this one ({config.storage_key}). Its users "
        "would log in here, and its API keys would replace those of this console. Give --foreign where that is meant; "
        "nothing was changed"
    )
    raise StartError(message)


def _prepared(config: Config, checked: Checked, file: Path) -> dict[str, bytes]:
    """Upgrade the unpacked store and record the restore in it. Return the keys to put in place."""
    unpacked, vault = checked.unpacked, checked.vault
    if vault is None:
        raise StartError(_no_key(config))
    keys = dict(unpacked.keys)
    if STORAGE_KEY_NAME in keys and config.storage_key != config.keys_dir / STORAGE_KEY_NAME:
        _refuse_foreign_place(config, vault)
        del keys[STORAGE_KEY_NAME]
    if unpacked.manifest.schema < newest():
        upgrade(unpacked.database, vault)
    asyncio.run(_record(config, file, unpacked.manifest, vault, unpacked.database))
    return keys


def _no_key(config: Config) -> str:
    state = "another one is" if storage_key_there(config.storage_key) else "none is"
    return (
        f"the backup is without keys and needs its own storage key at {config.storage_key}, where {state}; "
        "nothing was changed"
    )


def _refuse_foreign_place(config: Config, vault: Vault) -> None:
    """Raise StartError for a wrong storage key outside the keys folder.

    An administrator manages a key there, so the restore does not replace it.
    """
    place = config.storage_key
    there = storage_key_there(place)
    if there and Vault(read_storage_key(place)).fingerprint == vault.fingerprint:
        return
    state = "is another one" if there else "is not there"
    message = (
        f"the storage key {place} lies outside of the keys folder and {state}: put the backup's own key there first "
        "(docs/backup.md says how to take it out of the file); nothing was changed"
    )
    raise StartError(message)


async def _record(config: Config, file: Path, manifest: Manifest, vault: Vault, database: Path) -> None:
    facts = {
        "file": str(file),
        "made_at": manifest.made_at,
        "schema": manifest.schema,
        "heads": dict(manifest.heads),
    }
    await record_in_copy(database, vault, config.node.name, "restore", facts, EventKind.BACKUP_RESTORED)
