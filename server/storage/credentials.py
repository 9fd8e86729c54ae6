"""Look up a claimed user in constant time, whether or not the user exists."""

from __future__ import annotations

from typing import NamedTuple

from server.model.access import Role, ShutOut, User, UserKey, shut_out
from server.storage.engine import Read
from server.storage.users import stored_key

#: Always one row, and never the domains of the user: the time of either would tell known users from unknown names.
_SELECT = """
SELECT u.name, u.role, u.password_hash, u.expires_at, u.added_at, u.locked, u.must_change_password,
       k.public_key, k.comment, k.sources, k.expires_at
"""
_BY_NAME = f"""{_SELECT} FROM (SELECT CAST(? AS TEXT) AS name) AS claimed
LEFT JOIN users u ON u.name = claimed.name
LEFT JOIN user_keys k ON 1 = 0
"""
#: The user is joined by the key, so an unknown key costs the same whether or not the user exists.
_BY_KEY = f"""{_SELECT} FROM (SELECT CAST(? AS TEXT) AS name, CAST(? AS TEXT) AS public_key) AS claimed
LEFT JOIN user_keys k ON k.user_name = claimed.name AND k.public_key = claimed.public_key
LEFT JOIN users u ON u.name = k.user_name
"""


class StoredCredentials(NamedTuple):
    """The stored row of a claimed user; `name` is None when there is none.

    A client can measure the time that it takes to make a `User`. So call `user` only for a right credential.
    """

    name: str | None
    role: str
    password_hash: str | None
    expires_at: str | None
    added_at: str
    locked: int
    must_change_password: int
    public_key: str | None
    comment: str
    sources: str
    key_expires_at: str | None

    def shut_out(self, now: str) -> ShutOut | None:
        """Return why the user may not log in at this time; None when the user may."""
        return shut_out(self.expires_at, now, locked=bool(self.locked))

    def key(self) -> UserKey | None:
        """Make the offered key; None when the user does not have it."""
        if self.public_key is None:
            return None
        return stored_key(self.public_key, self.comment, self.sources, self.key_expires_at)

    def user(self) -> User | None:
        """Make the user, without keys and domains; None when there is none."""
        if self.name is None:
            return None
        return User(
            name=self.name,
            role=Role(self.role),
            password_hash=self.password_hash,
            keys=(),
            locked=bool(self.locked),
            expires_at=self.expires_at,
            must_change_password=bool(self.must_change_password),
            added_at=self.added_at,
        )


async def by_name(read: Read, name: str) -> StoredCredentials:
    """Look up a user by name."""
    (row,) = await read(_BY_NAME, name)
    return StoredCredentials._make(row)


async def by_key(read: Read, name: str, public_key: str) -> StoredCredentials:
    """Look up a user by name and public key, `algorithm base64`; without that key no user is found."""
    (row,) = await read(_BY_KEY, name, public_key)
    return StoredCredentials._make(row)
