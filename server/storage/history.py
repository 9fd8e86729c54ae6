"""The lines that each user typed in interactive sessions: the last 1,000, and at most 256 KB."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import overload
from weakref import ref

from server.storage.store import Store
from server.storage.writer import Query

KEPT_LINES = 1000
#: In UTF-8, per user. No line is cut to fit.
KEPT_BYTES = 262_144

#: The newest lines of a user within both limits.
_KEPT = """SELECT id, line FROM (
               SELECT id, line, SUM(BYTE_LENGTH(line)) OVER newest AS bytes, ROW_NUMBER() OVER newest AS number
               FROM history WHERE user_name = ? WINDOW newest AS (ORDER BY id DESC)
           ) AS typed WHERE bytes <= ? AND number <= ?"""


class LastLines(Sequence[str]):
    """The newest appended lines within the limits of a history. A line above the limits is not kept.

    `dropped` counts the lines that were removed at the front.
    """

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self.dropped = 0
        self._bytes = 0
        self._lines: deque[tuple[str, int]] = deque()
        for line in lines:
            self.append(line)

    def append(self, line: str) -> None:
        """Add a line, and drop the oldest beyond the limits."""
        size = len(line.encode("utf-8", "replace"))
        if size > KEPT_BYTES:
            return
        self._lines.append((line, size))
        self._bytes += size
        while len(self._lines) > KEPT_LINES or self._bytes > KEPT_BYTES:
            self.drop(1)

    def drop(self, count: int) -> None:
        """Drop the `count` oldest lines."""
        for _ in range(min(count, len(self._lines))):
            self._bytes -= self._lines.popleft()[1]
            self.dropped += 1

    @property
    def end(self) -> int:
        """The number of lines ever kept, including those dropped since."""
        return self.dropped + len(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[str]:
        return (line for line, _ in self._lines)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return list(self)[index]
        return self._lines[index][0]


class _SharedList(list[str]):
    """Lines that a shell holds; unlike a plain list, they allow weak references."""


class SharedLines:
    """The earlier lines of open shells. All shells of one user share the same string objects."""

    def __init__(self) -> None:
        self._held: dict[str, list[ref[_SharedList]]] = {}

    def shared(self, user_name: str, lines: Iterable[str]) -> Sequence[str]:
        """Return the lines, as the objects that another shell of the user already holds."""
        self._held = {name: alive for name, each in self._held.items() if (alive := [held for held in each if held()])}
        held = self._held.setdefault(user_name, [])
        newest = held[-1]() if held else None
        known = {line: line for line in newest or ()}
        taken = _SharedList(known.get(line, line) for line in lines)
        held.append(ref(taken))
        return taken


async def append(query: Query, user_name: str, added_at: str, lines: Iterable[str]) -> None:
    """Add lines inside the caller's transaction; add none for a removed user.

    `added_at` tells the user from a later one with the same name. Lines beyond the limits are deleted.
    """
    for line in lines:
        await query(
            "INSERT INTO history (user_name, line) SELECT name, ? FROM users WHERE name = ? AND added_at = ?",
            line,
            user_name,
            added_at,
        )
    await query(
        f"DELETE FROM history WHERE user_name = ? AND id NOT IN (SELECT id FROM ({_KEPT}) AS kept)",
        user_name,
        user_name,
        KEPT_BYTES,
        KEPT_LINES,
    )


async def lines(store: Store, user_name: str) -> list[str]:
    """Return the user's lines, oldest first."""
    rows = await store.read(f"{_KEPT} ORDER BY id", user_name, KEPT_BYTES, KEPT_LINES)
    return [str(line) for _, line in rows]
