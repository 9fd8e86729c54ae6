"""The audit's rows: a chain per node that is only ever added to.

What is added goes behind the head as the transaction finds it; the head moves with it. A head that the console did not
write is not built upon: the record then begins the chain anew, which verify tells for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, cast

from server.cooperative import Share
from server.model.domains import folded
from server.model.events import Event
from server.storage.chain import ANEW, FIRST, NODES, Head
from server.storage.database import Store
from server.storage.heads import Outline, found
from server.storage.writer import Query, Row, Value

#: What a mac covers besides `seq`, in this order.
COLUMNS = (
    "at",
    "node",
    "event",
    "user_name",
    "source",
    "session_id",
    "command",
    "arguments",
    "status",
    "detail",
    "duration_ms",
)
#: Where the node stands among them.
NODE = COLUMNS.index("node")
#: Every column of a record, as lists and logs show it.
SHOWN = ("id", *COLUMNS, "seq", "mac")
_NUMBERS = {"status", "duration_ms"}
_ADDED = (*COLUMNS, "seq", "mac")
_ROW = f"({', '.join('?' * len(_ADDED))})"
_INSERT = f"INSERT INTO audit ({', '.join(_ADDED)}) VALUES "
#: One statement for many rows costs one hop to the store's thread. Each length is a statement of its own, which SQLite
#: keeps prepared with memory for all its rows: so there are few.
_ROWS_PER_STATEMENT = (256, 32, 4, 1)
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
#: A read of so many takes some milliseconds of the thread that all readers share, and of the event loop.
_ROWS_AT_ONCE = 1_000
_FIRST_OF_PIECE = "SELECT min(id) FROM (SELECT id FROM audit WHERE id <= ? ORDER BY id DESC LIMIT ?)"
_TYPED = " AND ".join(f"typeof({column}) = '{'integer' if column in _NUMBERS else 'text'}'" for column in COLUMNS)
# Read as bytes: a row that somebody has changed need be neither text nor number any more.
_KEPT = f"""
SELECT id, CASE typeof(seq) WHEN 'integer' THEN seq END, seq IS NULL AND mac IS NULL, CAST(mac AS BLOB),
    typeof(mac) = 'text' AND {_TYPED},
    {", ".join(f"CAST({column} AS BLOB)" for column in COLUMNS)}
FROM audit WHERE id >= ? AND id <= ? ORDER BY id LIMIT ?
"""

_log = logging.getLogger("ecss-console.audit")


@dataclass(frozen=True, slots=True)
class Kept:
    """A record as it lies in the store, whoever put it there.

    `seq` is None where it is no number. `unchained` rows are from before the chain; `whole` tells that every column is
    of its type.
    """

    id: int
    seq: int | None
    unchained: bool
    mac: bytes
    whole: bool
    columns: tuple[bytes, ...]


async def insert(query: Query, *events: Event) -> None:
    """Add events, in order, inside the caller's transaction."""
    for node, of_node in groupby(events, key=lambda event: event.node):
        await _extend(query, node, list(of_node))


async def _extend(query: Query, node: str, events: Sequence[Event]) -> None:
    """Move the head over the events and add them: two hops for one event while nobody else has moved it."""
    rows = [_values(event) for event in events]
    known = query.heads.get(node)
    if known is not None:
        values, moved = _sealed(query, node, known[0].mac.encode(), known[0].seq, rows)
        if not await query(_MOVE_HEAD, *_head_values(moved), node, *_head_values(known)):
            known = None
    if known is None:
        previous, seq = await _end_of_chain(query, node)
        values, moved = _sealed(query, node, previous, seq, rows)
        await query(_SET_HEAD, *_head_values(moved), node)
    for length in _ROWS_PER_STATEMENT:
        while len(values) >= length * len(_ADDED):
            added, values = values[: length * len(_ADDED)], values[length * len(_ADDED) :]
            await query(_INSERT + ", ".join([_ROW] * length), *added)
    query.heads[node] = moved


async def _end_of_chain(query: Query, node: str) -> tuple[bytes, int]:
    """Return what the next record builds upon, and the number before its own; the node is listed then."""
    outline = await found(query, query.audit)
    ((newest,),) = await query("SELECT max(seq) FROM audit WHERE node = ?", node)
    known = query.committed.get(node)
    kept = next((each for each in outline.heads if each.node == node), None)
    is_new = kept is None and newest is None and known is None and node not in outline.nodes
    query.nodes = await _listed(query, outline, node)
    if is_new:
        return FIRST, 0
    head = kept.head if kept is not None and kept.signed else None
    if head is not None and head.seq >= (newest or 0) and not _is_behind(head, known):
        return head.mac.encode(), head.seq
    was = "set back" if head is not None and _is_behind(head, known) else "changed or removed"
    _log.error("the audit's head of %s was %s: ecss-console audit verify tells more", node, was)
    return ANEW, max(newest or 0, head.seq if head else 0, known.seq if known else 0)


