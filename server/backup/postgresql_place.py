"""A store on PostgreSQL, as the source and the target of copies. Blocking.

Every method connects anew. What must not change in between is checked again with the last step.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from server.backup.place import refuse_if_there
from server.config import Config
from server.config.postgresql_url import PostgresqlUrl
from server.errors import StartError
from server.file_names import DATABASE_NAME
from server.storage.opening import address
from server.storage.postgresql import restoring, table_copy
from server.storage.postgresql.opening import Patience, opened, reached
from server.storage.postgresql.preparing import Place, check
from server.storage.sqlite.snapshot import scratch_folder
from server.storage.sqlite.table_copy import new_file, read_file
from server.storage.store import Store
from server.storage.vault import Vault


@dataclass(frozen=True, slots=True)
class PostgresqlPlace:
    """A `StorePlace`. Temporary files are in the keys folder, which is as secret as they are."""

    config: Config
    url: PostgresqlUrl

    @property
    def name(self) -> str:
        """The URL, without secrets."""
        return str(self.url)

    @property
    def files(self) -> tuple[Path, ...]:
        """The file with the password."""
        password = self.config.database_password
        return () if password is None else (password,)

    def check(self) -> Vault:
        """Finish a restore that was killed, check the store, and return its vault."""

        async def checked() -> Vault:
            async with self._connected() as connection:
                vault, _ = await check(connection, self._keys())
                return vault

        return asyncio.run(checked())

    def scratch(self, folder: Path | None = None) -> AbstractContextManager[Path]:
        """Give a temporary folder, by default in the keys folder."""
        return scratch_folder(self.config.keys_dir / DATABASE_NAME, folder)

    def copy_to(self, file: Path) -> None:
        """Write all committed data to a new file."""
        asyncio.run(self._copy(file, served=True))

    def move_to(self, file: Path) -> None:
        """Write all data to a new file, while no node can serve and no program can write."""
        asyncio.run(self._copy(file, served=False))

    @asynccontextmanager
    async def opened(self, vault: Vault) -> AsyncIterator[Store]:
        """Open the store beside running nodes."""
        async with opened(address(self.config, self.url), self._keys(), Patience(), make=False) as (engine, _):
            store = Store(engine, vault)
            try:
                yield store
            finally:
                await store.close()

    def storage_key_mark(self) -> str:
        """Return the fingerprint of the storage key in the store; empty if it cannot be read."""

        async def mark() -> str:
            async with self._connected() as connection:
                return await table_copy.storage_key_mark(connection)

        try:
            return asyncio.run(mark())
        except StartError:
            return ""

    @contextmanager
    def replacing(self, otherwise: str | None) -> Iterator[None]:
        """Finish a restore that was killed, and refuse early. `put` checks it again and keeps programs out."""

        async def refuse() -> None:
            async with self._connected() as connection:
                async with restoring.alone(connection, self.config.keys_dir, self.name):
                    await restoring.finish(connection, self.config.keys_dir)
                refuse_if_there(self.name, otherwise, there=await restoring.is_there(connection))
                async with connection.transaction():
                    await restoring.refuse_served(connection, self.name)

        asyncio.run(refuse())
        yield

    def put(self, file: Path, keys: Mapping[str, bytes], now: datetime, otherwise: str | None) -> list[str]:
        """Load the file into a schema of its own and rename the schemas; the former one gets a name of the time."""
        keys_dir = self.config.keys_dir

        async def replaced() -> restoring.Replaced:
            async with self._connected() as connection, restoring.alone(connection, keys_dir, self.name):
                with read_file(file) as source:
                    replacement = restoring.Replacement(source, keys, now, allowed=otherwise is None)
                    return await restoring.replace(connection, keys_dir, self.name, replacement)

        done = asyncio.run(replaced())
        kept = [str(path) for path in done.kept_keys]
        if done.kept_schema:
            kept.append(
                f"the schema {done.kept_schema} of {self.name}; DROP SCHEMA {done.kept_schema} CASCADE drops it"
            )
        return kept

    async def _copy(self, file: Path, *, served: bool) -> None:
        async with self._connected() as connection:
            number = await table_copy.begin_snapshot(connection, self.name, served=served)
            with new_file(file, number) as target:
                await table_copy.dump(connection, target)

    def _keys(self) -> Place:
        return Place(self.name, self.config.keys_dir, self.config.storage_key)

    def _connected(self) -> AbstractAsyncContextManager[Any]:
        # a copy may take longer than a change may pause
        settings = {"idle_in_transaction_session_timeout": "0"}
        return reached(address(self.config, self.url), Patience(), **settings)
