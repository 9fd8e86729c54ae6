"""Record a subcommand in the audit of a copy, before the copy becomes a store. Blocking callers run it in a loop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from server.audit.host_commands import record_host_command
from server.model.events import EventKind
from server.storage.sqlite.engine import SqliteEngine
from server.storage.store import Store
from server.storage.vault import Vault


async def record_in_copy(
    copy: Path, vault: Vault, node: str, subcommand: str, facts: Mapping[str, object], kind: EventKind
) -> None:
    """Add a record to a copy of the newest schema that no other program has open."""
    store = Store(await SqliteEngine.open(copy), vault)
    try:
        async with store.transaction() as query:
            await record_host_command(query, node, subcommand, facts, kind)
    finally:
        await store.close()
