"""The login attempt of one client, with all its tries."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from server.auth.authenticator import Authenticator
from server.auth.credentials import AuthResult, Failure, Method, OfferedKey, Questions
from server.auth.keys import fingerprint, weakness
from server.auth.passwords import TooManyPasswordsError
from server.auth.rejected import RejectedCredentials
from server.errors import TemporaryError
from server.model.access import UserKey
from server.storage.credentials import StoredCredentials

#: An accepted key appears twice in a login: first the client asks whether it is known, then it sends the signature.
_APPEARANCES = 2
_ANSWERS_TO_CHANGE = 2
_ASK_PASSWORD = Questions(("password: ",))


@dataclass(frozen=True, slots=True)
class ClaimedCertificate:
    """A certificate of a trusted authority, and the one principal that it must have."""

    name: str
    principal: str
    offered: OfferedKey
    weak: str | None
    stored: StoredCredentials


class LoginAttempt:
    """Counts and checks the tries of one connection.

    Tries count when they begin, so a try that the client cuts short with the next one counts too. `exhausted` turns
    true when the last try has failed; then the connection must end. `rejected` has the credentials that did not log in.
    `why_not_checked` is set when the store does not answer: the connection must end then too, without blame.
    """

    def __init__(
        self, authenticator: Authenticator, authorities: tuple[UserKey, ...], source: str, max_tries: int
    ) -> None:
        """Allow `max_tries` failed tries to the client at `source`, `address:port`.

        The `authorities` are trusted to sign certificates of users.
        """
        self._authenticator = authenticator
        self._source = source
        self._address = source.rpartition(":")[0]
        self.authorities = authorities
        self.rejected = RejectedCredentials()
        self.exhausted = False
        self.why_not_checked = ""
        self._max_tries = max_tries
        self._tries = 0
        self._accepted: Counter[str] = Counter()
        self._proved: AuthResult | None = None
        self._certified: AuthResult | None = None
        self._password_to_change = ""

    @property
    def any_failed(self) -> bool:
        """Whether a try has failed."""
        return self._tries > 0

    def begin(self) -> None:
        """Forget the results of an earlier user name."""
        self._proved = self._certified = None

    def authenticated(self, name: str, *, certified: bool) -> AuthResult | None:
        """Return the result for this name when the SSH layer has accepted the client; None would be a defect.

        `certified` tells whether it accepted a certificate: an earlier question about a known key proves nothing.
        """
        result = self._certified if certified else self._proved
        if result is None or result.user is None or result.user.name != name:
            return None
        self.rejected.logged_in(name)
        return result

    # ---- passwords

    async def password(self, name: str, password: str) -> AuthResult:
        """Check a password."""
        if not self._begin_try():
            return AuthResult(name, Method.PASSWORD, failure=Failure.NO_TRY_LEFT)
        try:
            result = await self._authenticator.by_password(name, password, self._address)
        except TemporaryError as error:
            result = self._not_checked(name, Method.PASSWORD, error)
        return self._finish(result)

    def refuse_password_change(self, name: str) -> AuthResult:
        """Count a password change by the method `password`, which is not supported, as a failed try."""
        failure = Failure.CHANGED_BY_WRONG_METHOD if self._begin_try() else Failure.NO_TRY_LEFT
        return self._finish(AuthResult(name, Method.PASSWORD, failure=failure))

    def ask(self) -> Questions:
        """Begin keyboard-interactive with the question for the password."""
        self._password_to_change = ""
        return _ASK_PASSWORD

    async def answer(self, name: str, answers: Sequence[str]) -> AuthResult | Questions:
        """Check the answers of keyboard-interactive; return the result, or further questions."""
        if self._password_to_change:
            return await self._answer_change(name, answers)
        password = answers[0] if len(answers) == 1 else ""
        result = await self.password(name, password)
        if not result.must_change:
            return result
        self._password_to_change = password
        return _ask_change("Your password must be changed.")

    async def _answer_change(self, name: str, answers: Sequence[str]) -> AuthResult | Questions:
        if not self._begin_try():
            return AuthResult(name, Method.PASSWORD_CHANGE, failure=Failure.NO_TRY_LEFT)
        if len(answers) != _ANSWERS_TO_CHANGE or answers[0] != answers[1]:
            return _ask_change("The two passwords differ.")
        old, new = self._password_to_change, answers[0]
        try:
            result = await self._authenticator.change_password(name, old, new, self._source, self._address)
        except TemporaryError as error:
            result = self._not_checked(name, Method.PASSWORD_CHANGE, error)
        except ValueError as wrong:
            return _ask_change(f"{wrong}.")
        return self._finish(result)

    # ---- public keys and certificates

    def refuse_unreadable_key(self) -> None:
        """Count an offered key of an unknown kind as a failed try."""
        self._begin_try()
        self._note_exhausted()

    async def public_key(self, name: str, public_key: str) -> AuthResult:
        """Check a public key, `algorithm base64`; the SSH layer then checks the signature of the client."""
        if not self._begin_try():
            return AuthResult(name, Method.KEY, failure=Failure.NO_TRY_LEFT)
        self.rejected.key(name, public_key)
        try:
            result = await self._authenticator.by_public_key(name, public_key, self._address)
        except TemporaryError as error:
            result = self._not_checked(name, Method.KEY, error)
        if result.user is not None and not self._accept(public_key):
            self._note_exhausted()  # earlier signatures by this key were wrong
        return self._finish(result)

    async def certificate(self, name: str, offered: OfferedKey) -> ClaimedCertificate | None:
        """Count a certificate as a try; return what to compare, None when no authority has signed it.

        Certificates are compared for unknown names too, against an unguessable principal, so that timing reveals
        nothing.
        """
        if not self._begin_try():
            return None
        self.rejected.certificate(name, fingerprint(offered.authority or ""), offered.principals)
        if offered.authority not in {each.public_key for each in self.authorities}:
            self._note_exhausted()
            return None
        weak = weakness(offered.public_key)
        try:
            stored = await self._authenticator.stored_credentials(name)
        except TemporaryError as error:
            self.rejected.refused(self._not_checked(name, Method.CERTIFICATE, error))
            return None
        principal = name if stored.name else secrets.token_hex()
        return ClaimedCertificate(name, principal, offered, weak, stored)

    def accept_certificate(self, claimed: ClaimedCertificate, authority: str) -> AuthResult:
        """Check the user of a certificate with the right principal; `authority` is its signer's fingerprint."""
        result = self._authenticator.by_certificate(claimed.name, claimed.stored, claimed.weak, authority)
        self._certified = result
        if result.user is None:
            self.rejected.refused(result)
        else:
            self._accept(claimed.offered.public_key)
        return result

    def _not_checked(self, name: str, method: Method, error: TemporaryError) -> AuthResult:
        if isinstance(error, TooManyPasswordsError):
            return AuthResult(name, method, failure=Failure.UNAVAILABLE, detail=error.message)
        self.why_not_checked = error.message
        return AuthResult(name, method, failure=Failure.NOT_CHECKED, detail=error.message)

    # ---- the count of tries

    def _begin_try(self) -> bool:
        """Count a try; return False when there was none left."""
        if self._tries >= self._max_tries:
            self._note_exhausted()
            return False
        self._tries += 1
        return True

    def _accept(self, credential: str) -> bool:
        """Undo the count of a try with a right credential; False when it has appeared too often."""
        self._accepted[credential] += 1
        in_time = self._accepted[credential] <= _APPEARANCES
        if in_time:
            self._tries -= 1
        return in_time

    def _finish(self, result: AuthResult) -> AuthResult:
        """Keep the result of a try, and note whether it was the last one."""
        if result.failure is Failure.NO_TRY_LEFT:
            return result
        self._proved = result
        if result.must_change:
            self._accept(result.method.value)
            self.rejected.refused(result)
        elif result.user is None:
            self._note_exhausted()
        if result.recorded_at_once:
            self.rejected.recorded(result.name)
        return result

    def _note_exhausted(self) -> None:
        self.exhausted = self.exhausted or self._tries >= self._max_tries


def _ask_change(instruction: str) -> Questions:
    return Questions(("New password: ", "Once more: "), instruction)
