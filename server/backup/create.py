"""Create a backup: one file with the whole store, whether the server runs or not. Blocking.

Files named on the command line are opened as the caller, the store's files as their owner (docs/adr/0012).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from server import __version__
from server.audit.host_commands import record_host_command
from server.audit.journal import utc_now
from server.audit.verify import findings, inspect
from server.backup.archive import FORMAT, Manifest, Unpacked, fingerprint, key_files, pack, unpack
from server.backup.encryption import Keys, Lock, decrypt, encrypt
from server.backup.options import CreateOptions
from server.backup.places import place_of
from server.backup.target import refuse_target, target, writing
from server.config import Config
from server.cooperative import Turns
from server.errors import OperatorError, StartError
from server.file_names import DATABASE_NAME, KEY_NAMES, STORAGE_KEY_NAME
from server.interrupts import ignore_interrupts
from server.model.events import EventKind
from server.plain_files import MOST_KEY_BYTES, read_plain
from server.storage.events import outline
from server.storage.owner import working_for
from server.storage.schema_numbers import CHAIN_SCHEMA
from server.storage.sqlite.engine import SqliteEngine
from server.storage.sqlite.files import store_errors
from server.storage.sqlite.schema import newest
from server.storage.sqlite.snapshot import contents, copying
from server.storage.store import Store
from server.storage.vault import Vault


@dataclass(frozen=True, slots=True)
class Created:
    """A finished backup. `not_recorded` is the reason why the audit has no record of it, usually empty.

    `opened` means that the written file was decrypted and compared.
    """

    manifest: Manifest
    size_bytes: int
    lock: Lock
    opened: bool
    not_recorded: str


def check_source(config: Config, options: CreateOptions) -> Vault:
    """Check the options and the store. Call it before asking for a passphrase. Raises StartError."""
    _refuse_unsafe(config, options)
    newest()  # read the migrations as root, because the store's owner may not be able to read the program's files
    with store_errors(), working_for(*config.places):
        return place_of(config).check()


def create(config: Config, options: CreateOptions, vault: Vault, keys: Keys) -> Created:
    """Write the store and, unless excluded, its keys to the file. Call `check_source` first.

    The file gets its name only after it has been read back and checked. Raises StartError, and then leaves no partial
    file.
    """
    with store_errors():
        with target(options.file) as written:
            with working_for(*config.places):
                manifest = _write(config, options, keys, vault, written.file)
            ignore_interrupts()
            size_bytes = written.size_bytes()
            written.take_name(replace=options.replace)
        with working_for(*config.places):
            not_recorded = asyncio.run(_record(config, vault, options, keys, manifest))
    return Created(manifest, size_bytes, keys.lock, _can_open(keys), not_recorded)


def _refuse_unsafe(config: Config, options: CreateOptions) -> None:
    if options.unencrypted and not options.without_keys and not options.storage_key_in_clear:
        message = (
            "an unencrypted backup would hold the storage key in clear, which opens every API key in it: "
            "encrypt it, give --without-keys, or say --storage-key-in-clear; nothing was written"
        )
        raise StartError(message)
    own = [*place_of(config).files, config.storage_key, *(config.keys_dir / name for name in KEY_NAMES)]
    refuse_target(options.file, own, replace=options.replace)
    if options.scratch is not None and not options.scratch.is_dir():
        message = f"there is no folder {options.scratch}"
        raise StartError(message)


def _secrets(config: Config) -> dict[str, bytes]:
    """Return the keys by name in the archive. The storage key may be outside the keys folder."""
    with working_for(config.storage_key):
        found = {STORAGE_KEY_NAME: read_plain(config.storage_key, MOST_KEY_BYTES)}
    paths = {name: config.keys_dir / name for name in KEY_NAMES if name != STORAGE_KEY_NAME}
    return found | {name: read_plain(path, MOST_KEY_BYTES) for name, path in paths.items() if path.exists()}


async def _described(config: Config, vault: Vault, copy: Path, secrets: Mapping[str, bytes]) -> Manifest:
    """Check the copy of the database and its audit, and return the manifest. Raises StartError for damage."""
    found, name = contents(copy), place_of(config).name
    if found.damage is not None:
        message = f"the database {name} is damaged ({found.damage}): no backup was written"
        raise StartError(message)
    if found.storage_key != vault.fingerprint:
        message = f"the store {name} was replaced meanwhile by one with another storage key; try again"
        raise StartError(message)
    heads, wrong = await audited(copy, vault) if found.schema >= CHAIN_SCHEMA else ({}, [])
    manifest = Manifest(
        format=FORMAT,
        made_at=utc_now(),
        made_by=f"ecss-console {__version__}",
        node=config.node.name,
        schema=found.schema,
        storage_key=vault.fingerprint,
        counts=found.counts,
        heads=heads,
        findings=tuple(wrong),
        files={**key_files(secrets), DATABASE_NAME: fingerprint(copy)},
    )
    return replace(manifest, mac=vault.backup_mac(manifest.signed_part()))


async def audited(copy: Path, vault: Vault) -> tuple[dict[str, str], list[str]]:
    """Return the audit heads of a database copy by node, and the faults in its audit."""
    store = Store(await SqliteEngine.open(copy), vault)
    try:
        inspection = await inspect(store, None, Turns().of("backup"), lambda _done, _total: None)
        heads = {each.node: str(each.head) for each in (await outline(store)).heads}
        return heads, findings(inspection)
    finally:
        await store.close()


def _write(config: Config, options: CreateOptions, keys: Keys, vault: Vault, file: IO[bytes]) -> Manifest:
    """Copy the store, write the copy into the file, sync the file and read it back."""
    secrets = {} if options.without_keys else _secrets(config)
    place = place_of(config)
    with place.scratch(options.scratch) as folder:
        copy = folder / DATABASE_NAME
        with copying(folder.parent):
            place.copy_to(copy)
        manifest = asyncio.run(_described(config, vault, copy, secrets))
        with writing(options.file):
            hashing = _Hashing(file)
            encrypt(lambda stream: pack(stream, manifest, secrets, copy), hashing, keys)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # the next read must come from the disk
            with copying(folder.parent):
                _read_back(file, hashing.digest.digest(), keys, manifest, folder)
    return manifest


class _Hashing:
    """A file that hashes the bytes written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _read_back(file: IO[bytes], digest: bytes, keys: Keys, manifest: Manifest, scratch: Path) -> None:
    """Check the bytes on the disk. If the keys can open the archive, check its content too."""
    file.seek(0)
    same = hashlib.file_digest(file, "sha256").digest() == digest  # type: ignore[arg-type]
    if not same:
        message = "the backup does not read back as it was written: try another disk"
        raise StartError(message)
    if not _can_open(keys):
        return
    file.seek(0)
    folder = scratch / "read-back"
    folder.mkdir(mode=0o700)

    def read(stream: IO[bytes]) -> Unpacked:
        return unpack(stream, folder)

    if decrypt(read, file, keys.lock, keys).manifest != manifest:
        message = "the backup does not read back as it was written"
        raise StartError(message)


def _can_open(keys: Keys) -> bool:
    """Tell whether keys that encrypt a backup can also decrypt it."""
    return keys.lock is not Lock.RECIPIENT or bool(keys.identities)


async def _record(config: Config, vault: Vault, options: CreateOptions, keys: Keys, manifest: Manifest) -> str:
    """Record the backup in the audit.

    Return an error text, or an empty one, because a read-only store is allowed.
    """
    if manifest.schema != newest():
        return f"the store has schema {manifest.schema}, this program writes {newest()}"
    facts = {
        "file": str(options.file.absolute()),
        "lock": keys.lock.value,
        "keys": not options.without_keys,
        "head": manifest.heads.get(config.node.name, ""),
    }
    try:
        async with place_of(config).opened(vault) as store, store.transaction() as query:
            await record_host_command(query, config.node.name, "backup", facts, EventKind.BACKUP_MADE)
    except (OperatorError, StartError) as error:
        return str(error)
    return ""
