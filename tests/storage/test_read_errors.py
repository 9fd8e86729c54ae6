"""Subcommands whose store is replaced after it was checked."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from console import ConsoleServer

from server.config import load_config
from server.errors import StartError
from server.storage import users
from server.storage.opening import open_store


async def test_a_store_that_is_replaced_while_a_subcommand_uses_it_is_an_error(
    stopped_console: ConsoleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user who can write in the store's folder could make `user list` of root end with a traceback."""
    monkeypatch.chdir(stopped_console.folder)
    config = load_config(None, stopped_console.environment())

    async def listed() -> None:
        async with open_store(config, make=False) as store:
            with closing(sqlite3.connect(config.database)) as other:
                other.execute("DROP TABLE grants")
            await users.every(store)

    with pytest.raises(StartError, match="the store cannot be used: no such table: grants"):
        await listed()
