"""Acknowledged changes of clients, and whether a store has them all."""

from __future__ import annotations

import random
import re
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

import asyncssh
from asyncssh import SSHClientConnection

from server.audit.verify import findings, inspect
from server.config import load_config
from server.cooperative import Turns
from server.storage import domains, integrations
from server.storage.opening import open_store
from server.storage.sqlite.engine import SqliteEngine
from server.storage.sqlite.files import prepare
from server.storage.store import Store

DOMAIN = "biysk.local"
_KEY = re.compile(r"API key: ([A-Za-z0-9]{64})")
_NUMBERS = ("2400", "2401,2402")


@dataclass(frozen=True)
class Standing:
    """An integration: its numbers and its key, None if no client has seen the key."""

    key: str | None
    numbers: str


@dataclass
class Change:
    """A change requested by a client: the state after it, None for a removal.

    `asked` and `told` are positions in time; `told` is infinite until a client sees the reply.
    """

    verb: str
    asked: float
    after: Standing | None
    told: float = inf


@dataclass
class Ledger:
    """The ordered changes of each client id. `now` returns a position in time."""

    now: Callable[[], float] = lambda: 0.0
    changes: dict[str, list[Change]] = field(default_factory=dict)
    refused: int = 0
    unsure: int = 0

    def standing(self, client_id: str) -> Standing | None:
        """Return the state that the client knows."""
        changes = self.changes.get(client_id)
        return changes[-1].after if changes else None

    def told(self) -> int:
        """Return the number of acknowledged changes."""
        return sum(change.told < inf for changes in self.changes.values() for change in changes)

    def settle(self, stored: dict[str, Standing]) -> None:
        """Accept the store's state as known: changes in progress at a kill are decided."""
        for client_id, changes in [*self.changes.items()]:
            if changes[-1].told < inf:
                continue
            under_way, found = changes.pop(), stored.get(client_id)
            before = changes[-1].after if changes else None
            if found != before:
                changes.append(Change(under_way.verb, under_way.asked, found, self.now()))
            elif under_way.after == before:  # done or not, it looks the same
                self.unsure += 1
            if not changes:
                del self.changes[client_id]

    def lost(self, stored: dict[str, Standing], position: float = inf) -> Iterator[str]:
        """Return the differences between the store and the changes acknowledged before this position."""
        for client_id in stored.keys() - self.changes.keys():
            yield f"{client_id} is there, nobody has added it"
        for client_id, changes in self.changes.items():
            told = [change for change in changes if change.told <= position and change.told < inf]
            begun = [change for change in changes[len(told) :] if change.asked < position]
            allowed = [told[-1].after if told else None, *(change.after for change in begun)]
            found = stored.get(client_id)
            if not any(_is(found, each) for each in allowed):
                yield f"{client_id} is {found}, its client was told {allowed}"

    def dead_keys(self, position: float = inf) -> set[str]:
        """Return the keys whose replacement or removal was acknowledged before this position."""
        dead: set[str] = set()
        for changes in self.changes.values():
            told = [change.after for change in changes if change.told <= position and change.told < inf]
            keys = [after.key if after else None for after in told]
            dead |= {key for key in keys[:-1] if key is not None and key != keys[-1]}
        return dead

    def counts(self, position: float = inf) -> tuple[int, int]:
        """Return the least and the greatest number of changes at this position."""
        every = [change for changes in self.changes.values() for change in changes]
        least = sum(change.told <= position and change.told < inf for change in every)
        begun = sum(change.asked < position and (change.told > position or change.told == inf) for change in every)
        return least, least + self.unsure + begun


def _is(found: Standing | None, wanted: Standing | None) -> bool:
    if found is None or wanted is None:
        return found is wanted
    return wanted.numbers == found.numbers and wanted.key in {None, found.key}


async def change_until_cut(connection: SSHClientConnection, ledger: Ledger, name: str, most: int = 10**9) -> None:
    """Add, replace, remove and set integrations one after another until the server is gone, or `most` times."""
    with suppress(asyncssh.Error, OSError):
        for _ in range(most):
            await _change_one(connection, ledger, f"{name}.{random.randrange(6)}")  # noqa: S311


