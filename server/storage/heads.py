"""The heads of the audit's chains, and the list of the nodes that have one.

The list is signed, and every head is signed together with the list of its time. To hide a node, an attacker must
restore an older list, but the heads of the other nodes do not fit the older list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server.storage.chain import BEGINNING, NODES, Beginning, Head, Sealer
from server.storage.engine import Read
from server.storage.schema_numbers import NODE_LIST_SCHEMA

#: One statement, so that all values are of one moment. They are read as bytes, because changed values need not be text.
_SELECT = """
SELECT 0, coalesce(max(id), 0), (SELECT AS_BYTES(value) FROM store WHERE name = ?),
    (SELECT AS_BYTES(value) FROM store WHERE name = ?), (SELECT AS_BYTES(value) FROM store WHERE name = ?)
FROM audit
UNION ALL SELECT 1, seq, AS_BYTES(node), AS_BYTES(mac), AS_BYTES(signature) FROM audit_heads
ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class KeptHead:
    """A head as it is stored; `signed` means that the console wrote it."""

    node: str
    head: Head
    signed: bool


@dataclass(frozen=True, slots=True)
class Outline:
    """The start and end of every chain. `beginning` is None unless the console signed it.

    `last_id` is the highest id. `nodes` are all nodes that have ever recorded, sorted. Without a list that the console
    signed (`listed`), they are the nodes with a head.
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


async def read_outline(read: Read, audit: Sealer) -> Outline:
    """Return the start and end of every chain, as `read` sees them."""
    ((_, last_id, mark, listed, number), *rows) = await read(_SELECT, BEGINNING, NODES, "schema")
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
    """Return the nodes that the heads are signed for: the listed ones, else all with a head if that fits."""
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
