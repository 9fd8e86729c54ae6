"""A cache is used only while no change of another node can have been missed."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from server.auth.authorizer import Authorizer
from server.model.access import Operator, Role, User
from server.storage import users
from server.storage.proof import ALWAYS, NEVER, CacheProof
from server.storage.store import Store

NOW = "2026-11-24T10:00:00.000+00:00"


def test_a_proof_ends_on_either_clock() -> None:
    proof = CacheProof.starting_now(60)
    assert proof.holds()
    assert not replace(proof, until_seconds=-inf).holds(), "the process was frozen"
    assert not replace(proof, wall_until_seconds=0.0).holds(), "the machine was asleep"
    assert not replace(proof, wall_from_seconds=inf).holds(), "the clock was set back"
    assert not CacheProof.starting_now(0).holds()
    assert ALWAYS.holds()
    assert not NEVER.holds()


async def test_without_a_proof_rights_are_read_from_the_store(store: Store) -> None:
    async with store.transaction() as query:
        await users.insert(query, User("eve", Role.OPERATOR, "hash", (), added_at=NOW), NOW)
    authorizer = Authorizer(store)
    store.feed._subscribers.clear()  # noqa: SLF001  as if the notification of the change were lost
    eve = Operator("eve", Role.OPERATOR, "127.0.0.1:22", "00000000", added_at=NOW)
    assert await authorizer.current(eve) == eve
    async with store.transaction() as query:
        await users.delete(query, "eve")
    assert await authorizer.current(eve) == eve, "the cache is used"
    store.proof = NEVER
    assert await authorizer.current(eve) is None
    store.proof = ALWAYS
    assert await authorizer.current(eve) is None, "what was read replaces the cached user"
