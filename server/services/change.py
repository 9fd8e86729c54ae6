"""What a use case needs of its caller: a transaction, and a place for its audit record."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from server.storage.store import Store
from server.storage.writer import Query


class Actor(Protocol):
    """The origin of a change: an operator's command, or a subcommand on the console's host."""

    @property
    def store(self) -> Store:
        """The store, for reading."""

    def will(self, change: str, /) -> None:
        """Describe the change that follows, for `--check` and for the record of a command."""

    def change(self) -> AbstractAsyncContextManager[Query]:
        """Give the `query` of one transaction; it commits with the audit record, or not at all."""

    async def record(self, query: Query, facts: Mapping[str, object]) -> None:
        """Record the facts of the change in its transaction. A command's record has its arguments instead."""
