"""Passwords: argon2id, computed in threads, with the same work for a user that does not exist."""

from __future__ import annotations

import secrets
import string
import stringprep
import unicodedata
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import Type

from server.cooperative import FairPool, TooManyWaitError
from server.errors import TemporaryError

#: OWASP's first choice for argon2id on a server: 19 MiB, two passes, one lane.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1, type=Type.ID)
_GENERATED_CHARACTERS = 20
_T = TypeVar("_T")
_P = ParamSpec("_P")
#: Normalising a longer password could take seconds, so it is refused before that.
MOST_BYTES = 1024
#: The upper bound of one owner's waiting passwords. It exceeds the default connection limits of a source and a user.
_MOST_WAITING = 64
#: The characters that SASLprep prohibits; SSH clients apply it to passwords.
_UNFIT = (
    stringprep.in_table_a1,
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


class TooManyPasswordsError(TemporaryError):
    """Too many passwords of one client wait: that client causes it, in contrast to a store that does not answer."""


class PasswordChecker:
    """Hashes and verifies passwords in a few threads; `close` it when logins end.

    The `owner` of the work is the source of a login, or a user. The threads serve one owner after another, so one with
    many passwords does not delay the logins of others.
    """

    def __init__(self, threads: int = 2) -> None:
        """Start to hash a random password for unknown users, so that their logins cost the same."""
        self._pool = FairPool(threads, "password", _MOST_WAITING)
        self._nobody = self._pool.submit(hash_password, secrets.token_urlsafe())  # the start does not wait for the hash

    async def verify(self, owner: str, password_hash: str | None, password: str) -> bool:
        """Tell whether the password is right; without a hash it costs the same and is always wrong.

        Raises TemporaryError when too many passwords of the owner wait.
        """
        right = await self._run(owner, self._matches, password_hash, password)
        return right and password_hash is not None

    async def hash(self, owner: str, password: str) -> str:
        """Return the hash of a new password. Raises TemporaryError when too many passwords of the owner wait."""
        return await self._run(owner, hash_password, password)

    async def _run(self, owner: str, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return await self._pool.run(owner, work, *args, **kwargs)
        except TooManyWaitError:
            message = f"too many passwords from {owner} are being checked, try again later"
            raise TooManyPasswordsError(message) from None

    def outdated(self, password_hash: str) -> bool:
        """Tell whether a hash was made with other parameters than the current ones."""
        return _HASHER.check_needs_rehash(password_hash)

    def _matches(self, password_hash: str | None, password: str) -> bool:
        return _matches(password_hash or self._nobody.result(), password)

    def close(self) -> None:
        """End the threads when their current work is done."""
        self._pool.close()


def hash_password(password: str) -> str:
    """Return the argon2id hash in PHC form. Takes about 20 ms of CPU: not for the event loop."""
    return _HASHER.hash(_normal(password))


def new_password() -> str:
    """Make a password that can be typed: 20 letters and digits, about 119 bits."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(_GENERATED_CHARACTERS))


def check_new_password(password: str) -> str:
    """Return a password that may be set. Raises ValueError that says what is wrong with it."""
    prepared = _prepared(password) if fits(password) else ""
    if not prepared or not fits(prepared):
        message = f"a password is 1 to {MOST_BYTES} bytes"
        raise ValueError(message)
    unassigned = filter(stringprep.in_table_a1, password)  # also characters that SASLprep would replace: RFC 3454, 7
    unfit = next((each for each in (*unassigned, *prepared) if any(table(each) for table in _UNFIT)), None)
    if unfit is not None or _mixes_directions(prepared):
        what = f"U+{ord(unfit):04X}" if unfit else "letters written from right to left between others"
        message = f"a password cannot have {what}: some SSH clients could not send it"
        raise ValueError(message)
    return password


def fits(password: str) -> bool:
    """Tell whether a password is short enough to be normalised."""
    return len(password) <= MOST_BYTES and len(password.encode(errors="replace")) <= MOST_BYTES


def same_password(one: str, other: str) -> bool:
    """Tell whether two passwords are equal after normalisation."""
    return _prepared(one) == _prepared(other)


def _matches(password_hash: str, password: str) -> bool:
    try:
        right = _HASHER.verify(password_hash, _normal(password if fits(password) else ""))
    except (VerificationError, InvalidHashError):
        return False
    return right and fits(password)


def _normal(password: str) -> bytes:
    return _prepared(password).encode()


def _prepared(password: str) -> str:
    """Normalise a password, so that composed and decomposed characters are equal (RFC 4013, SASLprep)."""
    kept = (each for each in password if not stringprep.in_table_b1(each))
    return unicodedata.normalize("NFKC", "".join(" " if stringprep.in_table_c12(each) else each for each in kept))


def _mixes_directions(prepared: str) -> bool:
    """Tell whether SASLprep refuses the mix of letters written from right to left with others."""
    if not any(map(stringprep.in_table_d1, prepared)):
        return False
    ends = prepared[0] + prepared[-1]
    return any(map(stringprep.in_table_d2, prepared)) or not all(map(stringprep.in_table_d1, ends))
