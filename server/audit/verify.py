"""`audit verify`: reads the whole audit in pages and inspects it; used by the console and by the command line."""

from __future__ import annotations

import re
from collections.abc import Callable

from server.audit.inspection import Exported, Inspection
from server.cooperative import Share
from server.storage import events
from server.storage.chain import Head
from server.storage.store import Store

#: A page takes about 2 ms of the loop.
_ROWS_PER_PAGE = 100
_LOWEST_ID = -(2**63)
_HEAD = re.compile(r"(?:(.+)=)?([1-9][0-9]{0,17}):([0-9a-f]{64})")


def parse_head(text: str) -> Exported:
    """Return the head that somebody exported, of the node before `=`; without one its node is empty, for this one.

    Raises ValueError with what would be right.
    """
    found = _HEAD.fullmatch(text)
    if found is None:
        message = "[NODE=]SEQ:MAC is expected, as audit verify prints it: a number and 64 of 0-9 a-f"
        raise ValueError(message)
    return Exported(found[1] or "", Head(int(found[2]), found[3]))


async def inspect(
    store: Store, exported: Exported | None, share: Share, show: Callable[[int, int], None]
) -> Inspection:
    """Inspect what is in the audit at this moment; `show` is told how many ids are done, and of how many.

    Reads beside those who write, a page at a time, and lets others run between pages.
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
    """Return what is wrong, a line each."""
    return [str(finding) for finding in inspection.findings]


def certificate(inspection: Inspection) -> list[str]:
    """Return what is right where nothing is wrong: a line for each node with its head, and what is not covered."""
    lines = [
        f"{chain.node}: {chain.end.seq} records are whole, head {chain.end}"
        for _, chain in sorted(inspection.chains.items())
    ]
    if inspection.uncovered:
        lines.append(f"{inspection.uncovered} records from before the chain are not covered")
    return lines or ["there is no record yet"]
