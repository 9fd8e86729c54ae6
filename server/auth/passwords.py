"""Passwords: argon2id, computed off the event loop, with the same work for a user that does not exist."""

from __future__ import annotations

import asyncio
import secrets
import string
import stringprep
import unicodedata
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import Type

#: OWASP's first choice for argon2id on a server: 19 MiB, two passes, one lane.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1, type=Type.ID)
_GENERATED_CHARACTERS = 20
MOST_CHARACTERS = 1024
#: What SASLprep refuses, which the SSH method `password` applies to what a client sends.
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


class PasswordChecker:
    """Hashes and verifies passwords in a few threads; `close` it when logins end."""

    def __init__(self, threads: int = 2) -> None:
        """Begin to hash once for the users that do not exist, so that their logins cost the same."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="password")
        self._nobody = self._pool.submit(hash_password, secrets.token_urlsafe())  # the start does not wait for it

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """Tell whether the password is right; None as the hash costs as much and is never right."""
        loop = asyncio.get_running_loop()
        right = await loop.run_in_executor(self._pool, self._matches, password_hash, password)
        return right and password_hash is not None

    async def hash(self, password: str) -> str:
        """Return the hash of a new password."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, hash_password, password)

    def outdated(self, password_hash: str) -> bool:
        """Tell whether a hash was made with other parameters than today's."""
        return _HASHER.check_needs_rehash(password_hash)

    def _matches(self, password_hash: str | None, password: str) -> bool:
        return _matches(password_hash or self._nobody.result(), password)

    def close(self) -> None:
        """End the threads after what is running."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def hash_password(password: str) -> str:
    """Return the argon2id hash in PHC form. Takes about 20 ms of CPU: not for the event loop."""
    return _HASHER.hash(_normal(password))


def new_password() -> str:
    """Make a password that can be typed: 20 letters and digits, about 119 bits."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(_GENERATED_CHARACTERS))


def check_new_password(password: str) -> str:
    """Return a password that may be set; raises ValueError with what is wrong with it."""
    prepared = _prepared(password)
    if not prepared or len(password) > MOST_CHARACTERS or len(prepared) > MOST_CHARACTERS:
        message = f"a password is 1 to {MOST_CHARACTERS} characters"
        raise ValueError(message)
    unassigned = filter(stringprep.in_table_a1, password)  # also what would become another character: RFC 3454, 7
    unfit = next((each for each in (*unassigned, *prepared) if any(table(each) for table in _UNFIT)), None)
    if unfit is not None or _mixes_directions(prepared):
        what = f"U+{ord(unfit):04X}" if unfit else "letters written from right to left between others"
        message = f"a password cannot have {what}: some SSH clients could not send it"
        raise ValueError(message)
    return password


def same_password(one: str, other: str) -> bool:
    """Tell whether two passwords are the same to whoever verifies them."""
    return _prepared(one) == _prepared(other)


def _matches(password_hash: str, password: str) -> bool:
    try:
        right = _HASHER.verify(password_hash, _normal(password[:MOST_CHARACTERS]))
    except (VerificationError, InvalidHashError):
        return False
    return right and len(password) <= MOST_CHARACTERS


def _normal(password: str) -> bytes:
    return _prepared(password).encode()


def _prepared(password: str) -> str:
    """Return a password the same however the client composes its characters (source: RFC 4013, SASLprep)."""
    kept = (each for each in password if not stringprep.in_table_b1(each))
    return unicodedata.normalize("NFKC", "".join(" " if stringprep.in_table_c12(each) else each for each in kept))


def _mixes_directions(prepared: str) -> bool:
    """Tell what SASLprep refuses of letters that are written from right to left."""
    if not any(map(stringprep.in_table_d1, prepared)):
        return False
    ends = prepared[0] + prepared[-1]
    return any(map(stringprep.in_table_d2, prepared)) or not all(map(stringprep.in_table_d1, ends))
