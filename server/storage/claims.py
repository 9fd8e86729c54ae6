"""What the store has for whom somebody says to be, read in the same time whether there is such a user or not."""

from __future__ import annotations

from typing import NamedTuple

from server.model.access import Role, User, UserKey, shut_out
from server.storage.engine import Read
from server.storage.users import stored_key

#: One row whatever is there: a row less, or the domains of some users, could be told by the time.
_SELECT = """
SELECT u.name, u.role, u.password_hash, u.expires_at, u.added_at, u.locked, u.must_change_password,
       k.public_key, k.comment, k.sources, k.expires_at
"""
_BY_NAME = f"""{_SELECT} FROM (SELECT CAST(? AS TEXT) AS name) AS claimed
LEFT JOIN users u ON u.name = claimed.name
LEFT JOIN user_keys k ON 1 = 0
"""
#: A key that is not the user's is looked for as it is where there is no user, and nothing else is.
_BY_KEY = f"""{_SELECT} FROM (SELECT CAST(? AS TEXT) AS name, CAST(? AS TEXT) AS public_key) AS claimed
LEFT JOIN user_keys k ON k.user_name = claimed.name AND k.public_key = claimed.public_key
LEFT JOIN users u ON u.name = k.user_name
"""


class Claim(NamedTuple):
    """What was found, with nothing made of it; `name` is None where nothing was.

    To make a user takes long enough to be noticed by whoever gives names: that is for whom is let in.
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

    def shut_out(self, now: str) -> str | None:
        """Return why the user may not log in at this time, None when nothing stands against it."""
        return shut_out(self.expires_at, now, locked=bool(self.locked))

    def key(self) -> UserKey | None:
        """Make the key that was offered, None when it is not the user's."""
        if self.public_key is None:
            return None
        return stored_key(self.public_key, self.comment, self.sources, self.key_expires_at)

    def user(self) -> User | None:
        """Make the user, None where none was found: without keys and domains."""
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


async def by_name(read: Read, name: str) -> Claim:
    """Look up a name."""
    (row,) = await read(_BY_NAME, name)
    return Claim._make(row)


async def by_key(read: Read, name: str, public_key: str) -> Claim:
    """Look up one of the public keys, `algorithm base64`, of a name; without that key no user is found either."""
    (row,) = await read(_BY_KEY, name, public_key)
    return Claim._make(row)
