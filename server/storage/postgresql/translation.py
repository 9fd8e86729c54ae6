"""Translate the shared SQL to PostgreSQL's."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import count

from server.storage.engine import Value

#: PostgreSQL's syntax for the functions of the shared SQL: see `server.storage.engine`. Its columns have their types.
_TRANSLATIONS = (
    (re.compile(r"AS_BYTES\((\w+)\)"), r"\1"),
    (re.compile(r"IS_(?:TEXT|INTEGER)\((\w+)\)"), r"(\1 IS NOT NULL)"),
    (re.compile(r"BYTE_LENGTH\((\w+)\)"), r"octet_length(\1)"),
    (re.compile(r"CONTAINS\((.+?), \?\)"), r"strpos(\1, ?) > 0"),
    (re.compile(r"FOLD_ASCII\((\w+)\)"), r'lower(\1 COLLATE "C")'),
)
_PLACEHOLDER = re.compile(r"\?")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@lru_cache(maxsize=512)
def translated(sql: str) -> str:
    """Translate the shared SQL; `?` becomes `$1` and so on."""
    for pattern, replacement in _TRANSLATIONS:
        sql = pattern.sub(replacement, sql)
    numbers = count(1)
    return _PLACEHOLDER.sub(lambda _: f"${next(numbers)}", sql)


def storable(values: tuple[Value, ...]) -> tuple[Value, ...]:
    """Replace characters that PostgreSQL cannot store: NUL and half characters.

    They come from hostile names, which then match nothing. Stored values were checked before.
    """
    if all(not isinstance(each, str) or (each.isascii() and "\0" not in each) for each in values):
        return values
    return tuple(_storable(each) if isinstance(each, str) else each for each in values)


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode().replace("\0", _REPLACEMENT)
