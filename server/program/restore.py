"""`ecss-console restore`: a store put back from a backup, whole or not at all, or only looked at."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from pathlib import Path
from typing import IO

from server.config import Config
from server.durable import locked_folder
from server.errors import StartError
from server.model.events import EventKind
from server.model.lines import few_lines
from server.plain_files import MOST_KEY_BYTES, read_plain
from server.program.answer import complain, record, say
from server.program.backup import audited, described
from server.program.ending import go_through
from server.program.passphrase import known_passphrase
from server.storage.archive import Manifest, Unpacked, damaged, unpack
from server.storage.encryption import Keys, Lock, decrypt, identities_of, lock_of, opened_backup
from server.storage.owner import working_for
from server.storage.sqlite.engine import SqliteEngine
from server.storage.sqlite.files import store_errors
from server.storage.sqlite.restoring import alone, finish, free_aside, make_ready, put_in_place
from server.storage.sqlite.schema import newest, upgrade
from server.storage.sqlite.serving import serving
from server.storage.sqlite.snapshot import contents, scratch_folder, storage_key_of
from server.storage.storage_key import STORAGE_KEY_NAME, parse_storage_key, read_storage_key, storage_key_there
from server.storage.store import Store
from server.storage.vault import Vault
from server.transport.hostkey import ECDSA_HOST_KEY_NAME, HOST_KEY_NAME, fingerprint_in

_CHAIN_SCHEMA = 3


class _Origin(Enum):
    """Whose backup it is, as its storage key tells."""

    OURS = "its storage key is that of this console"
    ANOTHER = "its storage key is not that of this console, but that of its database"
    UNKNOWN = "its storage key is that of its database"


@dataclass(frozen=True)
class _Checked:
    """A backup in which nothing is wrong; `vault` is None where no storage key is at hand."""

    unpacked: Unpacked
    vault: Vault | None
    origin: _Origin


def restore(config: Config, options: argparse.Namespace) -> None:
    """Put the store back, or with `--verify-only` say what is in the file; raises StartError and changes nothing.

    What the caller names is opened as the caller, the store as its owner.
    """
    newest()  # read while root may read all of the program; the store's owner need not
    with store_errors(), opened_backup(options.file) as file:
        lock = lock_of(file, options.file)
        keys = _keys(options, lock)
        if options.verify_only:
            _verify(config, options, partial(_checked, config, file, lock, keys))
            return
        with (
            working_for(*config.places),
            serving(config.database),
            locked_folder(config.keys_dir),
            alone(config.database),
        ):
            finish(config.database, config.keys_dir)
            _refuse_if_there(config, options)
            with scratch_folder(config.database) as folder:
                checked = _checked(config, file, lock, keys, folder)
                if not options.foreign:
                    _refuse_foreign(config, checked)
                changed = _host_keys_changed(config, checked.unpacked)
                moved = _put_back(config, checked, options.file.absolute(), folder)
    for each in changed:
        complain(f"{each}: clients that have learnt that one will warn")
    kept = [f"The old one is kept as {path}." for path in moved]
    done = "Restored. Start the server; sessions and changes from after the backup are not in it."
    say("\n".join([*_told(checked), *kept, done]))


def _verify(config: Config, options: argparse.Namespace, check: Callable[[Path], _Checked]) -> None:
    """Say what is in the file; raises StartError where a restore would refuse it."""
    with tempfile.TemporaryDirectory(prefix="ecss-console-") as name:
        checked = check(Path(name))
    say("\n".join(_told(checked)))
    if checked.vault is None and storage_key_there(config.storage_key):
        raise StartError(_no_key(config))
    if not options.foreign:
        _refuse_foreign(config, checked)


def _keys(options: argparse.Namespace, lock: Lock) -> Keys:
    if lock is Lock.PASSPHRASE:
        return Keys(passphrase=known_passphrase(options.passphrase_file))
    if lock is Lock.RECIPIENT and not options.identity:
        message = f"{options.file} is {lock.value}: give --identity FILE"
        raise StartError(message)
    return Keys(identities=identities_of(options.identity))


def _refuse_if_there(config: Config, options: argparse.Namespace) -> None:
    if config.database.exists() and not options.force:
        message = (
            f"there is a store already, {config.database}: give --force to move it aside, where it is kept; "
            "nothing was changed"
        )
        raise StartError(message)


def _host_keys_changed(config: Config, unpacked: Unpacked) -> list[str]:
    """Return `the host key is … now, it was …` for each that differs between the backup and the keys folder."""
    changed: list[str] = []
    for name, called in ((HOST_KEY_NAME, "the host key"), (ECDSA_HOST_KEY_NAME, "the ECDSA host key")):
        place, restored = config.keys_dir / name, unpacked.keys.get(name)
        if restored is None or not place.exists():
            continue
        try:
            before = read_plain(place, MOST_KEY_BYTES)
        except OSError:
            before = b""  # no key that can be read
        if before != restored:
            changed.append(f"{called} is {fingerprint_in(restored)} now, it was {fingerprint_in(before)}")
    return changed


def _checked(config: Config, file: IO[bytes], lock: Lock, keys: Keys, folder: Path) -> _Checked:
    """Open the backup into a folder and check everything that can be checked; raises StartError."""

    def read(stream: IO[bytes]) -> Unpacked:
        return unpack(stream, folder)

    unpacked = decrypt(read, file, lock, keys)
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
            raise damaged("\n".join(["its audit is not as it was when the backup was made:", *few_lines(wrong)]))
    return _Checked(unpacked, vault, _origin(config, manifest.storage_key))


def _vault(config: Config, unpacked: Unpacked) -> Vault | None:
    """Return the vault of the backup's storage key: its own, else the one in place when it fits, else None."""
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


