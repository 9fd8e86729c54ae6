"""`ecss-console restore`: a store put back from a backup, whole or not at all, or only looked at."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from server.config import Config
from server.errors import StartError
from server.model.events import EventKind
from server.program.answer import complain, record, say
from server.program.backup import audited, described
from server.program.ending import go_through
from server.program.passphrase import known_passphrase
from server.storage.archive import Unpacked, damaged, unpack
from server.storage.database import Store
from server.storage.encryption import Keys, Lock, decrypt, lock_of
from server.storage.files import (
    STORAGE_KEY_NAME,
    locked_folder,
    parse_storage_key,
    read_storage_key,
    store_errors,
)
from server.storage.restoring import alone, finish, free_aside, make_ready, put_in_place
from server.storage.schema import newest, upgrade
from server.storage.serving import serving
from server.storage.snapshot import contents, scratch_folder
from server.storage.vault import Vault
from server.transport.hostkey import HOST_KEY_NAME, fingerprint_in

_CHAIN_SCHEMA = 3


@dataclass(frozen=True)
class _Checked:
    """A backup in which nothing is wrong; `vault` is None where no storage key is at hand."""

    unpacked: Unpacked
    vault: Vault | None


def restore(config: Config, options: argparse.Namespace) -> None:
    """Put the store back, or with `--verify-only` say what is in the file; raises StartError and changes nothing."""
    with store_errors():
        keys = _keys(options)
        if options.verify_only:
            with tempfile.TemporaryDirectory(prefix="ecss-console-") as name:
                checked = _checked(config, options.file, keys, Path(name))
            say("\n".join(_told(checked)))
            if checked.vault is None and config.storage_key.exists():
                raise StartError(_no_key(config))
            return
        with serving(config.database), locked_folder(config.keys_dir), alone(config.database):
            finish(config.database, config.keys_dir)
            _refuse_if_there(config, options)
            with scratch_folder(config.database) as folder:
                checked = _checked(config, options.file, keys, folder)
                host_key = _host_key_changed(config, checked.unpacked)
                moved = _put_back(config, options, checked, folder)
    if host_key:
        complain(f"the host key {host_key}: clients that have learnt that one will warn")
    kept = [f"The old one is kept as {path}." for path in moved]
    done = "Restored. Start the server; sessions and changes from after the backup are not in it."
    say("\n".join([*_told(checked), *kept, done]))


def _keys(options: argparse.Namespace) -> Keys:
    lock = lock_of(options.file)
    if lock is Lock.PASSPHRASE:
        return Keys(passphrase=known_passphrase(options.passphrase_file))
    if lock is Lock.RECIPIENT and not options.identity:
        message = f"{options.file} is {lock.value}: give --identity FILE"
        raise StartError(message)
    return Keys(identities=options.identity)


def _refuse_if_there(config: Config, options: argparse.Namespace) -> None:
    if config.database.exists() and not options.force:
        message = (
            f"there is a store already, {config.database}: give --force to move it aside, where it is kept; "
            "nothing was changed"
        )
        raise StartError(message)


def _host_key_changed(config: Config, unpacked: Unpacked) -> str:
    """Return `is … now, it was …` when the backup has another host key than is in place: it was rotated since."""
    place, restored = config.keys_dir / HOST_KEY_NAME, unpacked.keys.get(HOST_KEY_NAME)
    if restored is None or not place.exists() or place.read_bytes() == restored:
        return ""
    return f"is {fingerprint_in(restored)} now, it was {fingerprint_in(place.read_bytes())}"


def _checked(config: Config, file: Path, keys: Keys, folder: Path) -> _Checked:
    """Open the backup into a folder and check everything that can be checked; raises StartError."""

    def read(stream: IO[bytes]) -> Unpacked:
        return unpack(stream, folder)

    with file.open("rb") as source:
        unpacked = decrypt(read, source, lock_of(file), keys)
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
    if vault is not None and manifest.schema >= _CHAIN_SCHEMA:
        heads, wrong = asyncio.run(audited(unpacked.database, vault))
        if heads != manifest.heads or tuple(wrong) != manifest.findings:
            raise damaged("\n".join(["its audit is not as it was when the backup was made:", *wrong]))
    return _Checked(unpacked, vault)


def _vault(config: Config, unpacked: Unpacked) -> Vault | None:
    """Return the vault of the backup's storage key: its own, else the one in place when it fits, else None."""
    manifest = unpacked.manifest
    own = unpacked.keys.get(STORAGE_KEY_NAME)
    if own is not None:
        raw = parse_storage_key(own, f"{STORAGE_KEY_NAME} in the backup")
    elif config.storage_key.exists():
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


