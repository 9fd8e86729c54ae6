"""The open store: reads of committed data, changes through one writer, and the feed of changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager

from server.errors import TemporaryError
from server.node import metrics
from server.node.measures import Durations
from server.node.metrics import Reading
from server.storage.audit_chain import AuditChain
from server.storage.engine import Engine, Row, Value
from server.storage.feed import ChangeFeed
from server.storage.proof import ALWAYS, CacheProof
from server.storage.temporary import Failures
from server.storage.turn import Rank
from server.storage.uncut import uncut
from server.storage.vault import Vault
from server.storage.writer import Query, Writer

#: How long a change waits for its turn and for other programs before it is refused as temporary.
PATIENCE_SECONDS = 5.0
#: The pause before the next look for other programs' commits when one look has failed.
_RETRY_SECONDS = 1.0

_log = logging.getLogger("ecss-console.storage")


class Store:
    """Reads and changes of one open store. `close` it, or its engine may keep the process alive.

    `feed` announces every commit of users, grants, domains, integrations and nodes. `engine` is for what only one kind
    of engine has, such as the leases of nodes.
    """

    def __init__(self, engine: Engine, vault: Vault) -> None:
        """Take an open engine with no other user, and the vault that seals API keys and audit records."""
        self.engine = engine
        self._failures = Failures(engine.reason)
        self.feed = ChangeFeed()
        self.proof: CacheProof = ALWAYS  # a node among nodes replaces it at each beat
        self._writer = Writer(engine, AuditChain(vault.audit), self._failures, self.feed)
        self.vault = vault
        self._reads = Durations()

    async def close(self) -> None:
        """Wait for running operations and close the engine; safe to call twice."""
        await uncut(self._writer.close())

    async def watch(self) -> None:
        """Announce the commits of other programs, for ever."""
        while True:
            try:
                with self._failures.raised_as_temporary():
                    changed = await self.engine.changed_elsewhere()
            except TemporaryError as error:
                _log.warning("changes of other programs cannot be seen: %s", error.message)
                await asyncio.sleep(_RETRY_SECONDS)
            except Exception:  # noqa: BLE001  whatever it is, the next look must come
                _log.exception("changes of other programs cannot be seen")
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                self.feed.announce(changed)

    def caches_proven(self) -> bool:
        """Whether `feed` has announced all changes; if not, a cache must not be used."""
        return self.proof.holds()

    async def read(self, sql: str, *values: Value) -> list[Row]:
        """Run one SELECT over committed data. Raises TemporaryError while the store is busy or unavailable."""
        with self._failures.raised_as_temporary(), self._reads.timed():
            return await self.engine.read(sql, *values)

    def readings(self) -> Iterator[Reading]:
        """Yield the latencies of the store and its size."""
        writer = self._writer
        timed = [(("read",), self._reads), (("change",), writer.changes), (("commit",), writer.commits)]
        yield Reading(metrics.STORE_SECONDS, timed)
        database, log = self.sizes_bytes()
        yield Reading(metrics.STORE_BYTES, [(("database",), database), (("wal",), log)])

    def sizes_bytes(self) -> tuple[int, int]:
        """Return the size of the database, and of the log with the newest commits."""
        return self.engine.sizes_bytes()

    async def schema(self) -> str:
        """Return the number of the schema. A result also proves that the store answers."""
        ((number,),) = await self.read("SELECT value FROM store WHERE name = 'schema'")
        return str(number)

    def transaction(
        self, patience_seconds: float = PATIENCE_SECONDS, rank: Rank = Rank.ORDINARY
    ) -> AbstractAsyncContextManager[Query]:
        """Give a `query` for one change. An error in the block undoes all of the change.

        `rank` decides which of several waiting changes goes first.

        Raises TemporaryError when the store is unavailable, or busy for longer than `patience_seconds`. Then nothing is
        changed.
        """
        return self._writer.transaction(patience_seconds, rank)


async def first_and_last(
    store: Store, names: str, values: tuple[Value, ...], column: str, beginning: str, most: int
) -> list[str]:
    """Return the first `most` names whose `column` has this beginning, sorted by it, and the last name.

    `names` is the start of a SELECT, as in `name FROM users WHERE 1 = 1`. The first and the last name share the prefix
    of all names between them, so Tab needs only these.
    """
    select = f"SELECT {names} AND {column} >= ? AND {column} < ? ORDER BY {column}"
    bounds = (*values, beginning, beginning + "\U0010ffff")
    found = [name for (name,) in await store.read(f"{select} LIMIT ?", *bounds, most)]
    if len(found) == most:
        ((last,),) = await store.read(f"{select} DESC LIMIT 1", *bounds)
        found += [last] if last != found[-1] else []
    return found
