"""Kill a server at random moments, and compare its store with the acknowledged changes."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable

from console import ConsoleServer
from ledger import DOMAIN, Ledger, change_until_cut, complaints, copied
from postgresql import PostgresqlServer

_LOAD_SECONDS = 0.4
_START_SECONDS = 0.8
_CLIENTS = 8


def declare(console: ConsoleServer) -> None:
    """Declare the ledger's domain, then stop the server."""
    console.start()
    console.run(f"domain/declare {DOMAIN}")
    console.stop()


async def kill_under_load(console: ConsoleServer, ledger: Ledger, name: str) -> list[str]:
    """Start, let clients change things, kill, and return the faults of the store.

    The names of the clients' integrations begin with `name`.
    """
    await asyncio.to_thread(console.start)
    connections = [await console.connected() for _ in range(2)]
    work = [
        asyncio.create_task(change_until_cut(connections[number % 2], ledger, f"{name}.{number}"))
        for number in range(_CLIENTS)
    ]
    await asyncio.sleep(random.uniform(0, _LOAD_SECONDS))  # noqa: S311  a moment, not a secret
    await asyncio.to_thread(console.stop, signal.SIGKILL)
    await asyncio.gather(*work)
    return await _look(console, ledger)


async def kill_while_it_starts(console: ConsoleServer, ledger: Ledger, _name: str) -> list[str]:
    """Start, kill before or soon after it serves, and return the faults of the store."""
    console.launch()
    await asyncio.sleep(random.uniform(0, _START_SECONDS))  # noqa: S311
    await asyncio.to_thread(console.stop, signal.SIGKILL)
    return await _look(console, ledger)


async def kill_database_under_load(
    console: ConsoleServer, ledger: Ledger, name: str, database: PostgresqlServer
) -> list[str]:
    """Start, let clients change things, kill all of PostgreSQL and start it again, and return the faults."""
    await asyncio.to_thread(console.start)
    connections = [await console.connected() for _ in range(2)]
    work = [
        asyncio.create_task(change_until_cut(connections[number % 2], ledger, f"{name}.{number}"))
        for number in range(_CLIENTS)
    ]
    await asyncio.sleep(random.uniform(0, _LOAD_SECONDS))  # noqa: S311  a moment, not a secret
    await asyncio.to_thread(database.kill)
    await asyncio.to_thread(database.start)
    await asyncio.sleep(random.uniform(0, _LOAD_SECONDS))  # noqa: S311
    await asyncio.to_thread(console.stop, signal.SIGKILL)
    await asyncio.gather(*work)
    return await _look(console, ledger)


async def _look(console: ConsoleServer, ledger: Ledger) -> list[str]:
    """Compare the store with the clients' knowledge, and settle unacknowledged changes."""
    on_postgresql = (console.folder / "config.yaml").exists()
    folder = console.folder if on_postgresql else copied(console.folder, console.folder / "copy")
    wrong, stored = await complaints(folder, ledger)
    ledger.settle(stored)
    return wrong


async def kill_often(
    console: ConsoleServer,
    ledger: Ledger,
    kills: int,
    told: Callable[[str], None] = lambda _what: None,
    database: PostgresqlServer | None = None,
) -> list[str]:
    """Kill a server this many times, every tenth time during its start; return the losses. `told` gets each.

    With a `database`, PostgreSQL is killed instead every tenth time.
    """
    wrong: list[str] = []
    for number in range(kills):
        name = f"r{number}"
        if number % 10 == 9:
            told("kills while it starts")
            wrong += await kill_while_it_starts(console, ledger, name)
        elif number % 10 == 4 and database is not None:
            told("kills of PostgreSQL")
            wrong += await kill_database_under_load(console, ledger, name, database)
        else:
            told("kills under load")
            wrong += await kill_under_load(console, ledger, name)
    return wrong
