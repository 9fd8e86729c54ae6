"""Read the audit's records; `server.storage.audit_chain` adds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from server.cooperative import Share
from server.model.domains import folded
from server.storage.chain import COLUMNS
from server.storage.engine import Row, Value
from server.storage.heads import Outline, read_outline
from server.storage.store import Store

#: Every column of a record, in the order of lists and logs.
SHOWN = ("id", *COLUMNS, "seq", "mac")
_NUMBERS = {"status", "duration_ms"}
#: A read of this many rows takes a few milliseconds of the event loop and of the thread that all readers share.
_ROWS_AT_ONCE = 1_000
_FIRST_OF_PIECE = "SELECT min(id) FROM (SELECT id FROM audit WHERE id <= ? ORDER BY id DESC LIMIT ?) AS piece"
_TYPED = " AND ".join(f"IS_{'INTEGER' if column in _NUMBERS else 'TEXT'}({column})" for column in COLUMNS)
# The columns are read as bytes, because a changed row may hold neither text nor a number.
_KEPT = f"""
SELECT id, CASE WHEN IS_INTEGER(seq) THEN seq END, seq IS NULL AND mac IS NULL, AS_BYTES(mac),
    IS_TEXT(mac) AND {_TYPED},
    {", ".join(f"AS_BYTES({column})" for column in COLUMNS)}
FROM audit WHERE id >= ? AND id <= ? ORDER BY id LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """A record as it is stored, also when the console did not write it.

    `seq` is None when it is not a number. `unchained` records are older than the chain. `whole` means that every column
    has its type.
    """

    id: int
    seq: int | None
    unchained: bool
    mac: bytes
    whole: bool
    columns: tuple[bytes, ...]


async def outline(store: Store) -> Outline:
    """Return the start and end of every chain at one moment."""
    return await read_outline(store.read, store.vault.audit)


async def kept(store: Store, first_id: int, last_id: int, most: int) -> list[Kept]:
    """Return the stored records between two ids, in the order of insertion."""
    rows = await store.read(_KEPT, first_id, last_id, most)
    return [
        Kept(id_, seq, bool(unchained), _as_bytes(mac), bool(whole), tuple(map(_as_bytes, columns)))
        for id_, seq, unchained, mac, whole, *columns in rows
    ]


async def last_id(store: Store) -> int:
    """Return the highest id, 0 when there is no record."""
    ((highest,),) = await store.read("SELECT coalesce(max(id), 0) FROM audit")
    return int(highest)


async def after(store: Store, last_id: int, most: int) -> list[dict[str, Value]]:
    """Return the records after an id, oldest first, each as a dict by column name."""
    rows = await store.read(
        f"SELECT {_columns_as_bytes(SHOWN)} FROM audit WHERE id > ? ORDER BY id LIMIT ?", last_id, most
    )
    return [dict(zip(SHOWN, map(_readable, row), strict=True)) for row in rows]


async def newest(
    store: Store, wanted: Mapping[str, Any], about: Mapping[str, str], most: int, share: Share
) -> list[Row]:
    """Return the newest records with the `wanted` columns and the arguments of `about`, oldest first.

    A domain matches in any case. The search reads in pieces, so that other reads, such as logins, run between them.
    """
    tests = [f"{column} = ?" for column in wanted]
    # JSON text escapes quotes, so only the argument itself can contain this text
    tests += [f"CONTAINS({'FOLD_ASCII(arguments)' if name == 'domain' else 'arguments'}, ?)" for name in about]
    texts = {name: folded(value) if name == "domain" else value for name, value in about.items()}
    values = [*wanted.values(), *(f'"{name}": "{value}"' for name, value in texts.items())]
    where = " AND ".join(["id >= ?", "id <= ?", *tests])
    sql = f"SELECT {_columns_as_bytes(('seq', *COLUMNS))} FROM audit WHERE {where} ORDER BY id DESC LIMIT ?"
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


def _columns_as_bytes(columns: Sequence[str]) -> str:
    """Return a SELECT of these columns with texts as bytes, so that a damaged row does not hide others."""
    return ", ".join(column if column in {"id", "seq", *_NUMBERS} else f"AS_BYTES({column})" for column in columns)


def _as_bytes(value: object) -> bytes:
    """Return a column that was read as bytes. Engines with strict types return other values unchanged."""
    if isinstance(value, bytes):
        return value
    return b"" if value is None else str(value).encode()


def _readable(value: object) -> Value:
    return value.decode(errors="replace") if isinstance(value, bytes) else cast("Value", value)
