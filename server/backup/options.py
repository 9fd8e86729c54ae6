"""The options of `backup`, `restore` and `migrate-store`, as typed values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CreateOptions:
    """Options of `backup`.

    `passphrase_file` may be `-` for standard input. `identities` are key files that open the new backup to verify it.
    `replace` allows overwriting `file`. `scratch` is the folder for the temporary copy of the database.
    """

    file: Path
    passphrase_file: str | None = None
    recipients: tuple[str, ...] = ()
    unencrypted: bool = False
    identities: tuple[Path, ...] = ()
    without_keys: bool = False
    storage_key_in_clear: bool = False
    replace: bool = False
    scratch: Path | None = None


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """Options of `restore`.

    `foreign` accepts a backup of another console. `replace` moves the present store aside and keeps it there.
    """

    file: Path
    passphrase_file: str | None = None
    identities: tuple[Path, ...] = ()
    verify_only: bool = False
    foreign: bool = False
    replace: bool = False


@dataclass(frozen=True, slots=True)
class MigrateOptions:
    """Options of `migrate-store`: the URLs of two stores, as in `storage.url`."""

    source: str
    target: str