async def _listed(query: Query, outline: Outline, node: str) -> tuple[str, ...]:
    """Return the list of nodes with this one in it. Where it grows, what is signed for it is signed anew.

    A head that the console did not write stays as it is, for verify to find.
    """
    nodes = tuple(sorted({*outline.nodes, node}))
    if not outline.listed:
        _log.error("the audit's list of nodes was changed or removed: ecss-console audit verify tells more")
    elif nodes == outline.nodes:
        return nodes
    for each in outline.heads:
        if each.signed:
            signature = query.audit.signature(each.node, each.head, nodes)
            await query("UPDATE audit_heads SET signature = ? WHERE node = ?", signature, each.node)
    await query(_SET_STORE, NODES, query.audit.listed(nodes))
    return nodes


def _is_behind(head: Head, known: Head | None) -> bool:
    """Tell whether a head, though signed, is older than one that this program has committed."""
    return known is not None and head != known and head.seq <= known.seq


def _sealed(
    query: Query, node: str, previous: bytes, seq: int, rows: Sequence[tuple[Value, ...]]
) -> tuple[list[Value], tuple[Head, str]]:
    """Return the values of all rows with their numbers and macs, and the head behind them with its signature."""
    values: list[Value] = []
    for row in rows:
        seq += 1
        previous = query.audit.mac(previous, seq, [str(value).encode() for value in row])
        values += (*row, seq, previous.decode())
    head = Head(seq, previous.decode())
    return values, (head, query.audit.signature(node, head, query.nodes))


def _head_values(signed: tuple[Head, str]) -> tuple[int, str, str]:
    head, signature = signed
    return head.seq, head.mac, signature


def _values(event: Event) -> tuple[Value, ...]:
    """Return the columns of an event; half a character, as of a name that is no UTF-8, must not hold up the others."""
    return tuple(each.encode(errors="replace").decode() if isinstance(each, str) else each for each in _columns(event))


def _columns(event: Event) -> tuple[Value, ...]:
    return (
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


async def outline(store: Store) -> Outline:
    """Return where the chains begin and end at one moment."""
    return await found(store.read, store.vault.audit)


async def kept(store: Store, first_id: int, last_id: int, most: int) -> list[Kept]:
    """Return the records between two ids as they lie in the store, in the order in which they were put there."""
    rows = await store.read(_KEPT, first_id, last_id, most)
    return [
        Kept(id_, seq, bool(unchained), mac or b"", bool(whole), tuple(column or b"" for column in columns))
        for id_, seq, unchained, mac, whole, *columns in rows
    ]


async def last_id(store: Store) -> int:
    """Return the highest id, 0 where there is no record."""
    ((highest,),) = await store.read("SELECT coalesce(max(id), 0) FROM audit")
    return int(highest)


async def after(store: Store, last_id: int, most: int) -> list[dict[str, Value]]:
    """Return the records that were put in behind an id, oldest first, by their columns' names."""
    rows = await store.read(f"SELECT {_shown(SHOWN)} FROM audit WHERE id > ? ORDER BY id LIMIT ?", last_id, most)
    return [dict(zip(SHOWN, map(_readable, row), strict=True)) for row in rows]


async def newest(
    store: Store, wanted: Mapping[str, Any], about: Mapping[str, str], most: int, share: Share
) -> list[Row]:
    """Return the newest records whose columns are as `wanted` and whose arguments are as in `about`, oldest first.

    A domain is found in whatever case its name was recorded. Looks through the audit in pieces: others, also those who
    log in, read between them.
    """
    tests = [f"{column} = ?" for column in wanted]
    # in JSON text a quote is escaped: only the argument itself can look so
    tests += [f"instr({'lower(arguments)' if name == 'domain' else 'arguments'}, ?) > 0" for name in about]
    texts = {name: folded(value) if name == "domain" else value for name, value in about.items()}
    values = [*wanted.values(), *(f'"{name}": "{value}"' for name, value in texts.items())]
    where = " AND ".join(["id >= ?", "id <= ?", *tests])
    sql = f"SELECT {_shown(('seq', *COLUMNS))} FROM audit WHERE {where} ORDER BY id DESC LIMIT ?"
    found: list[Row] = []
    last = await last_id(store)
    while len(found) < most:
        async with share.read():
            ((first,),) = await store.read(_FIRST_OF_PIECE, last, _ROWS_AT_ONCE)
            if first is None:
                break
            rows = await store.read(sql, first, last, *values, most - len(found))
            found += [tuple(map(_readable, row)) for row in rows]
        last = first - 1
    return found[::-1]


def _shown(columns: Sequence[str]) -> str:
    """Return what reads texts as bytes: one that somebody has damaged must not hide the others."""
    return ", ".join(column if column in {"id", "seq", *_NUMBERS} else f"CAST({column} AS BLOB)" for column in columns)


def _readable(value: object) -> Value:
    return value.decode(errors="replace") if isinstance(value, bytes) else cast("Value", value)
