"""What one client proves, try by try: who it is, and by which way."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import asyncssh

from server.auth.keys import fingerprint, weakness
from server.auth.login import UNKNOWN_KEY, Doorkeeper, Verdict
from server.auth.tries import Tries
from server.errors import TemporaryError
from server.model.access import User, UserKey
from server.storage.claims import Claim
from server.transport.certificate import OfferedKey
from server.transport.offers import Authorities, Offers

#: Questions, each with whether the answer is echoed, below a title, a text and their language; or the verdict.
Challenge = bool | tuple[str, str, str, Sequence[tuple[str, bool]]]
_ANSWERS_TO_CHANGE = 2
_PASSWORD = "password"  # noqa: S105  what it is, no password


@dataclass(frozen=True, slots=True)
class Witness:
    """Who is told of tries in vain: `failed` of (name, way, reason), `given_up` when none is left."""

    failed: Callable[[str, str, str], None]
    given_up: Callable[[], None]


class Proof:
    """The tries of one connection. Certificates by one of the `authorities` let in the users that they name."""

    def __init__(
        self, doorkeeper: Doorkeeper, authorities: tuple[UserKey, ...], tries: Tries, told: Witness, offers: Offers
    ) -> None:
        """Begin with nothing proved; what is offered goes to `offers`."""
        self._doorkeeper = doorkeeper
        self._authorities = authorities
        self._tries = tries
        self._told = told
        self._proved: User | None = None
        self._certified: User | None = None
        self._way = ""
        self._changing = ""
        self._offers = offers

    @property
    def any_failed(self) -> bool:
        """Whether something was tried in vain."""
        return self._tries.any_failed

    def begin(self) -> None:
        """Forget what was proved for another name."""
        self._proved = self._certified = None

    async def certificate(self, name: str, offered: OfferedKey) -> asyncssh.SSHAuthorizedKeys | None:
        """Count a certificate as a try; return what asyncssh compares it with, None when no authority signed it.

        Certificates are compared for unknown names too, with a principal that nobody can guess, so that timing reveals
        nothing.
        """
        if not self._begin_try():
            return None
        self._offers.certificate(name, fingerprint(offered.authority or ""), offered.principals)
        if offered.authority not in {each.public_key for each in self._authorities}:
            self._in_vain()
            return None
        weak = weakness(offered.public_key)
        claim = await self._doorkeeper.claim(name)
        principal = name if claim.name else secrets.token_hex()
        certify = partial(self._certify, offered, weak, claim)
        return Authorities(self._authorities, principal, name, self._offers, certify)

    async def password(self, name: str, password: str, source: str) -> Verdict:
        """Judge a password."""
        if not self._begin_try():
            return Verdict(None, "no try was left")
        try:
            verdict = await self._doorkeeper.by_password(name, password, _address(source))
        except TemporaryError as error:
            verdict = Verdict(None, error.message)
        verdict = self._judged(name, "password", verdict)
        if verdict.must_change:
            self._tries.accept(_PASSWORD)
            self._offers.refused(name, "password", verdict.reason)
        return verdict

    async def change(self, name: str, old: str, new: str, source: str) -> bool:
        """Set the password that has to take the place of the old one; raises ValueError when it may not."""
        if not self._begin_try():
            return False
        try:
            verdict = await self._doorkeeper.change_password(name, old, new, source, _address(source))
        except TemporaryError as error:
            verdict = Verdict(None, error.message)
        return self._judged(name, "password, changed", verdict).user is not None

    def refuse_change(self, name: str) -> None:
        """Count a change of password by the method `password`, which is not served, as a failed try."""
        if self._begin_try():
            self._judged(name, "password", Verdict(None, "a password is changed by keyboard-interactive alone"))

    def ask(self) -> Challenge:
        """Return the question for the password."""
        self._changing = ""
        return "", "", "", [("password: ", False)]

    async def answer(self, name: str, answers: Sequence[str], source: str) -> Challenge:
        """Judge the password, or the new one that was asked for twice."""
        if self._changing:
            return await self._answer_change(name, answers, source)
        password = answers[0] if len(answers) == 1 else ""
        verdict = await self.password(name, password, source)
        if not verdict.must_change:
            return verdict.user is not None
        self._changing = password
        return _ask_change("Your password must be changed.")

    async def public_key(self, name: str, public_key: str, address: str) -> bool:
        """Tell whether the key, `algorithm base64`, opens; that the client holds it is checked by the protocol."""
        if not self._begin_try():
            return False
        self._offers.key(name, public_key)
        verdict = await self._doorkeeper.by_public_key(name, public_key, address)
        self._proved, self._way = verdict.user, f"key {fingerprint(public_key)}"
        if verdict.reason not in {"", UNKNOWN_KEY}:  # clients offer every key they have
            self._told.failed(name, self._way, verdict.reason)
        if verdict.user is None or not self._tries.accept(public_key):
            self._in_vain()
        return verdict.user is not None

    def no_key(self) -> None:
        """Count what is no key of a known kind as a try."""
        if self._begin_try():
            self._in_vain()

    def proved(self, name: str, authority: str | None) -> tuple[User, str] | None:
        """Return the user of this name and the way it came, once the protocol says that all was right.

        `authority` is whose certificate it was, None without one: a key may have been asked about before, and not be
        held.
        """
        user = self._proved if authority is None else self._certified
        if user is None or user.name != name:
            return None
        return user, self._way if authority is None else f"certificate by {authority}"

    async def _answer_change(self, name: str, answers: Sequence[str], source: str) -> Challenge:
        if len(answers) != _ANSWERS_TO_CHANGE or answers[0] != answers[1]:
            return self._begin_try() and _ask_change("The two passwords differ.")
        try:
            return await self.change(name, self._changing, answers[0], source)
        except ValueError as wrong:
            return _ask_change(f"{wrong}.")

    def _certify(self, offered: OfferedKey, weak: str | None, claim: Claim) -> str | None:
        """Take the user whom a certificate fits, or return what stands against it."""
        verdict = self._doorkeeper.by_certificate(claim, weak)
        self._certified = verdict.user
        if verdict.user is not None:
            self._tries.accept(offered.public_key)
        return None if verdict.user else verdict.reason

    def _judged(self, name: str, way: str, verdict: Verdict) -> Verdict:
        self._proved, self._way = verdict.user, way
        if verdict.user is None and not verdict.must_change:
            self._told.failed(name, way, verdict.reason)
            self._in_vain()
        return verdict

    def _begin_try(self) -> bool:
        """Count a try to log in; False when none is left: the client is on its way out."""
        begun = self._tries.begin()
        if not begun:
            self._in_vain()
        return begun

    def _in_vain(self) -> None:
        if self._tries.spent:
            self._told.given_up()


def _ask_change(why: str) -> Challenge:
    return "", why, "", [("New password: ", False), ("Once more: ", False)]


def _address(source: str) -> str:
    """Return the address of `address:port`: passwords of all its connections share one queue."""
    return source.rpartition(":")[0]