def _origin(config: Config, storage_key: str) -> _Origin:
    """Tell whose backup it is by the storage key in place, or, where that is lost, by the database's mark of its key.

    A key that cannot be read is another one: nothing says that the backup is ours.
    """
    if storage_key_there(config.storage_key):
        try:
            ours = Vault(read_storage_key(config.storage_key)).fingerprint
        except (StartError, OSError):
            return _Origin.ANOTHER
    else:
        with working_for(*config.places):
            ours = storage_key_of(config.database)
    if not ours:
        return _Origin.UNKNOWN
    return _Origin.OURS if ours == storage_key else _Origin.ANOTHER


def _refuse_foreign(config: Config, checked: _Checked) -> None:
    if checked.vault is None or checked.origin is not _Origin.ANOTHER:
        return
    message = (
        f"the backup is of another console: its storage key is not that of this one ({config.storage_key}). Its users "
        "would log in here, and its API keys would replace those of this console. Give --foreign where that is meant; "
        "nothing was changed"
    )
    raise StartError(message)


def _put_back(config: Config, checked: _Checked, file: Path, folder: Path) -> list[Path]:
    """Take the step, with the record of the restore in the new store; return where the old files are."""
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
    ready = folder / "ready"
    ready.mkdir(mode=0o700)
    aside = free_aside(config.database, config.keys_dir, f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    make_ready(ready, unpacked.database, keys, aside)
    go_through()
    return put_in_place(ready, config.database, config.keys_dir)


def _no_key(config: Config) -> str:
    state = "another one is" if storage_key_there(config.storage_key) else "none is"
    return (
        f"the backup is without keys and needs its own storage key at {config.storage_key}, where {state}; "
        "nothing was changed"
    )


def _refuse_foreign_place(config: Config, vault: Vault) -> None:
    """The storage key in a place of its own belongs to whoever put it there, and is not written."""
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
    given = {
        "file": str(file),
        "made_at": manifest.made_at,
        "schema": manifest.schema,
        "heads": dict(manifest.heads),
    }
    store = Store(await SqliteEngine.open(database), vault)
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
        lines.append(f"{checked.origin.value}; schema {manifest.schema} has no chain to verify")
    else:
        lines.append(f"{checked.origin.value}; its audit is as it was when the backup was made")
    if checked.vault is not None and checked.origin is _Origin.UNKNOWN:
        complain("no storage key is in place, so nothing here can tell whose backup this is: compare the lines above")
    for finding in few_lines([*manifest.findings]):
        complain(f"the audit was not as it was written when the backup was made: {finding}")
    return lines
