"""One login attempt: tries are counted, results are values, and their texts are fixed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from asyncssh import generate_private_key
from engines import ENGINES
from postgresql import Database

from server.audit.journal import Journal
from server.auth.authenticator import Authenticator
from server.auth.credentials import AuthResult, Failure, Method, OfferedKey, Questions
from server.auth.keys import fingerprint, parse_key
from server.auth.login_attempt import LoginAttempt
from server.auth.passwords import PasswordChecker, hash_password
from server.auth.rejected import MOST_NAMES, RejectedCredentials
from server.model.access import Role, User, UserKey
from server.storage import users
from server.storage.store import Store

NOW = "2026-11-24T10:00:00.000+00:00"
PASSWORD = "correct horse"
Attempt = Callable[..., LoginAttempt]


def _key() -> UserKey:
    return parse_key(generate_private_key("ssh-ed25519").export_public_key().decode())


KNOWN, OTHER, AUTHORITY = _key(), _key(), _key()


@asynccontextmanager
async def _attempts(store: Store) -> AsyncIterator[Attempt]:
    """Make attempts at an open store with the users `anna`, `locked` and `changer`."""
    passwords = PasswordChecker()
    journal = Journal(store)
    stored = await asyncio.to_thread(hash_password, PASSWORD)
    known = [
        User("anna", Role.ADMIN, stored, (KNOWN,)),
        User("locked", Role.ADMIN, stored, (KNOWN,), locked=True),
        User("changer", Role.ADMIN, stored, (), must_change_password=True),
    ]
    async with store.transaction() as query:
        for user in known:
            await users.insert(query, user, NOW)
            await users.set_properties(query, user)
            await users.set_password(query, user.name, stored, must_change=user.must_change_password)
    authenticator = Authenticator(store, journal, passwords, "ds1")

    def make(max_tries: int = 6) -> LoginAttempt:
        return LoginAttempt(authenticator, (AUTHORITY,), "192.0.2.1:50000", max_tries)

    yield make
    passwords.close()
    await journal.close()


@pytest_asyncio.fixture
async def attempt(store: Store) -> AsyncIterator[Attempt]:
    """Make attempts at a store with the users `anna`, `locked` and `changer`."""
    async with _attempts(store) as make:
        yield make


async def test_tries_that_are_cut_short_count_and_an_accepted_key_does_not(attempt: Attempt) -> None:
    tries = attempt(3)
    for _ in range(2):  # the query and the signature of a public key login
        assert (await tries.public_key("anna", KNOWN.public_key)).user is not None
        assert not tries.any_failed
    assert (await tries.public_key("anna", KNOWN.public_key)).user is not None
    assert tries.any_failed  # the third time: both signatures were wrong
    cut_short = asyncio.ensure_future(tries.password("anna", PASSWORD))
    await asyncio.sleep(0)
    cut_short.cancel()
    assert not tries.exhausted
    assert (await tries.password("anna", "wrong")).failure is Failure.WRONG_PASSWORD
    assert tries.exhausted
    assert (await tries.password("anna", PASSWORD)).failure is Failure.NO_TRY_LEFT


async def test_the_last_try_may_log_in(attempt: Attempt) -> None:
    tries = attempt(2)
    await tries.password("anna", "wrong")
    assert (await tries.password("anna", PASSWORD)).user is not None
    assert not tries.exhausted
    result = tries.authenticated("anna", certified=False)
    assert result is not None
    assert result.described == "password"


async def test_accepted_credentials_count_for_their_name_and_method_only(attempt: Attempt) -> None:
    tries = attempt()
    await tries.public_key("anna", KNOWN.public_key)
    assert tries.authenticated("locked", certified=False) is None
    assert tries.authenticated("anna", certified=True) is None
    tries.begin()
    assert tries.authenticated("anna", certified=False) is None


async def test_a_password_that_must_be_changed_asks_for_another(attempt: Attempt) -> None:
    tries = attempt()
    assert tries.ask() == Questions(("password: ",))
    asked = await tries.answer("changer", [PASSWORD])
    assert asked == Questions(("New password: ", "Once more: "), "Your password must be changed.")
    again = await tries.answer("changer", ["one", "two"])
    assert isinstance(again, Questions)
    assert again.instruction == "The two passwords differ."
    same = await tries.answer("changer", [PASSWORD, PASSWORD])
    assert isinstance(same, Questions)
    assert same.instruction == "the new password is the old one."
    changed = await tries.answer("changer", ["another one", "another one"])
    assert isinstance(changed, AuthResult)
    assert (changed.user is not None, changed.described) == (True, "password, changed")
    assert changed.method.counted_as == "password"


async def test_a_certificate_of_a_locked_user_is_rejected_and_recorded_at_the_end(attempt: Attempt) -> None:
    tries = attempt()
    offered = OfferedKey(OTHER.public_key, AUTHORITY.public_key, ("locked",))
    claimed = await tries.certificate("locked", offered)
    assert claimed is not None
    assert claimed.principal == "locked"
    result = tries.accept_certificate(claimed, fingerprint(AUTHORITY.public_key))
    assert result.failure is Failure.LOCKED
    assert tries.authenticated("locked", certified=True) is None
    described = [each.described for each in tries.rejected.take()]
    assert described == [f"certificate by {fingerprint(AUTHORITY.public_key)}: locked"]
    assert not [*tries.rejected.take()]


async def test_a_certificate_for_an_unknown_name_is_compared_with_an_unguessable_principal(attempt: Attempt) -> None:
    tries = attempt()
    offered = OfferedKey(OTHER.public_key, AUTHORITY.public_key, ("nobody",))
    principals = set()
    for _ in range(2):
        claimed = await tries.certificate("nobody", offered)
        assert claimed is not None
        principals.add(claimed.principal)
    assert len(principals) == 2
    assert "nobody" not in principals
    assert await tries.certificate("nobody", OfferedKey(OTHER.public_key, OTHER.public_key, ("nobody",))) is None


async def test_a_store_that_does_not_answer_is_no_fault_of_the_client(
    store_database: Database, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store = Store(*await ENGINES["postgresql"](request)(tmp_path))
    async with _attempts(store) as make:
        tries = make()
        assert isinstance(await tries.answer("changer", [PASSWORD]), Questions)
        store_database.psql("ALTER SCHEMA ecss_console RENAME TO away")
        offered = OfferedKey(OTHER.public_key, AUTHORITY.public_key, ("anna",))
        assert await tries.certificate("anna", offered) is None
        results = [
            await tries.answer("changer", ["another one", "another one"]),
            await tries.password("anna", PASSWORD),
            await tries.public_key("anna", KNOWN.public_key),
        ]
        assert [isinstance(each, AuthResult) and each.failure for each in results] == [Failure.NOT_CHECKED] * 3
        assert "the database" in tries.why_not_checked
        assert tries.authenticated("anna", certified=False) is None
        store_database.psql("ALTER SCHEMA away RENAME TO ecss_console")
        again = make()
        assert (await again.password("anna", PASSWORD)).user is not None
        assert not again.why_not_checked
    await store.close()


async def test_no_try_is_left_for_any_method(attempt: Attempt) -> None:
    tries = attempt(2)
    assert isinstance(await tries.answer("changer", [PASSWORD]), Questions)
    while not tries.exhausted:
        await tries.password("anna", "wrong")
    offered = OfferedKey(OTHER.public_key, AUTHORITY.public_key, ("anna",))
    assert await tries.certificate("anna", offered) is None
    for result in (
        await tries.answer("changer", ["another one", "another one"]),
        await tries.public_key("anna", KNOWN.public_key),
    ):
        assert isinstance(result, AuthResult)
        assert result.failure is Failure.NO_TRY_LEFT


def test_rejected_credentials_are_summed_up_once_for_each_name() -> None:
    rejected = RejectedCredentials()
    for name in ("anna", "oleg", "zoe"):
        rejected.key(name, KNOWN.public_key)
        rejected.key(name, OTHER.public_key)
        rejected.certificate(name, "SHA256:x", ("a", "b"))
    rejected.certificate("eve", "SHA256:x", ("eve",))
    rejected.recorded("oleg")
    rejected.logged_in("zoe")
    told = [(each.name, each.described) for each in rejected.take()]
    assert told == [
        ("anna", "key: 2 keys, 1 certificate offered, nothing proved"),
        ("eve", "certificate: 1 certificate offered, nothing proved"),
    ]


def test_names_with_rejected_keys_are_bounded() -> None:
    rejected = RejectedCredentials()
    for number in range(1000):
        rejected.key(f"user{number}", KNOWN.public_key)
    assert [each.name for each in rejected.take()] == [f"user{number}" for number in range(MOST_NAMES)]


def test_a_failure_is_shown_with_its_detail_as_it_is() -> None:
    weak = AuthResult("anna", Method.KEY, failure=Failure.WEAK_KEY, detail="{RSA}", fingerprint="SHA256:x")
    assert weak.described == "key SHA256:x: weak key: {RSA}"
    busy = AuthResult("anna", Method.PASSWORD, failure=Failure.UNAVAILABLE, detail="try again later")
    assert busy.described == "password: try again later"
