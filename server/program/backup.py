"""`ecss-console backup`: one file of the whole store, made while the server serves."""

from __future__ import annotations

import argparse
import asyncio
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

from server import __version__
from server.audit.journal import utc_now
from server.audit.verify import findings, inspect
from server.config import Config
from server.errors import OperatorError, StartError
from server.model.events import EventKind
from server.program.answer import complain, record, say
from server.program.ending import go_through
from server.program.passphrase import new_passphrase
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
from server.storage.database import Store
from server.storage.encryption import Keys, Lock, check_recipients, decrypt, encrypt
from server.storage.events import outline
from server.storage.files import STORAGE_KEY_NAME, check, finish_restore, read_storage_key, store_errors
from server.storage.schema import newest
from server.storage.snapshot import contents, copying, scratch_folder, snapshot, sync_folder
from server.storage.vault import Vault
from server.turns import Turns

_CHAIN_SCHEMA = 3
#: What a file system says that has no hard links, as that of a memory stick.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


def backup(config: Config, options: argparse.Namespace) -> None:
    """Write the store, with its keys unless told otherwise, into a file; raises StartError and leaves no half of one.

    What was written is read back and checked before it gets its name.
    """
    with _writing(options.file):
        _refuse_unsafe(config, options)
    with store_errors():
        finish_restore(config.database, config.keys_dir)
        vault = _vault(config)
        check(config.database, vault)
        keys = _keys_to_lock_with(options)
        secrets = {} if options.without_keys else _secrets(config)
        with scratch_folder(config.database, options.scratch) as folder:
            copy = folder / DATABASE_NAME
            with copying(folder.parent):
                snapshot(config.database, copy)
            manifest = asyncio.run(_described(config, vault, copy, secrets))
            _write(options, keys, manifest, secrets, copy)
        recorded = asyncio.run(_record(config, vault, options, keys, manifest))
    _tell(options, keys, manifest, recorded)


def _refuse_unsafe(config: Config, options: argparse.Namespace) -> None:
    target: Path = options.file
    if options.unencrypted and not options.without_keys and not options.storage_key_in_clear:
        message = (
            "an unencrypted backup would hold the storage key in clear, which opens every API key in it: "
            "encrypt it, give --without-keys, or say --storage-key-in-clear; nothing was written"
        )
        raise StartError(message)
    if target.is_symlink() or (target.exists() and (not options.force or not target.is_file())):
        how = "give --force to replace it" if target.is_file() and not target.is_symlink() else "it is no plain file"
        message = f"{target} is there already: {how}; nothing was written"
        raise StartError(message)
    for folder in (target.parent, options.scratch or target.parent):
        if not folder.is_dir():
            message = f"there is no folder {folder}"
            raise StartError(message)
    own = [config.database, config.storage_key, *(config.keys_dir / name for name in KEY_NAMES)]
    if target.exists() and any(path.exists() and target.samefile(path) for path in own):
        message = f"{target} belongs to the store that is to be backed up; nothing was written"
        raise StartError(message)


def _keys_to_lock_with(options: argparse.Namespace) -> Keys:
    if options.unencrypted:
        return Keys()
    if options.recipient:
        check_recipients(options.recipient)
        return Keys(recipients=options.recipient, identities=options.identity)
    return Keys(passphrase=new_passphrase(options.passphrase_file))


def _vault(config: Config) -> Vault:
    if not config.storage_key.exists() or not config.database.exists():
        absent = config.database if config.storage_key.exists() else config.storage_key
        message = f"there is no whole store to back up: {absent} is not there"
        raise StartError(message)
    return Vault(read_storage_key(config.storage_key))


def _secrets(config: Config) -> dict[str, bytes]:
    """Return the keys by their names in the archive; the storage key may lie outside of the keys folder."""
    paths = {name: config.keys_dir / name for name in KEY_NAMES} | {STORAGE_KEY_NAME: config.storage_key}
    return {name: path.read_bytes() for name, path in paths.items() if path.exists()}


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
    store = await Store.open(copy, vault)
    try:
        inspection = await inspect(store, None, Turns().of("backup"), lambda _done, _total: None)
        heads = {each.node: str(each.head) for each in (await outline(store)).heads}
        return heads, findings(inspection)
    finally:
        await store.close()


def _write(
    options: argparse.Namespace, keys: Keys, manifest: Manifest, secrets: Mapping[str, bytes], copy: Path
) -> None:
    """Write aside, sync, read back, and only then give the file its name."""
    target: Path = options.file
    with _writing(target):
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
        partial = Path(name)
        try:
            with os.fdopen(descriptor, "w+b") as file:
                hashing = _Hashing(file)
                encrypt(lambda stream: pack(stream, manifest, secrets, copy), hashing, keys)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # so that it is read from the disk
                with copying(copy.parent.parent):
                    _read_back(file, hashing.digest.digest(), keys, manifest, copy.parent)
            go_through()
            _name(partial, target, replace=options.force)
            sync_folder(target.parent)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Tell of a file that cannot be written as what it is, and not as a store that cannot be opened."""
    try:
        yield
    except OSError as error:
        message = f"the backup cannot be written to {target}: {error.strerror}"
        raise StartError(message) from error


def _name(partial: Path, target: Path, *, replace: bool) -> None:
    """Give a finished file its name; raises OSError where somebody else has made one of this name meanwhile."""
    if not replace:
        try:
            os.link(partial, target)
        except OSError as error:
            if error.errno not in _NO_LINKS or target.exists():
                raise
        else:
            partial.unlink()
            return
    partial.rename(target)


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
        store = await Store.open(config.database, vault, checkpoints=False)  # a server may have it open
        try:
            async with store.transaction() as query:
                await record(query, config, "backup", given, EventKind.BACKUP_MADE)
        finally:
            await store.close()
    except OperatorError as error:
        return error.message
    return None


def _tell(options: argparse.Namespace, keys: Keys, manifest: Manifest, not_recorded: str | None) -> None:
    say(f"Backup {options.file}: {keys.lock.value}, {options.file.stat().st_size:,} bytes.")
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
    for finding in manifest.findings:
        complain(f"the audit of the store is not as it was written: {finding}")


def described(manifest: Manifest) -> list[str]:
    """Return what a backup holds, a line each."""
    shown = {name: manifest.counts.get(name, 0) for name in ("domains", "integrations", "users", "audit")}
    keys = [name.rpartition("/")[2] for name in manifest.files if name != DATABASE_NAME]
    return [
        f"made at {manifest.made_at} on {manifest.node} by {manifest.made_by}, schema {manifest.schema}",
        ", ".join(f"{count:,} {name if name != 'audit' else 'audit records'}" for name, count in shown.items()),
        f"keys: {', '.join(keys) or 'none'}",
        *(f"audit head of {node}: {head}" for node, head in sorted(manifest.heads.items())),
    ]
