"""`ecss-console backup`: one file of the whole store, made while the server serves."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO

from server import __version__
from server.audit.journal import utc_now
from server.audit.verify import findings, inspect
from server.config import Config
from server.cooperative import Turns
from server.errors import OperatorError, StartError
from server.model.events import EventKind
from server.model.lines import few_lines, one_line
from server.plain_files import MOST_KEY_BYTES, read_plain
from server.program.answer import complain, record, say
from server.program.ending import go_through
from server.program.passphrase import new_passphrase
from server.program.target import refuse_target, target, writing
from server.storage.archive import (
    DATABASE_NAME,
    FORMAT,
    KEY_NAMES,
    Manifest,
    Unpacked,
    fingerprint,
    key_files,
    pack,
    unpack,
)
from server.storage.encryption import Keys, Lock, check_recipients, decrypt, encrypt, identities_of
from server.storage.events import outline
from server.storage.owner import working_for
from server.storage.sqlite.engine import SqliteEngine
from server.storage.sqlite.files import check, finish_restore, store_errors
from server.storage.sqlite.schema import newest
from server.storage.sqlite.snapshot import contents, copying, scratch_folder, snapshot
from server.storage.storage_key import STORAGE_KEY_NAME, read_storage_key, storage_key_there
from server.storage.store import Store
from server.storage.vault import Vault

_CHAIN_SCHEMA = 3


def backup(config: Config, options: argparse.Namespace) -> None:
    """Write the store, with its keys unless told otherwise, into a file; raises StartError and leaves no half of one.

    What was written is read back and checked before it gets its name. What the caller names is opened as the caller,
    the store as its owner.
    """
    _refuse_unsafe(config, options)
    newest()  # read while root may read all of the program; the store's owner need not
    with store_errors():
        with working_for(*config.places):
            finish_restore(config.database, config.keys_dir)
            vault = _vault(config)
            check(config.database, vault)
        keys = _keys_to_lock_with(options)
        with target(options.file) as written:
            with working_for(*config.places):
                manifest = _write(config, options, keys, vault, written.file)
            go_through()
            size_bytes = written.size_bytes()
            written.take_name(replace=options.force)
        with working_for(*config.places):
            recorded = asyncio.run(_record(config, vault, options, keys, manifest))
    _tell(options, keys, manifest, size_bytes, recorded)


def _refuse_unsafe(config: Config, options: argparse.Namespace) -> None:
    if options.unencrypted and not options.without_keys and not options.storage_key_in_clear:
        message = (
            "an unencrypted backup would hold the storage key in clear, which opens every API key in it: "
            "encrypt it, give --without-keys, or say --storage-key-in-clear; nothing was written"
        )
        raise StartError(message)
    own = [config.database, config.storage_key, *(config.keys_dir / name for name in KEY_NAMES)]
    refuse_target(options.file, own, replace=options.force)
    if options.scratch is not None and not options.scratch.is_dir():
        message = f"there is no folder {options.scratch}"
        raise StartError(message)


def _keys_to_lock_with(options: argparse.Namespace) -> Keys:
    if options.unencrypted:
        return Keys()
    if options.recipient:
        check_recipients(options.recipient)
        return Keys(recipients=options.recipient, identities=identities_of(options.identity))
    return Keys(passphrase=new_passphrase(options.passphrase_file))


def _vault(config: Config) -> Vault:
    with_key = storage_key_there(config.storage_key)
    if not with_key or not config.database.exists():
        absent = config.database if with_key else config.storage_key
        message = f"there is no whole store to back up: {absent} is not there"
        raise StartError(message)
    return Vault(read_storage_key(config.storage_key))


def _secrets(config: Config) -> dict[str, bytes]:
    """Return the keys by their names in the archive; the storage key may lie outside of the keys folder."""
    with working_for(config.storage_key):
        found = {STORAGE_KEY_NAME: read_plain(config.storage_key, MOST_KEY_BYTES)}
    paths = {name: config.keys_dir / name for name in KEY_NAMES if name != STORAGE_KEY_NAME}
    return found | {name: read_plain(path, MOST_KEY_BYTES) for name, path in paths.items() if path.exists()}


async def _described(config: Config, vault: Vault, copy: Path, secrets: Mapping[str, bytes]) -> Manifest:
    """Check the copy and return what is in it, its audit verified; raises StartError for a damaged one."""
    found = contents(copy)
    if found.damage is not None:
        message = f"the database {config.database} is damaged ({found.damage}): no backup was written"
        raise StartError(message)
    if found.storage_key != vault.fingerprint:
        message = f"the store {config.database} was replaced meanwhile by one with another storage key; try again"
        raise StartError(message)
    heads, wrong = await audited(copy, vault) if found.schema >= _CHAIN_SCHEMA else ({}, [])
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
    """Return the heads of a copy's audit by node, and what is wrong with it."""
    store = Store(await SqliteEngine.open(copy), vault)
    try:
        inspection = await inspect(store, None, Turns().of("backup"), lambda _done, _total: None)
        heads = {each.node: str(each.head) for each in (await outline(store)).heads}
        return heads, findings(inspection)
    finally:
        await store.close()


