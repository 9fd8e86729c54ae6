"""The decision to let a user in, for each way of proving who one is.

A user that does not exist, is locked or has expired is refused like one with a wrong password: the same work, the same
answer. So nothing is made of what the store has under a name before something was proved. What is known only to the log
and the audit is the reason.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from server.audit.journal import Journal, utc_now
from server.auth.keys import weakness
from server.auth.passwords import PasswordChecker, check_new_password, same_password
from server.errors import TemporaryError
from server.model.access import User
from server.model.events import Event, EventKind
from server.storage import claims, users
from server.storage.claims import Claim
from server.storage.store import Store
from server.storage.turn import Rank

#: The reason why a key opens nothing, whether it is another one than the user's or there is no user.
UNKNOWN_KEY = "unknown key"
#: The reason why a key of the user opens nothing, whatever else holds: see `server.auth.keys.weakness`.
WEAK_KEY = "weak key"

_log = logging.getLogger("ecss-console.login")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a try to log in: the `user` who may come in, or the `reason` why nobody may.

    With `must_change` the password was right and another has to be given before anything else. `stored` is the hash
    that the right password has in the store now. The user is without keys, and without domains, which `Standings` has.
    """

    user: User | None
    reason: str = ""
    must_change: bool = False
    stored: str | None = None


class Doorkeeper:
    """Checks credentials against the users of the store as they are now."""

    def __init__(self, store: Store, journal: Journal, passwords: PasswordChecker, node: str) -> None:
        """Take what is shared by all connections; `node` is this node's name in the audit."""
        self._store = store
        self._journal = journal
        self._passwords = passwords
        self._node = node

    async def by_password(self, name: str, password: str, owner: str) -> Verdict:
        """Judge a password; an unknown user costs the same time as a wrong password.

        `owner` is who causes the work, see `PasswordChecker`. Raises TemporaryError.
        """
        claim = await claims.by_name(self._store.read, name)
        stored = claim.password_hash
        if not await self._passwords.verify(owner, stored, password) or stored is None:
            return Verdict(None, "wrong password" if claim.name else "unknown user")
        shut_out = claim.shut_out(utc_now())
        if shut_out:
            return Verdict(None, shut_out)
        if claim.must_change_password:
            return Verdict(None, "password must be changed", must_change=True, stored=stored)
        if self._passwords.outdated(stored):
            stored = await self._rehash(name, stored, password, owner)
        return Verdict(claim.user(), stored=stored)

    async def change_password(self, name: str, password: str, new: str, source: str, owner: str) -> Verdict:
        """Judge the old password, and set the new one that has to take its place. Raises ValueError when it may not."""
        verdict = await self.by_password(name, password, owner)
        if not verdict.must_change:
            return verdict if verdict.user is None else Verdict(None, "no other password was asked for")
        if same_password(check_new_password(new), password):
            message = "the new password is the old one"
            raise ValueError(message)
        new_hash = await self.hash_password(new, owner)
        async with self._store.transaction(rank=Rank.FIRST) as query:
            if not await users.exchange_password(query, name, verdict.stored, new_hash):
                return Verdict(None, "the password was changed meanwhile")
            event = Event(
                EventKind.USER_CHANGE, utc_now(), self._node, name, source, "", detail="password changed at login"
            )
            await self._journal.record(query, event)
        return Verdict(await users.find(self._store.read, name))

    async def hash_password(self, password: str, owner: str) -> str:
        """Return the hash of a new password."""
        return await self._passwords.hash(owner, password)

    async def by_public_key(self, name: str, public_key: str, address: str) -> Verdict:
        """Judge a key, `algorithm base64`, from this address; that the client holds it is proved elsewhere.

        The strength of every key is computed, also of an unknown one, so that timing reveals nothing.
        """
        weak = weakness(public_key)
        claim = await claims.by_key(self._store.read, name, public_key)
        key = claim.key()
        if key is None:
            return Verdict(None, UNKNOWN_KEY)
        if weak is not None:
            return Verdict(None, f"{WEAK_KEY}: {weak}")
        now = utc_now()
        if not key.opens(address, now):
            return Verdict(None, "key not valid now or from here")
        shut_out = claim.shut_out(now)
        return Verdict(None, shut_out) if shut_out else Verdict(claim.user())

    async def claim(self, name: str) -> Claim:
        """Look up a name whose certificates will be judged."""
        return await claims.by_name(self._store.read, name)

    def by_certificate(self, claim: Claim, weak: str | None) -> Verdict:
        """Judge the user whom a certificate fits; `weak` says what is wrong with the certified key."""
        if weak is not None:
            return Verdict(None, f"{WEAK_KEY}: {weak}")
        shut_out = claim.shut_out(utc_now())
        return Verdict(None, shut_out) if shut_out else Verdict(claim.user())

    async def _rehash(self, name: str, stored: str, password: str, owner: str) -> str:
        """Keep the password under today's parameters, and return its hash; a busy store will have another chance."""
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
