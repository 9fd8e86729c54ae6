"""A store in an SQLite file, as the source and the target of copies. Blocking."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from server.backup.place import refuse_if_there
from server.config import Config
from server.durable import locked_folder
from server.errors import StartError
from server.interrupts import ignore_interrupts
from server.storage.restored_keys import free_aside
from server.storage.sqlite.engine import SqliteEngine
from server.storage.sqlite.files import check, finish_restore
from server.storage.sqlite.restoring import alone, finish, make_ready, put_in_place
from server.storage.sqlite.serving import serving
from server.storage.sqlite.snapshot import scratch_folder, snapshot, storage_key_of
from server.storage.sqlite.table_copy import read_file
from server.storage.storage_key import read_storage_key, storage_key_there
from server.storage.store import Store
from server.storage.tables import refuse_difference
from server.storage.vault import Vault


@dataclass(frozen=True, slots=True)
class SqlitePlace:
    """A `StorePlace`."""

    config: Config

    @property
    def name(self) -> str:
        """The path of the file."""
        return str(self.config.database)

    @property
    def files(self) -> tuple[Path, ...]:
        """The file."""
        return (self.config.database,)

    def check(self) -> Vault:
        """Finish a restore that was killed, check the store, and return its vault."""
        config = self.config
        finish_restore(config.database, config.keys_dir)
        with_key = storage_key_there(config.storage_key)
        if not with_key or not config.database.exists():
            absent = config.database if with_key else config.storage_key
            message = f"there is no whole store to back up: {absent} is not there"
            raise StartError(message)
        vault = Vault(read_storage_key(config.storage_key))
        check(config.database, vault)
        return vault

    def scratch(self, folder: Path | None = None) -> AbstractContextManager[Path]:
        """Give a temporary folder, by default beside the file."""
        return scratch_folder(self.config.database, folder)

    def copy_to(self, file: Path) -> None:
        """Write all committed data to a new file."""
        snapshot(self.config.database, file)

    def move_to(self, file: Path) -> None:
        """Write all data to a new file and compare every row, while no program can write."""
        with serving(self.config.database), read_file(self.config.database, locked=True) as source:
            snapshot(self.config.database, file)
            with read_file(file) as target:
                for table in source.tables():
                    refuse_difference(table, source.total(table), target.total(table))

    @asynccontextmanager
    async def opened(self, vault: Vault) -> AsyncIterator[Store]:
        """Open the store beside a running server."""
        store = Store(await SqliteEngine.open(self.config.database, checkpoints=False), vault)
        try:
            yield store
        finally:
            await store.close()

    def storage_key_mark(self) -> str:
        """Return the fingerprint of the storage key in the file; empty if it cannot be read."""
        return storage_key_of(self.config.database)

    @contextmanager
    def replacing(self, otherwise: str | None) -> Iterator[None]:
        """Keep all other programs out of the file."""
        database, keys_dir = self.config.database, self.config.keys_dir
        with serving(database), locked_folder(keys_dir), alone(database):
            finish(database, keys_dir)
            refuse_if_there(self.name, otherwise, there=database.exists())
            yield

    def put(self, file: Path, keys: Mapping[str, bytes], now: datetime, otherwise: str | None) -> list[str]:
        """Rename the file and the keys into their places; the former files get names of the time `now`."""
        database, keys_dir = self.config.database, self.config.keys_dir
        refuse_if_there(self.name, otherwise, there=database.exists())
        ready = file.with_name("ready")
        ready.mkdir(mode=0o700)
        make_ready(ready, file, keys, free_aside(f"{now:%Y%m%dT%H%M%SZ}", database.parent, keys_dir))
        ignore_interrupts()
        return [str(path) for path in put_in_place(ready, database, keys_dir)]
