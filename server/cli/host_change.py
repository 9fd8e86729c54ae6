"""Changes by subcommands on the console's host, with their audit records."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from server.audit.host_commands import record_host_command
from server.cli.output import complain
from server.cluster.confirming import unconfirmed
from server.interrupts import ignore_interrupts
from server.model.events import EventKind
from server.storage.store import Store
from server.storage.uncut import CommittedError
from server.storage.writer import Query


@dataclass(frozen=True, slots=True)
class HostChange:
    """The `services.change.Actor` of a subcommand. `command` is its name in the audit, such as `user add`."""

    store: Store
    node: str
    command: str
    kind: EventKind = EventKind.USER_CHANGE

    def will(self, change: str, /) -> None:
        """Do nothing: a subcommand has no `--check`, and its record has the facts."""

    @asynccontextmanager
    async def change(self) -> AsyncIterator[Query]:
        """Open a transaction and give its `query`.

        Ctrl-C rolls back inside the block, and is ignored after it. Otherwise Ctrl-C during the commit would print that
        nothing was changed. Waits for the nodes that serve the store, and names those that have not applied the change.
        """
        number = 0
        try:
            async with self.store.transaction() as query:
                yield query
                ignore_interrupts()
            number = query.change_number
        except CommittedError:  # Ctrl-C came just before the commit; the change is made, so go on
            task = asyncio.current_task()
            while task is not None and task.cancelling():
                task.uncancel()
        late = await unconfirmed(self.store, number)
        if late is None:
            complain("the change is stored; the database does not tell whether all nodes have applied it")
        elif late:
            complain(f"the change is stored; not confirmed yet by {', '.join(late)}")

    async def record(self, query: Query, facts: Mapping[str, object]) -> None:
        """Write the audit record."""
        await record_host_command(query, self.node, self.command, facts, self.kind)