async def _change_one(connection: SSHClientConnection, ledger: Ledger, client_id: str) -> None:
    before = ledger.standing(client_id)
    numbers = random.choice(_NUMBERS)  # noqa: S311
    after: Standing | None = Standing(None, numbers)
    words = f"{client_id} --service --numbers {numbers}"
    verb = "add" if before is None else random.choice(("replace", "replace", "remove", "set"))  # noqa: S311
    if before is not None and verb == "replace":
        words, after = client_id, Standing(None, before.numbers)
    elif before is not None and verb == "set":
        words, after = f"{client_id} --numbers {numbers}", Standing(before.key, numbers)
    elif verb == "remove":
        words, after = client_id, None
    change = Change(verb, ledger.now(), after)
    ledger.changes.setdefault(client_id, []).append(change)
    ran = await connection.run(f"domain/{DOMAIN}/integrations/{verb} {words}")
    text = str(ran.stdout)
    if "not known whether" in text:
        message = "unknown"
        raise ConnectionError(message)
    if "Command error: " in text:  # also where the connection ended before the exit status came
        assert ran.exit_status in {75, None}, text
        ledger.changes[client_id].pop()
        ledger.refused += 1
        if not ledger.changes[client_id]:
            del ledger.changes[client_id]
        return
    if found := _KEY.search(text):
        assert change.after is not None
        change.after = Standing(found[1], change.after.numbers)
    if not (found or "[exec at: " in text):
        message = "cut"
        raise ConnectionError(message)
    change.told = ledger.now()


def copied(folder: Path, to: Path) -> Path:
    """Copy a store without the shared memory, which SQLite makes again."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder / "var", to / "var", ignore=shutil.ignore_patterns("*-shm", "*.lock"))
    shutil.copytree(folder / "keys", to / "keys")
    return to


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Store]:
    """Open the store of a console's folder. Raises StartError when the console would refuse it."""
    if (configuration := folder / "config.yaml").exists():
        async with open_store(load_config(configuration, {}), make=False) as store:
            async with store.transaction():
                pass  # behind the commit of a killed console, which its database may still carry out
            yield store
        return
    prepared = prepare(folder / "var" / "console.db", folder / "keys", make=False)
    store = Store(await SqliteEngine.open(prepared.database), prepared.vault)
    try:
        yield store
    finally:
        await store.close()


async def complaints(folder: Path, ledger: Ledger, position: float = inf) -> tuple[list[str], dict[str, Standing]]:
    """Open a store and return its faults and its integrations."""
    async with opened(folder) as store:
        wrong, stored = await _compared(store, ledger, position)
    if (file := folder / "var" / "console.db").exists():
        with closing(sqlite3.connect(file)) as database:
            for pragma in ("integrity_check", "foreign_key_check"):
                wrong += [f"{pragma}: {row}" for row in database.execute(f"PRAGMA {pragma}") if row != ("ok",)]
    return wrong, stored


async def _compared(store: Store, ledger: Ledger, position: float) -> tuple[list[str], dict[str, Standing]]:
    keyed = await integrations.of_domain(store, DOMAIN, Turns().of("ledger"), lambda _done, _total: None) or []
    stored = {each.integration.client_id: Standing(each.key, ",".join(each.integration.numbers)) for each in keyed}
    wrong = list(ledger.lost(stored, position))
    wrong += findings(await inspect(store, None, Turns().of("ledger"), lambda _done, _total: None))
    hashes = {each.key: store.vault.lookup_hash(each.key) for each in keyed if each.key}
    dead = {store.vault.lookup_hash(key) for key in ledger.dead_keys(position)}
    if not await domains.exists(store.read, DOMAIN):
        wrong.append(f"{DOMAIN} is gone")
    found = {hashed for (hashed,) in await store.read("SELECT key_hash FROM integrations")}
    where = f"event = 'change' AND command LIKE '/domain/%/integrations/%' AND arguments LIKE '%\"{DOMAIN}\"%'"
    ((recorded,),) = await store.read(f"SELECT count(*) FROM audit WHERE {where}")
    wrong += ["a key that is not alive opens"] if found & dead or found != set(hashes.values()) else []
    least, most = ledger.counts(position)
    wrong += [] if least <= recorded <= most else [f"{recorded} changes recorded, {least} to {most} were made"]
    return wrong, stored
