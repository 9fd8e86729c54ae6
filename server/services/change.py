"""The interface between a use case and its caller: a transaction and an audit record."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from server.storage.store import Store
from server.storage.writer import Query


class Actor(Protocol):
    """The origin of a change: an operator's command, or a subcommand on the console's host.

    Use cases call `will` before a change, then `change`, and `record` inside its transaction.
    """

    @property
    def store(self) -> Store:
        """The store, for reading."""

    def will(self, change: str, /) -> None:
        """Describe the next change, for `--check` and for the audit record of a command."""

    def change(self) -> AbstractAsyncContextManager[Query]:
        """Open a transaction and give its `query`. It commits together with the audit record, or not at all."""

    async def record(self, query: Query, facts: Mapping[str, object]) -> None:
        """Record the facts of the change in its transaction. A command records its arguments instead."""
