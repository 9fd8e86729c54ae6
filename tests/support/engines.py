"""The engines for the tests of the store contract. Add another engine to `ENGINES`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from server.storage.engine import Engine
from server.storage.sqlite.engine import SqliteEngine
from server.storage.sqlite.files import prepare
from server.storage.vault import Vault

Opened = Callable[[Path], Awaitable[tuple[Engine, Vault]]]


async def _sqlite(folder: Path) -> tuple[Engine, Vault]:
    prepared = prepare(folder / "console.db", folder / "keys")
    return await SqliteEngine.open(prepared.database), prepared.vault


#: Each opens the store of a folder, and makes it first if missing. Another program may open it too.
ENGINES: dict[str, Opened] = {"sqlite": _sqlite}
