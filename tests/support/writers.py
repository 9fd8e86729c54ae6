"""Writers of a store, what they saw, and what the store has of it.

Every change adds a domain, adds 1 to a number that all writers share, and records itself. So a lost change, a lost
update, a doubled record and a wrong answer can all be told apart.

As a program: `python writers.py URL PASSWORD_FILE STORAGE_KEY NODE WRITERS SECONDS` prints what its writers saw.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from engines import schema_oid, vault_of

from server.audit.verify import findings, inspect
from server.config.postgresql_url import parse_postgresql_url
from server.cooperative import Turns
from server.errors import TemporaryError
from server.model.events import Event, EventKind
from server.storage import domains
from server.storage.postgresql.connection import Address
from server.storage.postgresql.engine import PostgresqlEngine
from server.storage.store import Store

_NOW = "2026-11-29T10:00:00.000+00:00"
_NUMBER = "number of the tests"
_READ = "SELECT value FROM store WHERE name = ?"
_SET = "UPDATE store SET value = ? WHERE name = ?"
_INSERT = "INSERT INTO store (name, value) VALUES (?, '0') ON CONFLICT DO NOTHING"


@dataclass
class Seen:
    """What the writers of one process saw. `gap_seconds` is the longest time without an acknowledged change."""

    acknowledged: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    gap_seconds: float = 0.0
    longest_seconds: float = 0.0


@dataclass(frozen=True)
class Found:
    """What the store has. All but the first two are faults, whatever has failed."""

    unknown_and_stored: int
    unknown_and_not: int
    lost: tuple[str, ...]
    doubled: tuple[str, ...]
    refused_but_stored: tuple[str, ...]
    lost_updates: int
    findings: tuple[str, ...]

    def faults(self) -> list[object]:
        """Return every fault."""
        found = [*self.lost, *self.doubled, *self.refused_but_stored, *self.findings]
        return [*found, *([f"{self.lost_updates} updates lost"] if self.lost_updates else [])]


class Writers:
    """Writers of one store. `stop` lets them finish their present change."""

    def __init__(self, store: Store, node: str = "ds1@ecss1") -> None:
        """Take an open store, and the name of the node, which begins the names of the domains."""
        self.seen = Seen()
        self._store = store
        self._node = node
        self._ends = False
        self._last_seconds = 0.0
        self._writing: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        """Make the shared number."""
        async with self._store.transaction() as query:
            await query(_INSERT, _NUMBER)

    async def change(self, name: str) -> None:
        """Change the store once. Raises its errors."""
        async with self._store.transaction() as query:
            await domains.insert(query, name, _NOW)
            ((value,),) = await query(_READ, _NUMBER)
            await query(_SET, str(int(value) + 1), _NUMBER)
            query.audit.add(Event(EventKind.CHANGE, _NOW, self._node, "admin", "tests", "1", detail=name))

    async def try_change(self, name: str) -> None:
        """Change the store once, and note what came of it."""
        loop, seen = asyncio.get_running_loop(), self.seen
        began = loop.time()
        self._last_seconds = self._last_seconds or began
        try:
            await self.change(name)
        except TemporaryError as error:
            (seen.unknown if "not known" in error.message else seen.refused).append(name)
            seen.texts.append(error.message)
        else:
            seen.acknowledged.append(name)
            seen.gap_seconds = max(seen.gap_seconds, loop.time() - self._last_seconds)
            self._last_seconds = loop.time()
        seen.longest_seconds = max(seen.longest_seconds, loop.time() - began)

    def start(self, count: int) -> None:
        """Start writers that change the store without a pause."""
        self._writing = [asyncio.create_task(self._write(f"{self._node[:3]}-{number}")) for number in range(count)]

    async def stop(self) -> Seen:
        """Let all writers end, and return what they saw. Raises an error that is not temporary."""
        self._ends = True
        await asyncio.gather(*self._writing)
        return self.seen

    async def more(self, count: int = 1) -> None:
        """Wait until so many more changes are acknowledged."""
        wanted = len(self.seen.acknowledged) + count
        await until(lambda: len(self.seen.acknowledged) >= wanted or any(each.done() for each in self._writing))

    async def _write(self, name: str) -> None:
        number = 0
        while not self._ends:
            await self.try_change(f"{name}-{number}")
            number += 1


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until a condition holds. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  nothing tells of it
            await asyncio.sleep(0.01)


async def found(store: Store, seen: Sequence[Seen]) -> Found:
    """Compare a store with what the writers of all processes saw."""
    stored = {name for (name,) in await store.read("SELECT name FROM domains")}
    records = Counter(name for (name,) in await store.read("SELECT detail FROM audit WHERE source = 'tests'"))
    ((number,),) = await store.read(_READ, _NUMBER)
    unknown = {name for each in seen for name in each.unknown}
    acknowledged = {name for each in seen for name in each.acknowledged}
    refused = {name for each in seen for name in each.refused}
    inspection = await inspect(store, None, Turns().of("tests"), lambda _done, _total: None)
    return Found(
        len(unknown & stored),
        len(unknown - stored),
        tuple(sorted(acknowledged - (stored & records.keys()))),
        tuple(sorted(name for name, count in records.items() if count > 1)),
        tuple(sorted(refused & (stored | records.keys()))),
        len(stored) - int(number),
        tuple(findings(inspection)),
    )


@asynccontextmanager
async def opened_store(url: str, password_file: Path, key: Path) -> AsyncIterator[Store]:
    """Open a store that is there."""
    address = Address(parse_postgresql_url(url), password_file)
    engine = PostgresqlEngine(address, await schema_oid(address))
    store = Store(engine, vault_of(key))
    try:
        yield store
    finally:
        await store.close()


async def _main(url: str, password_file: str, key: str, node: str, writers: str, seconds: str) -> None:
    async with opened_store(url, Path(password_file), Path(key)) as store:
        own = Writers(store, node)
        await own.begin()
        own.start(int(writers))
        await asyncio.sleep(float(seconds))
        sys.stdout.write(json.dumps(asdict(await own.stop())))


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
