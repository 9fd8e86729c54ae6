"""Check credentials against the stored users.

An unknown, locked or expired user is refused like a wrong password: with the same work and the same answer. So a `User`
is made from stored data only after its credential was right. Only the log and the audit get the reason.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from server.audit.journal import Journal, utc_now
from server.auth.credentials import AuthResult, Failure, Method
from server.auth.keys import fingerprint, weakness
from server.auth.passwords import PasswordChecker, check_new_password, same_password
from server.errors import TemporaryError
from server.model.access import ShutOut, User
from server.model.events import Event, EventKind
from server.storage import credentials, users
from server.storage.credentials import StoredCredentials
from server.storage.store import Store
from server.storage.turn import Rank

_SHUT_OUT = {ShutOut.LOCKED: Failure.LOCKED, ShutOut.EXPIRED: Failure.EXPIRED}

_log = logging.getLogger("ecss-console.login")


class Authenticator:
    """Checks passwords, public keys and certificates against the current users of the store."""

    def __init__(self, store: Store, journal: Journal, passwords: PasswordChecker, node: str) -> None:
        """Take the parts that all connections share; `node` is the name of this node in the audit."""
        self._store = store
        self._journal = journal
        self._passwords = passwords
        self._node = node

    async def by_password(self, name: str, password: str, owner: str) -> AuthResult:
        """Check a password; an unknown user costs the same time as a wrong password.

        The work is counted against `owner`, see `PasswordChecker`. Raises TemporaryError.
        """
        found = await credentials.by_name(self._store.read, name)
        stored = found.password_hash
        result = AuthResult(name, Method.PASSWORD)
        if not await self._passwords.verify(owner, stored, password) or stored is None:
            return replace(result, failure=Failure.WRONG_PASSWORD if found.name else Failure.UNKNOWN_USER)
        shut_out = found.shut_out(utc_now())
        if shut_out is not None:
            return replace(result, failure=_SHUT_OUT[shut_out])
        if found.must_change_password:
            return replace(result, failure=Failure.MUST_CHANGE_PASSWORD, stored=stored)
        if self._passwords.outdated(stored):
            stored = await self._rehash(name, stored, password, owner)
        return replace(result, user=found.user(), stored=stored)

    async def change_password(self, name: str, password: str, new: str, source: str, owner: str) -> AuthResult:
        """Check the old password and replace it, if the user must change it.

        Raises ValueError when the new password is not acceptable, TemporaryError like `by_password`.
        """
        result = replace(await self.by_password(name, password, owner), method=Method.PASSWORD_CHANGE)
        if result.user is not None:
            return replace(result, user=None, failure=Failure.CHANGE_NOT_NEEDED)
        if not result.must_change:
            return result
        if same_password(check_new_password(new), password):
            message = "the new password is the old one"
            raise ValueError(message)
        new_hash = await self.hash_password(new, owner)
        async with self._store.transaction(rank=Rank.FIRST) as query:
            if not await users.exchange_password(query, name, result.stored, new_hash):
                return replace(result, failure=Failure.CHANGED_MEANWHILE)
            event = Event(
                EventKind.USER_CHANGE, utc_now(), self._node, name, source, "", detail="password changed at login"
            )
            await self._journal.record(query, event)
        return _of_user(AuthResult(name, Method.PASSWORD_CHANGE), await users.find(self._store.read, name))

    async def hash_password(self, password: str, owner: str) -> str:
        """Return the hash of a new password."""
        return await self._passwords.hash(owner, password)

    async def by_public_key(self, name: str, public_key: str, address: str) -> AuthResult:
        """Check a public key, `algorithm base64`, that a client offers from this address.

        The SSH layer checks whether the client holds the private key. The strength is computed for every key, also for
        an unknown one, so that timing reveals nothing.
        """
        weak = weakness(public_key)
        found = await credentials.by_key(self._store.read, name, public_key)
        result = AuthResult(name, Method.KEY, fingerprint=fingerprint(public_key))
        key = found.key()
        if key is None:
            return replace(result, failure=Failure.UNKNOWN_KEY)
        if weak is not None:
            return replace(result, failure=Failure.WEAK_KEY, detail=weak)
        now = utc_now()
        if not key.opens(address, now):
            return replace(result, failure=Failure.KEY_NOT_VALID)
        return _unless_shut_out(result, found, now)

    async def stored_credentials(self, name: str) -> StoredCredentials:
        """Look up a claimed user before its certificate is checked."""
        return await credentials.by_name(self._store.read, name)

    def by_certificate(self, name: str, found: StoredCredentials, weak: str | None, authority: str) -> AuthResult:
        """Check the user of a certificate with a matching principal.

        `weak` is the weakness of the certified key, `authority` the fingerprint of the key that signed it.
        """
        result = AuthResult(name, Method.CERTIFICATE, fingerprint=authority)
        if weak is not None:
            return replace(result, failure=Failure.WEAK_KEY, detail=weak)
        return _unless_shut_out(result, found, utc_now())

    async def _rehash(self, name: str, stored: str, password: str, owner: str) -> str:
        """Hash the password with the current parameters, and return the stored hash.

        When the store is busy the old hash stays until the next login.
        """
        better = await self.hash_password(password, owner)
        event = Event(EventKind.USER_CHANGE, utc_now(), self._node, name, "", "", detail="hash of the password renewed")
        try:
            async with self._store.transaction(rank=Rank.FIRST) as query:
                renewed = await users.renew_hash(query, name, stored, better)
                if renewed:
                    await self._journal.record(query, event)
        except TemporaryError as error:
            _log.warning("the password of %s keeps its old hash: %s", name, error.message)
            return stored
        return better if renewed else stored


def _unless_shut_out(result: AuthResult, found: StoredCredentials, now: str) -> AuthResult:
    shut_out = found.shut_out(now)
    if shut_out is not None:
        return replace(result, failure=_SHUT_OUT[shut_out])
    return _of_user(result, found.user())


def _of_user(result: AuthResult, user: User | None) -> AuthResult:
    return replace(result, user=user, failure=Failure.UNKNOWN_USER if user is None else None)