def _put_back(config: Config, options: argparse.Namespace, checked: _Checked, folder: Path) -> list[Path]:
    """Take the step, with the record of the restore in the new store; return where the old files are."""
    unpacked, vault = checked.unpacked, checked.vault
    if vault is None:
        raise StartError(_no_key(config))
    keys = dict(unpacked.keys)
    if STORAGE_KEY_NAME in keys and config.storage_key != config.keys_dir / STORAGE_KEY_NAME:
        _refuse_foreign_place(config, vault)
        del keys[STORAGE_KEY_NAME]
    _refuse_other_key(config, options, vault)
    if unpacked.manifest.schema < newest():
        upgrade(unpacked.database, vault)
    asyncio.run(_record(config, options, unpacked, vault))
    ready = folder / "ready"
    ready.mkdir(mode=0o700)
    aside = free_aside(config.database, config.keys_dir, f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    make_ready(ready, unpacked.database, keys, aside, owner=config.database.parent)
    go_through()
    return put_in_place(ready, config.database, config.keys_dir)


def _no_key(config: Config) -> str:
    state = "another one is" if config.storage_key.exists() else "none is"
    return (
        f"the backup is without keys and needs its own storage key at {config.storage_key}, where {state}; "
        "nothing was changed"
    )


def _refuse_foreign_place(config: Config, vault: Vault) -> None:
    """The storage key in a place of its own belongs to whoever put it there, and is not written."""
    place = config.storage_key
    if place.exists() and Vault(read_storage_key(place)).fingerprint == vault.fingerprint:
        return
    state = "is another one" if place.exists() else "is not there"
    message = (
        f"the storage key {place} lies outside of the keys folder and {state}: put the backup's own key there first "
        "(docs/backup.md says how to take it out of the file); nothing was changed"
    )
    raise StartError(message)


def _refuse_other_key(config: Config, options: argparse.Namespace, vault: Vault) -> None:
    place = config.storage_key
    if options.force or not place.exists() or Vault(read_storage_key(place)).fingerprint == vault.fingerprint:
        return
    message = (
        f"there is another storage key already, {place}: give --force to move it aside, where it is kept; "
        "nothing was changed"
    )
    raise StartError(message)


async def _record(config: Config, options: argparse.Namespace, unpacked: Unpacked, vault: Vault) -> None:
    manifest = unpacked.manifest
    given = {
        "file": str(options.file.absolute()),
        "made_at": manifest.made_at,
        "schema": manifest.schema,
        "heads": dict(manifest.heads),
    }
    store = await Store.open(unpacked.database, vault)
    try:
        async with store.transaction() as query:
            await record(query, config, "restore", given, EventKind.BACKUP_RESTORED)
    finally:
        await store.close()


def _told(checked: _Checked) -> list[str]:
    """Return what was found in a backup, a line each; complain of what could not be checked or was wrong."""
    manifest = checked.unpacked.manifest
    lines = ["The backup is whole:", *described(manifest)]
    if checked.vault is None:
        complain("its storage key is not at hand: who made the backup, and its audit, were not checked")
    elif manifest.schema < _CHAIN_SCHEMA:
        lines.append(f"its storage key fits; schema {manifest.schema} has no chain to verify")
    else:
        lines.append("its storage key fits; its audit is as it was when the backup was made")
    for finding in manifest.findings:
        complain(f"the audit was not as it was written when the backup was made: {finding}")
    return lines
