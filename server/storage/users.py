"""Users in the store, with their public keys and the domains that are granted to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from server.model.access import Role, User, UserKey
from server.model.domains import folded
from server.model.public_keys import weakness
from server.storage.engine import Read, Row
from server.storage.store import Store, first_and_last
from server.storage.writer import Query

#: Users, keys and grants in one statement, because every statement costs a hop to the store's thread.
_SELECT = """
SELECT 'user', name, role, password_hash, expires_at, added_at, locked, must_change_password FROM users {where_name}
UNION ALL SELECT 'key', user_name, public_key, comment, expires_at, sources, 0, 0 FROM user_keys {where_user_name}
UNION ALL SELECT 'grant', user_name, domain, declared_as, '', '', 0, 0
FROM grants JOIN domains ON domains.name = grants.domain {where_user_name}
ORDER BY 1 DESC, 2, 3
"""
_SELECT_ONE = _SELECT.format(where_name="WHERE name = ?", where_user_name="WHERE user_name = ?")
#: Administrators with a password come first, because with one of them no key strength needs computing.
_ADMINISTRATORS = """
SELECT u.expires_at, u.password_hash IS NOT NULL, k.public_key, k.expires_at FROM users u
LEFT JOIN user_keys k ON k.user_name = u.name AND k.sources = '' AND u.password_hash IS NULL
WHERE u.role = 'admin' AND u.locked = 0 ORDER BY 2 DESC
"""
_SELECT_ALL = _SELECT.format(where_name="", where_user_name="")


async def insert(query: Query, user: User, now: str) -> bool:
    """Add a user with its keys, without grants; False when the name is taken."""
    rows = await query(
        """INSERT INTO users (name, role, password_hash, added_at, locked, expires_at, must_change_password)
           VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING name""",
        user.name,
        user.role.value,
        user.password_hash,
        now,
        int(user.locked),
        user.expires_at,
        int(user.must_change_password),
    )
    for key in user.keys if rows else ():
        await insert_key(query, user.name, key, now)
    return bool(rows)


async def insert_key(query: Query, name: str, key: UserKey, now: str) -> bool:
    """Add a key to a user; False when the user has it already."""
    rows = await query(
        """INSERT INTO user_keys (user_name, public_key, comment, sources, expires_at, added_at)
           VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING user_name""",
        name,
        key.public_key,
        key.comment,
        ",".join(key.sources),
        key.expires_at,
        now,
    )
    return bool(rows)


async def delete_key(query: Query, name: str, public_key: str) -> None:
    """Remove a key from a user."""
    await query("DELETE FROM user_keys WHERE user_name = ? AND public_key = ?", name, public_key)


async def set_password(query: Query, name: str, password_hash: str, *, must_change: bool = False) -> bool:
    """Replace a user's password; False when the user does not exist.

    With `must_change` the user must replace it at the next login.
    """
    rows = await query(
        "UPDATE users SET password_hash = ?, must_change_password = ? WHERE name = ? RETURNING name",
        password_hash,
        int(must_change),
        name,
    )
    return bool(rows)


async def exchange_password(query: Query, name: str, before: str | None, after: str) -> bool:
    """Replace the password hash `before` and clear `must_change`; False if the hash has changed since."""
    rows = await query(
        """UPDATE users SET password_hash = ?, must_change_password = 0
           WHERE name = ? AND password_hash = ? RETURNING name""",
        after,
        name,
        before,
    )
    return bool(rows)


async def renew_hash(query: Query, name: str, before: str, after: str) -> bool:
    """Replace the hash of an unchanged password; False if the hash has changed since.

    `must_change` stays as it is.
    """
    rows = await query(
        "UPDATE users SET password_hash = ? WHERE name = ? AND password_hash = ? RETURNING name", after, name, before
    )
    return bool(rows)


async def set_properties(query: Query, user: User) -> None:
    """Store role, expiry, lock and `must_change` of `user`."""
    await query(
        "UPDATE users SET role = ?, expires_at = ?, locked = ?, must_change_password = ? WHERE name = ?",
        user.role.value,
        user.expires_at,
        int(user.locked),
        int(user.must_change_password),
        user.name,
    )


async def grant(query: Query, name: str, domain: str, now: str) -> bool:
    """Grant a stored domain to a stored user; False when it was granted already."""
    rows = await query(
        """INSERT INTO grants (user_name, domain, granted_at) VALUES (?, ?, ?)
           ON CONFLICT DO NOTHING RETURNING domain""",
        name,
        folded(domain),
        now,
    )
    return bool(rows)


async def revoke(query: Query, name: str, domain: str) -> bool:
    """Revoke a domain from a user; False when it was not granted."""
    key = folded(domain)
    return bool(await query("DELETE FROM grants WHERE user_name = ? AND domain = ? RETURNING domain", name, key))


async def delete(query: Query, name: str) -> bool:
    """Remove a user with its keys, grants and history; False when the user does not exist."""
    await query("DELETE FROM history WHERE user_name = ?", name)
    return bool(await query("DELETE FROM users WHERE name = ? RETURNING name", name))


async def administrators(query: Query, now: str) -> tuple[bool, bool]:
    """Tell whether an administrator can log in from every address: now, and without an expiry."""
    able_now = able_always = False
    for expires_at, has_password, public_key, key_expires_at in await query(_ADMINISTRATORS):
        if not has_password and (public_key is None or weakness(public_key) is not None):
            continue
        until = [each for each in (expires_at, key_expires_at) if each is not None]
        able_now = able_now or all(each > now for each in until)
        able_always = able_always or not until
        if able_now and able_always:
            break
    return able_now, able_always


@asynccontextmanager
async def keeping_administrators(query: Query, now: str, refusal: Exception) -> AsyncIterator[None]:
    """Raise `refusal` when the change inside leaves no administrator who can log in.

    It compares before and after, both for now and for ever. Nothing is raised if there was none before.
    """
    before = await administrators(query, now)
    yield
    after = await administrators(query, now)
    if any(had and not has for had, has in zip(before, after, strict=True)):
        raise refusal


async def find(read: Read, name: str) -> User | None:
    """Return one user, by `Store.read` or inside a transaction; None when the user does not exist."""
    users = _users(await read(_SELECT_ONE, name, name, name))
    return users[0] if users else None


async def every(store: Store) -> list[User]:
    """Return all users, sorted by name."""
    return _users(await store.read(_SELECT_ALL))


async def any_there(query: Query) -> bool:
    """Tell, inside a change, whether any user exists."""
    return bool(await query("SELECT 1 FROM users LIMIT 1"))


async def names(store: Store, beginning: str, most: int) -> list[str]:
    """Return the first names with this beginning, sorted, and the last: see `first_and_last`."""
    return await first_and_last(store, "name FROM users WHERE 1 = 1", (), "name", beginning, most)


def stored_key(public_key: str, comment: str, sources: str, expires_at: str | None) -> UserKey:
    """Make a key from its columns; `sources` are separated by commas."""
    return UserKey(public_key, comment, tuple(sources.split(",")) if sources else (), expires_at)


def _users(rows: Sequence[Row]) -> list[User]:
    users: dict[str, Row] = {}
    keys: dict[str, list[UserKey]] = {}
    domains: dict[str, dict[str, str]] = {}
    for kind, name, *row in rows:
        if kind == "user":
            users[name] = tuple(row)
        elif kind == "key":
            public_key, comment, expires_at, sources, _, _ = row
            key = stored_key(public_key, comment, sources, expires_at)
            keys.setdefault(name, []).append(key)
        else:
            key, declared_as, *_ = row
            domains.setdefault(name, {})[key] = declared_as
    return [
        User(
            name=name,
            role=Role(role),
            password_hash=password_hash,
            keys=tuple(keys.get(name, ())),
            locked=bool(locked),
            expires_at=expires_at,
            must_change_password=bool(must_change),
            domains=domains.get(name, {}),
            added_at=added_at,
        )
        for name, (role, password_hash, expires_at, added_at, locked, must_change) in users.items()
    ]
