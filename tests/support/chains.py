"""Stores with an audit chain, tampering with them, and the findings of the check."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from server.audit.inspection import Exported, Inspection
from server.audit.verify import findings, inspect
from server.cooperative import Turns
from server.model.events import Event, EventKind
from server.storage import chain
from server.storage.chain import Head
from server.storage.sqlite.engine import SqliteEngine
from server.storage.sqlite.files import Prepared, prepare
from server.storage.store import Store

NODE = "ds1@ecss1"
COLUMNS = (*chain.COLUMNS, "seq", "mac")


def event(number: int, node: str = NODE) -> Event:
    """Return an event that differs from all others."""
    kinds = list(EventKind)
    return Event(
        kind=kinds[number % len(kinds)],
        at=f"2026-11-23T10:{number // 60 % 60:02}:{number % 60:02}.{number % 1000:03}+00:00",
        node=node,
        user_name="admin",
        source=f"127.0.0.1:{40000 + number}",
        session_id=f"{number:08x}",
        command="/domain/declare",
        arguments=f'{{"domain": "домен{number}.local"}}',
        status=number % 3,
        detail=f"declare domain d{number}",
        duration_ms=number,
    )


@dataclass(frozen=True)
class Attacked:
    """A store with an attacker who can write to the database but has no storage key."""

    prepared: Prepared

    @classmethod
    def make(cls, folder: Path) -> Attacked:
        """Make an empty store."""
        return cls(prepare(folder / "var" / "console.db", folder / "keys"))

    async def opened(self) -> Store:
        """Open the store as the console does."""
        return Store(await SqliteEngine.open(self.prepared.database), self.prepared.vault)

    def write(self, new: Iterable[Event]) -> None:
        """Record events as the console does, in one batch."""

        async def recorded() -> None:
            store = await self.opened()
            async with store.transaction() as query:
                query.audit.add(*new)
            await store.close()

        asyncio.run(recorded())

    def sql(self, *statements: str | tuple[str, Sequence[object]]) -> list[tuple[object, ...]]:
        """Run statements behind the console's back, without triggers and index; return the rows of the last."""
        database = sqlite3.connect(self.prepared.database, isolation_level=None)
        for kind, name in (("TRIGGER", "audit_is_not_changed"), ("TRIGGER", "audit_is_not_deleted")):
            database.execute(f"DROP {kind} IF EXISTS {name}")
        database.execute("DROP INDEX IF EXISTS audit_of_node")
        rows: list[tuple[object, ...]] = []
        for statement in statements:
            text, values = (statement, ()) if isinstance(statement, str) else statement
            rows = database.execute(text, values).fetchall()
        database.close()
        return rows

    def head(self, node: str = NODE) -> Head:
        """Return the head that `audit verify` prints."""
        ((seq, mac),) = self.sql(("SELECT seq, mac FROM audit_heads WHERE node = ?", [node]))
        return Head(int(str(seq)), str(mac))

    def inspected(self, exported: Head | None = None) -> Inspection:
        """Check the store as `audit verify` does."""

        async def checked() -> Inspection:
            store = await self.opened()
            wanted = Exported(NODE, exported) if exported else None
            inspection = await inspect(store, wanted, Turns().of("chains"), lambda _done, _total: None)
            await store.close()
            return inspection

        return asyncio.run(checked())

    def found(self, exported: Head | None = None) -> list[str]:
        """Return the findings in words."""
        return findings(self.inspected(exported))
