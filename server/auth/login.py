"""The decision to let a user in, for each way of proving who one is."""

from __future__ import annotations

from server.auth.passwords import PasswordChecker
from server.model.access import User
from server.storage import users
from server.storage.database import Store


class Doorkeeper:
    """Checks credentials against the users of the store as they are now."""

    def __init__(self, store: Store, passwords: PasswordChecker) -> None:
        """Take what is shared by all connections."""
        self._store = store
        self._passwords = passwords

    async def by_password(self, name: str, password: str) -> User | None:
        """Return the user when the password is right; an unknown user costs the same time."""
        user = await users.find(self._store, name)
        right = await self._passwords.verify(user.password_hash if user else None, password)
        return user if right else None

    async def by_public_key(self, name: str, public_key: str) -> User | None:
        """Return the user when the key, `algorithm base64`, is one of its own."""
        user = await users.find(self._store, name)
        return user if user is not None and public_key in user.public_keys else None
