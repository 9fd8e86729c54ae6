"""`audit verify`: read the whole audit in pages and inspect it, for the console and the command line."""

from __future__ import annotations

import re
from collections.abc import Callable

from server.audit.inspection import Exported, Inspection
from server.cooperative import Share
from server.storage import events
from server.storage.chain import Head
from server.storage.store import Store

#: A page takes about 2 ms of the event loop.
_ROWS_PER_PAGE = 100
_LOWEST_ID = -(2**63)
_HEAD = re.compile(r"(?:(.+)=)?([1-9][0-9]{0,17}):([0-9a-f]{64})")


def parse_head(text: str) -> Exported:
    """Parse an exported head, `[NODE=]SEQ:MAC`.

    Without `NODE=` its node is empty and means the node that is asked. Raises ValueError with the right form.
    """
    found = _HEAD.fullmatch(text)
    if found is None:
        message = "[NODE=]SEQ:MAC is expected, as audit verify prints it: a number and 64 of 0-9 a-f"
        raise ValueError(message)
    return Exported(found[1] or "", Head(int(found[2]), found[3]))


async def inspect(
    store: Store, exported: Exported | None, share: Share, show: Callable[[int, int], None]
) -> Inspection:
    """Inspect the audit as it is now; call `show` with the done and the total number of ids.

    Reads a page at a time beside all writers, and yields to other work between pages.
    """
    outline = await events.outline(store)
    inspection = Inspection(store.vault.audit, outline, exported)
    first_id = _LOWEST_ID
    while not inspection.full:
        async with share.read():
            page = await events.kept(store, first_id, outline.last_id, _ROWS_PER_PAGE)
            inspection.feed(page)
        if not page:
            break
        first_id = page[-1].id + 1
        show(first_id - 1, outline.last_id)
    inspection.finish()
    return inspection


def findings(inspection: Inspection) -> list[str]:
    """Return one line for each finding."""
    return [str(finding) for finding in inspection.findings]


def certificate(inspection: Inspection) -> list[str]:
    """Return the lines of a sound audit: every node with its head, and the records that are not covered."""
    lines = [
        f"{chain.node}: {chain.end.seq} records are whole, head {chain.end}"
        for _, chain in sorted(inspection.chains.items())
    ]
    if inspection.uncovered:
        lines.append(f"{inspection.uncovered} records from before the chain are not covered")
    return lines or ["there is no record yet"]
