"""A change that a subcommand makes on the console's host, with its audit record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from server.audit.host_commands import record_host_command
from server.interrupts import ignore_interrupts
from server.model.events import EventKind
from server.storage.store import Store
from server.storage.uncut import CommittedError
from server.storage.writer import Query


@dataclass(frozen=True, slots=True)
class HostChange:
    """The `services.change.Actor` of a subcommand; `command` is its name in the audit, such as `user add`."""

    store: Store
    node: str
    command: str
    kind: EventKind = EventKind.USER_CHANGE

    def will(self, change: str, /) -> None:
        """Do nothing: the record has the facts, and a subcommand has no `--check`."""

    @asynccontextmanager
    async def change(self) -> AsyncIterator[Query]:
        """Give the `query` of the transaction: Ctrl-C rolls back inside the block and is ignored after it.

        A subcommand that was interrupted during the commit would say that nothing was changed.
        """
        try:
            async with self.store.transaction() as query:
                yield query
                ignore_interrupts()
        except CommittedError:  # Ctrl-C came just before the commit, which is done: go on
            task = asyncio.current_task()
            while task is not None and task.cancelling():
                task.uncancel()

    async def record(self, query: Query, facts: Mapping[str, object]) -> None:
        """Write the audit record."""
        await record_host_command(query, self.node, self.command, facts, self.kind)
