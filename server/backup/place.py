"""A store as the source and the target of copies. Blocking.

A copy is always an SQLite file of the store's schema. So the rest of backup and restore is the same for every engine,
and a backup of one engine can be restored into another.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Protocol

from server.errors import StartError
from server.storage.store import Store
from server.storage.vault import Vault


class StorePlace(Protocol):
    """A store that may not exist yet. Methods raise StartError, OSError or the driver's errors: see `store_errors`."""

    @property
    def name(self) -> str:
        """The place for people, without secrets."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that a backup must not overwrite, besides the keys."""

    def check(self) -> Vault:
        """Finish a restore that was killed, check the store, and return its vault. It is not upgraded."""

    def scratch(self, folder: Path | None = None) -> AbstractContextManager[Path]:
        """Give a temporary folder for files as secret as the store; by default near it."""

    def copy_to(self, file: Path) -> None:
        """Write all committed data to a new file, while programs go on to use the store."""

    def move_to(self, file: Path) -> None:
        """Write all committed data to a new file and compare every row. Raises StartError while a server serves it."""

    def opened(self, vault: Vault) -> AbstractAsyncContextManager[Store]:
        """Open the store beside a running server."""

    def storage_key_mark(self) -> str:
        """Return the fingerprint of the storage key in the store; empty if it cannot be read."""

    def replacing(self, otherwise: str | None) -> AbstractContextManager[None]:
        """Keep servers out as far as possible, and finish a restore that was killed.

        `otherwise` says what to do when there is a store already, which is then refused; None allows it.
        """

    def put(self, file: Path, keys: Mapping[str, bytes], now: datetime, otherwise: str | None) -> list[str]:
        """Put a file of the newest schema in place of the store, and keys by name into their folder.

        Call it inside `replacing`, with the same `otherwise`. All of it happens or nothing. Former things are kept,
        under names of the time `now`: returns the names.
        """


def refuse_if_there(name: str, otherwise: str | None, *, there: bool) -> None:
    """Raise StartError when there is a store that may not be replaced."""
    if there and otherwise is not None:
        message = f"there is a store already, {name}: {otherwise}; nothing was changed"
        raise StartError(message)
