"""The audit's records as they are read; `server.storage.audit_chain` adds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from server.cooperative import Share
from server.model.domains import folded
from server.storage.chain import COLUMNS
from server.storage.engine import Row, Value
from server.storage.heads import Outline, found
from server.storage.store import Store

#: Every column of a record, as lists and logs show it.
SHOWN = ("id", *COLUMNS, "seq", "mac")
_NUMBERS = {"status", "duration_ms"}
#: A read of so many takes some milliseconds of the thread that all readers share, and of the event loop.
_ROWS_AT_ONCE = 1_000
_FIRST_OF_PIECE = "SELECT min(id) FROM (SELECT id FROM audit WHERE id <= ? ORDER BY id DESC LIMIT ?) AS piece"
_TYPED = " AND ".join(f"IS_{'INTEGER' if column in _NUMBERS else 'TEXT'}({column})" for column in COLUMNS)
# Read as bytes: a row that somebody has changed need be neither text nor number any more.
_KEPT = f"""
SELECT id, CASE WHEN IS_INTEGER(seq) THEN seq END, seq IS NULL AND mac IS NULL, AS_BYTES(mac),
    IS_TEXT(mac) AND {_TYPED},
    {", ".join(f"AS_BYTES({column})" for column in COLUMNS)}
FROM audit WHERE id >= ? AND id <= ? ORDER BY id LIMIT ?
"""


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


async def outline(store: Store) -> Outline:
    """Return where the chains begin and end at one moment."""
    return await found(store.read, store.vault.audit)


async def kept(store: Store, first_id: int, last_id: int, most: int) -> list[Kept]:
    """Return the records between two ids as they lie in the store, in the order in which they were put there."""
    rows = await store.read(_KEPT, first_id, last_id, most)
    return [
        Kept(id_, seq, bool(unchained), _bytes(mac), bool(whole), tuple(map(_bytes, columns)))
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
    tests += [f"CONTAINS({'FOLD_ASCII(arguments)' if name == 'domain' else 'arguments'}, ?)" for name in about]
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
    return ", ".join(column if column in {"id", "seq", *_NUMBERS} else f"AS_BYTES({column})" for column in columns)


def _bytes(value: object) -> bytes:
    """Return a column that was read as bytes; an engine whose columns cannot hold anything else gives what it has."""
    if isinstance(value, bytes):
        return value
    return b"" if value is None else str(value).encode()


def _readable(value: object) -> Value:
    return value.decode(errors="replace") if isinstance(value, bytes) else cast("Value", value)
