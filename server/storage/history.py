"""What each user typed in interactive sessions, the last thousand lines."""

from __future__ import annotations

from server.storage.database import Store
from server.storage.writer import Query

KEPT_LINES = 1000


async def append(query: Query, user_name: str, added_at: str, line: str) -> None:
    """Add one line inside the caller's transaction; nothing for a user who has been removed meanwhile.

    `added_at` tells the user from another one who has the name since.
    """
    await query(
        "INSERT INTO history (user_name, line) SELECT name, ? FROM users WHERE name = ? AND added_at = ?",
        line,
        user_name,
        added_at,
    )


async def trim(query: Query, user_name: str) -> None:
    """Drop what is older than the last `KEPT_LINES` lines of the user."""
    await query(
        """DELETE FROM history WHERE user_name = ? AND id <= (
               SELECT id FROM history WHERE user_name = ? ORDER BY id DESC LIMIT 1 OFFSET ?)""",
        user_name,
        user_name,
        KEPT_LINES,
    )


async def lines(store: Store, user_name: str) -> list[str]:
    """Return the user's lines, oldest first."""
    rows = await store.read("SELECT line FROM history WHERE user_name = ? ORDER BY id", user_name)
    return [line for (line,) in rows]