def _write(config: Config, options: argparse.Namespace, keys: Keys, vault: Vault, file: IO[bytes]) -> Manifest:
    """Copy the store, write the copy into a file, sync that and read it back; return what is in it."""
    secrets = {} if options.without_keys else _secrets(config)
    with scratch_folder(config.database, options.scratch) as folder:
        copy = folder / DATABASE_NAME
        with copying(folder.parent):
            snapshot(config.database, copy)
        manifest = asyncio.run(_described(config, vault, copy, secrets))
        with writing(options.file):
            hashing = _Hashing(file)
            encrypt(lambda stream: pack(stream, manifest, secrets, copy), hashing, keys)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # so that it is read from the disk
            with copying(folder.parent):
                _read_back(file, hashing.digest.digest(), keys, manifest, folder)
    return manifest


class _Hashing:
    """A file that hashes what is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _read_back(file: IO[bytes], digest: bytes, keys: Keys, manifest: Manifest, scratch: Path) -> None:
    """Check what lies on the disk: the bytes, and the whole archive where it can be opened again."""
    file.seek(0)
    same = hashlib.file_digest(file, "sha256").digest() == digest  # type: ignore[arg-type]
    if not same:
        message = "the backup does not read back as it was written: try another disk"
        raise StartError(message)
    if not can_open(keys):
        return
    file.seek(0)
    folder = scratch / "read-back"
    folder.mkdir(mode=0o700)

    def read(stream: IO[bytes]) -> Unpacked:
        return unpack(stream, folder)

    if decrypt(read, file, keys.lock, keys).manifest != manifest:
        message = "the backup does not read back as it was written"
        raise StartError(message)


def can_open(keys: Keys) -> bool:
    """Tell whether what is locked with these can be opened with them."""
    return keys.lock is not Lock.RECIPIENT or bool(keys.identities)


async def _record(
    config: Config, vault: Vault, options: argparse.Namespace, keys: Keys, manifest: Manifest
) -> str | None:
    """Record the backup in the store; return why not where that fails: a backup of a store that is read-only counts."""
    if manifest.schema != newest():
        return f"the store has schema {manifest.schema}, this program writes {newest()}"
    given = {
        "file": str(options.file.absolute()),
        "lock": keys.lock.value,
        "keys": not options.without_keys,
        "head": manifest.heads.get(config.node.name, ""),
    }
    try:
        store = Store(await SqliteEngine.open(config.database, checkpoints=False), vault)  # a server may have it open
        try:
            async with store.transaction() as query:
                await record(query, config, "backup", given, EventKind.BACKUP_MADE)
        finally:
            await store.close()
    except OperatorError as error:
        return error.message
    return None


def _tell(
    options: argparse.Namespace, keys: Keys, manifest: Manifest, size_bytes: int, not_recorded: str | None
) -> None:
    say(f"Backup {options.file}: {keys.lock.value}, {size_bytes:,} bytes.")
    for line in described(manifest):
        say(line)
    if can_open(keys):
        say("Verified: the file was read back, opened and compared.")
    else:
        say(
            "Verified before it was encrypted; the bytes on the disk are those. Only an identity opens it: try one with"
        )
        say(f"  ecss-console restore {options.file} --verify-only --identity FILE")
    if options.without_keys:
        say(f"Without keys: {options.file} is worth nothing without the storage key, {STORAGE_KEY_NAME}.")
    if not_recorded is not None:
        complain(f"the backup is not in the audit: {not_recorded}")
    for finding in few_lines([*manifest.findings]):
        complain(f"the audit of the store is not as it was written: {finding}")


def described(manifest: Manifest) -> list[str]:
    """Return what a backup says that it holds, a line each: whatever stands there makes no line of its own."""
    shown = {name: manifest.counts.get(name, 0) for name in ("domains", "integrations", "users", "audit")}
    keys = [name.rpartition("/")[2] for name in manifest.files if name != DATABASE_NAME]
    made_at, node, made_by = map(one_line, (manifest.made_at, manifest.node, manifest.made_by))
    return [
        f"made at {made_at} on {node} by {made_by}, schema {manifest.schema}",
        ", ".join(f"{count:,} {name if name != 'audit' else 'audit records'}" for name, count in shown.items()),
        f"keys: {', '.join(keys) or 'none'}",
        *few_lines([f"audit head of {node}: {head}" for node, head in sorted(manifest.heads.items())]),
    ]
