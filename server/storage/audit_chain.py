"""Append records to the audit's chains: one append-only chain per node.

New records follow the head that the transaction finds, and the head moves with them. A head that the console did not
write is never extended. The next record then restarts the chain, and `audit verify` reports the restart for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby

from server.model.events import Event
from server.storage.chain import ANEW, COLUMNS, FIRST, NODE, NODES, Head, Sealer
from server.storage.engine import Read, Value
from server.storage.heads import Outline, read_outline

#: Runs one statement for every row of values.
RunMany = Callable[[str, Sequence[Sequence[Value]]], Awaitable[None]]

#: Rows written per hop to the store's thread.
_ROWS_AT_ONCE = 256
_INSERT_COLUMNS = (*COLUMNS, "seq", "mac")
_INSERT = f"INSERT INTO audit ({', '.join(_INSERT_COLUMNS)}) VALUES ({', '.join('?' * len(_INSERT_COLUMNS))})"
_MOVE_HEAD = """
UPDATE audit_heads SET seq = ?, mac = ?, signature = ?
WHERE node = ? AND seq = ? AND mac = ? AND signature = ? RETURNING seq
"""
_SET_HEAD = """
INSERT INTO audit_heads (seq, mac, signature, node) VALUES (?, ?, ?, ?)
ON CONFLICT (node) DO UPDATE SET seq = excluded.seq, mac = excluded.mac, signature = excluded.signature
"""
_SET_STORE = """
INSERT INTO store (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""
#: The upper bound skips a `seq` that was replaced by text, because SQLite sorts text above all numbers.
_NEWEST = "SELECT seq FROM audit WHERE node = ? AND seq <= ? ORDER BY seq DESC LIMIT 1"
_LARGEST_SEQ = 2**63 - 1
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_Signed = tuple[Head, str]
_Columns = tuple[Value, ...]

_log = logging.getLogger("ecss-console.audit")


class AuditChain:
    """The records that wait for the commit of their group, and the heads of their chains.

    `_heads` are the heads as this process last saw them, signed for the list of nodes. Another program may have moved
    them since. `_committed` are the newest heads that are known to be stored. A store with an older head has lost
    records.
    """

    def __init__(self, sealer: Sealer) -> None:
        """Take the sealer that computes macs and signatures."""
        self._sealer = sealer
        self._records: list[_Columns] = []
        self._heads: dict[str, _Signed] = {}
        self._nodes: tuple[str, ...] = ()
        self._committed: dict[str, Head] = {}

    @property
    def waiting(self) -> int:
        """The number of records that wait for the commit."""
        return len(self._records)

    def add(self, *events: Event) -> None:
        """Queue events, in order, for the commit of the group."""
        self._records += [_columns(event) for event in events]

    def drop_after(self, count: int) -> None:
        """Drop all waiting records after the first `count`, because their change is rolled back."""
        del self._records[count:]

    async def write(self, query: Read, run_many: RunMany) -> None:
        """Write the waiting records, last before the commit, and move each node's head once."""
        records, self._records = self._records, []
        for node, of_node in groupby(records, key=lambda columns: str(columns[NODE])):
            await self._append_records(query, run_many, node, list(of_node))

    def committed(self) -> None:
        """Note that the written heads are stored."""
        self._committed.update({node: head for node, (head, _) in self._heads.items()})

    def rolled_back(self) -> None:
        """Drop the waiting records, and the heads that may stand for records that were rolled back."""
        self._records.clear()
        self._heads.clear()

    async def _append_records(self, query: Read, run_many: RunMany, node: str, records: Sequence[_Columns]) -> None:
        """Move the head and add the records.

        For one event this takes two hops to the store's thread, unless another program has moved the head.
        """
        known = self._heads.get(node)
        if known is not None:
            rows, moved = self._seal(node, known[0].mac.encode(), known[0].seq, records)
            if not await query(_MOVE_HEAD, *_head_values(moved), node, *_head_values(known)):
                known = None
        if known is None:
            previous, seq = await self._end_of_chain(query, node)
            rows, moved = self._seal(node, previous, seq, records)
            await query(_SET_HEAD, *_head_values(moved), node)
        if len(rows) == 1:
            await query(_INSERT, *rows[0])
        else:
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                await run_many(_INSERT, rows[start : start + _ROWS_AT_ONCE])
        self._heads[node] = moved

    async def _end_of_chain(self, query: Read, node: str) -> tuple[bytes, int]:
        """Return the mac that the next record follows and the last number used; add the node to the list."""
        outline = await read_outline(query, self._sealer)
        newest = max((int(seq) for (seq,) in await query(_NEWEST, node, _LARGEST_SEQ)), default=None)
        known = self._committed.get(node)
        kept = next((each for each in outline.heads if each.node == node), None)
        is_new = kept is None and newest is None and known is None and node not in outline.nodes
        self._nodes = await self._add_to_list(query, outline, node)
        if is_new:
            return FIRST, 0
        head = kept.head if kept is not None and kept.signed else None
        if head is not None and head.seq >= (newest or 0) and not _is_behind(head, known):
            return head.mac.encode(), head.seq
        was = "set back" if head is not None and _is_behind(head, known) else "changed or removed"
        _log.error("the audit's head of %s was %s: ecss-console audit verify tells more", node, was)
        return ANEW, max(newest or 0, head.seq if head else 0, known.seq if known else 0)

    async def _add_to_list(self, query: Read, outline: Outline, node: str) -> tuple[str, ...]:
        """Return the list of nodes with this node added. When the list grows, sign it and the heads again.

        A head that the console did not write stays as it is, so that verify finds it.
        """
        nodes = tuple(sorted({*outline.nodes, node}))
        if not outline.listed:
            _log.error("the audit's list of nodes was changed or removed: ecss-console audit verify tells more")
        elif nodes == outline.nodes:
            return nodes
        for each in outline.heads:
            if each.signed:
                signature = self._sealer.signature(each.node, each.head, nodes)
                await query("UPDATE audit_heads SET signature = ? WHERE node = ?", signature, each.node)
        await query(_SET_STORE, NODES, self._sealer.listed(nodes))
        return nodes

    def _seal(
        self, node: str, previous: bytes, seq: int, records: Sequence[_Columns]
    ) -> tuple[list[_Columns], _Signed]:
        """Return the records as rows with numbers and macs, and the new head with its signature."""
        rows: list[_Columns] = []
        for columns in records:
            seq += 1
            previous = self._sealer.mac(previous, seq, [str(value).encode() for value in columns])
            rows.append((*columns, seq, previous.decode()))
        head = Head(seq, previous.decode())
        return rows, (head, self._sealer.signature(node, head, self._nodes))


def _is_behind(head: Head, known: Head | None) -> bool:
    """Tell whether a head, although signed, is older than one that this process has committed."""
    return known is not None and head != known and head.seq <= known.seq


def _head_values(signed: _Signed) -> tuple[int, str, str]:
    head, signature = signed
    return head.seq, head.mac, signature


def _columns(event: Event) -> _Columns:
    """Return the columns of an event.

    Characters that no engine stores, as in a name that is not UTF-8, and NUL are replaced. Otherwise they would block
    all other records.
    """
    columns = (
        event.at,
        event.node,
        event.kind.value,
        event.user_name,
        event.source,
        event.session_id,
        event.command,
        event.arguments,
        event.status,
        event.detail,
        event.duration_ms,
    )
    return tuple(
        each.encode(errors="replace").decode().replace("\0", _REPLACEMENT) if isinstance(each, str) else each
        for each in columns
    )
