"""The heads of the audit's chains, and the list of the nodes that have one.

The list is signed, and every head is signed for the list of its time. So whoever takes a node out of the store with all
its records must take it out of the list, to whose former state the heads of the other nodes do not fit any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server.storage.chain import BEGINNING, NODES, Beginning, Head, Sealer
from server.storage.engine import Read
from server.storage.schema_numbers import NODE_LIST_SCHEMA

#: One statement, so that all of it is of one moment. Read as bytes: what somebody has changed need be no text any more.
_FOUND = """
SELECT 0, coalesce(max(id), 0), (SELECT AS_BYTES(value) FROM store WHERE name = ?),
    (SELECT AS_BYTES(value) FROM store WHERE name = ?), (SELECT AS_BYTES(value) FROM store WHERE name = ?)
FROM audit
UNION ALL SELECT 1, seq, AS_BYTES(node), AS_BYTES(mac), AS_BYTES(signature) FROM audit_heads
ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class KeptHead:
    """A head as it lies in the store; `signed` tells that the console wrote it."""

    node: str
    head: Head
    signed: bool


@dataclass(frozen=True, slots=True)
class Outline:
    """Where the chains begin and end. `beginning` is None unless the console signed it; `last_id` is the highest id.

    `nodes` are those that have ever recorded, sorted; where the list is not `listed` by the console, those with a head.
    """

    beginning: Beginning | None
    heads: tuple[KeptHead, ...]
    last_id: int
    nodes: tuple[str, ...] = ()
    listed: bool = True


@dataclass(frozen=True, slots=True)
class _Stored:
    node: str
    head: Head
    signature: str


async def found(read: Read, audit: Sealer) -> Outline:
    """Return where the chains begin and end, as `read` sees it."""
    ((_, last_id, mark, listed, number), *rows) = await read(_FOUND, BEGINNING, NODES, "schema")
    schema = _number(_text(number))
    stored = [
        _Stored(_text(node), Head(seq if isinstance(seq, int) else 0, _text(mac)), _text(signature))
        for _, seq, node, mac, signature in rows
    ]
    named = audit.nodes(_text(listed)) if schema >= NODE_LIST_SCHEMA else ()
    signed_for = _signed_for(audit, named, stored) if schema >= NODE_LIST_SCHEMA else ()
    heads = tuple(
        KeptHead(each.node, each.head, audit.signed(each.node, each.head, signed_for, each.signature))
        for each in stored
    )
    return Outline(audit.beginning(_text(mark)), heads, int(last_id), signed_for, named == signed_for)


def _signed_for(audit: Sealer, named: tuple[str, ...] | None, stored: Sequence[_Stored]) -> tuple[str, ...]:
    """Return the nodes that the heads are signed for: those of the list, else those that have one, if that fits."""
    present = tuple(sorted(each.node for each in stored))
    if named is None:
        return present
    fits = any(audit.signed(each.node, each.head, present, each.signature) for each in stored)
    fits_named = any(audit.signed(each.node, each.head, named, each.signature) for each in stored)
    return present if fits and not fits_named else named


def _text(value: bytes | str | None) -> str:
    return value if isinstance(value, str) else (value or b"").decode(errors="replace")


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() else 0
