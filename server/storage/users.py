"""Users and their public keys in the store."""

from __future__ import annotations

from collections.abc import Sequence

from server.model.access import Role, User
from server.storage.database import Query, Store

_SELECT = """
SELECT u.name, u.role, u.password_hash, k.public_key
FROM users u LEFT JOIN user_keys k ON k.user_name = u.name
"""


async def insert(query: Query, user: User, now: str) -> bool:
    """Add a user with its keys; False when the name is taken."""
    rows = await query(
        """INSERT INTO users (name, role, password_hash, added_at) VALUES (?, ?, ?, ?)
           ON CONFLICT DO NOTHING RETURNING name""",
        user.name,
        user.role.value,
        user.password_hash,
        now,
    )
    for public_key in user.public_keys if rows else ():
        await query(
            """INSERT INTO user_keys (user_name, public_key, comment, added_at) VALUES (?, ?, '', ?)
               ON CONFLICT DO NOTHING""",
            user.name,
            public_key,
            now,
        )
    return bool(rows)


async def set_password(query: Query, name: str, password_hash: str) -> bool:
    """Replace a user's password; False when there is no such user."""
    rows = await query("UPDATE users SET password_hash = ? WHERE name = ? RETURNING name", password_hash, name)
    return bool(rows)


async def delete(query: Query, name: str) -> bool:
    """Remove a user with its keys and history; False when there is no such user."""
    await query("DELETE FROM history WHERE user_name = ?", name)
    return bool(await query("DELETE FROM users WHERE name = ? RETURNING name", name))


async def find(store: Store, name: str) -> User | None:
    """Return one user, None when there is no such user."""
    users = _users(await store.read(f"{_SELECT} WHERE u.name = ?", name))
    return users[0] if users else None


async def every(store: Store) -> list[User]:
    """Return all users, sorted by name."""
    return _users(await store.read(f"{_SELECT} ORDER BY u.name, k.public_key"))


def _users(rows: Sequence[tuple[str, str, str | None, str | None]]) -> list[User]:
    found: dict[str, User] = {}
    for name, role, password_hash, public_key in rows:
        known = found.get(name)
        keys = known.public_keys if known else ()
        found[name] = User(name, Role(role), password_hash, (*keys, public_key) if public_key else keys)
    return list(found.values())
