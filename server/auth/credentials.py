"""The result of one try to log in, and every text that the log and the audit show of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from server.model.access import User


class Method(Enum):
    """How a client authenticates. The value is shown to the operators of the server."""

    PASSWORD = "password"  # noqa: S105  the name of a method
    PASSWORD_CHANGE = "password, changed"  # noqa: S105  likewise
    KEY = "key"
    CERTIFICATE = "certificate"

    @property
    def counted_as(self) -> str:
        """The label of the counter of logins."""
        return _COUNTED_AS[self]


_COUNTED_AS = {
    Method.PASSWORD: "password",
    Method.PASSWORD_CHANGE: "password",
    Method.KEY: "key",
    Method.CERTIFICATE: "certificate",
}


class Failure(Enum):
    """Why a try did not log in. The value is the logged text; `{}` stands for the detail of the result.

    The client never sees this text, because it would reveal which users exist.
    """

    UNKNOWN_USER = "unknown user"
    WRONG_PASSWORD = "wrong password"  # noqa: S105  a text
    LOCKED = "locked"
    EXPIRED = "expired"
    MUST_CHANGE_PASSWORD = "password must be changed"  # noqa: S105  likewise
    CHANGE_NOT_NEEDED = "no other password was asked for"
    CHANGED_MEANWHILE = "the password was changed meanwhile"
    CHANGED_BY_WRONG_METHOD = "a password is changed by keyboard-interactive alone"
    UNKNOWN_KEY = "unknown key"
    WEAK_KEY = "weak key: {}"
    KEY_NOT_VALID = "key not valid now or from here"
    UNAVAILABLE = "{}"
    NOT_CHECKED = "not checked: {}"
    NOT_PROVED = "{} offered, nothing proved"
    NO_TRY_LEFT = "no try was left"


#: Clients offer every key they have, and a password that must be changed is not wrong. So these failures mean little by
#: themselves.
_NOT_RECORDED_AT_ONCE = {Failure.UNKNOWN_KEY, Failure.MUST_CHANGE_PASSWORD, Failure.NO_TRY_LEFT}


@dataclass(frozen=True, slots=True)
class AuthResult:
    """The result of one try under a claimed `name`: the `user` who may log in, or the `failure`.

    The user has no keys and no domains. `stored` is the hash that the store has for a right password.
    """

    name: str
    method: Method
    user: User | None = None
    failure: Failure | None = None
    detail: str = ""
    #: The fingerprint of the public key, or of the authority that signed the certificate.
    fingerprint: str = ""
    stored: str | None = None

    @property
    def must_change(self) -> bool:
        """Whether the password is right and must be replaced before anything else."""
        return self.failure is Failure.MUST_CHANGE_PASSWORD

    @property
    def recorded_at_once(self) -> bool:
        """Whether the failure is recorded now. `RejectedCredentials` sums up the others at the end."""
        return self.failure is not None and self.failure not in _NOT_RECORDED_AT_ONCE

    @property
    def used(self) -> str:
        """The method and, if there is one, the fingerprint: `key SHA256:…`, `certificate by SHA256:…`."""
        if not self.fingerprint:
            return self.method.value
        link = " by " if self.method is Method.CERTIFICATE else " "
        return f"{self.method.value}{link}{self.fingerprint}"

    @property
    def reason(self) -> str:
        """The text of the failure; empty when the user may log in."""
        return self.failure.value.format(self.detail) if self.failure is not None else ""

    @property
    def described(self) -> str:
        """The detail of the audit record."""
        return f"{self.used}: {self.reason}" if self.failure is not None else self.used


@dataclass(frozen=True, slots=True)
class OfferedKey:
    """A public key that a client offers, `algorithm base64`.

    With an `authority`, a public key too, it is a certificate of that authority for the `principals`.
    """

    public_key: str
    authority: str | None = None
    principals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Questions:
    """Questions of keyboard-interactive. No answer is echoed."""

    questions: tuple[str, ...]
    instruction: str = ""
