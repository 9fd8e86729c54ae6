"""Every commit is announced with its changed topics, whichever caller waits for it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from engines import Opened

from server.auth.authorizer import Authorizer
from server.errors import TemporaryError
from server.model.access import Operator, Role, User
from server.model.events import Event, EventKind
from server.model.integrations import Integration, IntegrationType
from server.storage import domains, history, integrations, users
from server.storage.feed import Changed, Topic, topics_of
from server.storage.store import Store
from server.storage.uncut import CommittedError
from server.storage.writer import Query

NOW = "2026-11-24T10:00:00.000+00:00"
EVE = User("eve", Role.OPERATOR, "hash", (), added_at=NOW)
_RECORD = Event(EventKind.CHANGE, NOW, "ds1", "admin", "127.0.0.1:22", "00000000")


async def _fill(store: Store) -> None:
    async with store.transaction() as query:
        await domains.insert(query, "Biysk", NOW)
        await users.insert(query, EVE, NOW)
        await users.grant(query, "eve", "biysk", NOW)
        await integrations.insert(query, store.vault, "biysk", Integration("c", IntegrationType.WIDGET, ()), "k", NOW)


async def _declare(query: Query, store: Store) -> None:
    assert store
    await domains.insert(query, "another", NOW)


async def _remove_domain(query: Query, store: Store) -> None:
    assert store
    assert await domains.delete(query, "biysk") == ["c"]


async def _lock(query: Query, store: Store) -> None:
    assert store
    await users.set_properties(query, User("eve", Role.OPERATOR, "hash", (), locked=True, added_at=NOW))


async def _remove_user(query: Query, store: Store) -> None:
    assert store
    assert await users.delete(query, "eve")


async def _revoke(query: Query, store: Store) -> None:
    assert store
    assert await users.revoke(query, "eve", "biysk")


async def _replace(query: Query, store: Store) -> None:
    assert await integrations.replace_key(query, store.vault, "biysk", "c", "other", NOW)


async def _type(query: Query, store: Store) -> None:
    assert store
    await history.append(query, "eve", NOW, ["pwd"])
    query.audit.add(_RECORD)


@pytest.mark.parametrize(
    ("change", "topics"),
    [
        (_declare, {Topic.DOMAINS}),
        (_remove_domain, {Topic.DOMAINS, Topic.GRANTS, Topic.INTEGRATIONS}),
        (_lock, {Topic.USERS}),
        (_remove_user, {Topic.USERS, Topic.GRANTS}),
        (_revoke, {Topic.GRANTS}),
        (_replace, {Topic.INTEGRATIONS}),
    ],
)
async def test_a_commit_is_announced_with_its_topics(any_store: Store, change: object, topics: set[Topic]) -> None:
    await _fill(any_store)
    announced: list[Changed] = []
    any_store.feed.subscribe(announced.append)
    async with any_store.transaction() as query:
        await change(query, any_store)  # type: ignore[operator]
        assert announced == []
    assert announced == [Changed(frozenset(topics))]


async def test_history_and_records_are_not_announced_but_a_new_node_is(any_store: Store) -> None:
    await _fill(any_store)
    announced: list[Changed] = []
    any_store.feed.subscribe(announced.append)
    for _ in range(2):
        async with any_store.transaction() as query:
            await _type(query, any_store)
    assert announced == [Changed(frozenset({Topic.NODES}))]


async def test_a_rolled_back_change_is_not_announced(any_store: Store) -> None:
    announced: list[Changed] = []
    any_store.feed.subscribe(announced.append)

    async def fails() -> None:
        async with any_store.transaction() as query:
            await users.insert(query, EVE, NOW)
            raise LookupError

    async def declares() -> None:
        async with any_store.transaction() as query:
            await domains.insert(query, "biysk", NOW)

    outcomes = await asyncio.gather(declares(), fails(), return_exceptions=True)
    assert isinstance(outcomes[1], LookupError)
    assert announced == [Changed(frozenset({Topic.DOMAINS}))]


async def test_a_commit_of_a_cancelled_caller_is_announced_at_once(any_store: Store) -> None:
    """The caller may be gone at the commit; the caches still drop outdated entries."""
    await _fill(any_store)
    authorizer = Authorizer(any_store)
    operator = Operator("eve", Role.OPERATOR, "127.0.0.1:22", "00000000", {"biysk": "Biysk"}, NOW)
    assert await authorizer.current(operator) == operator
    inside, may_go_on = asyncio.Event(), asyncio.Event()

    async def lock() -> None:
        async with any_store.transaction() as query:
            await _lock(query, any_store)
            inside.set()

    async def behind() -> None:
        async with any_store.transaction():
            await may_go_on.wait()

    locking, other = asyncio.create_task(lock()), asyncio.create_task(behind())
    await inside.wait()
    locking.cancel()
    may_go_on.set()
    with pytest.raises(CommittedError):
        await locking
    await other
    assert await authorizer.current(operator) is None


async def test_a_change_of_integrations_keeps_the_user_cache(any_store: Store) -> None:
    await _fill(any_store)
    authorizer = Authorizer(any_store)
    operator = Operator("eve", Role.OPERATOR, "127.0.0.1:22", "00000000", {"biysk": "Biysk"}, NOW)
    reads: list[str] = []
    read = any_store.read

    async def noted(sql: str, *values: str | int | None) -> list[tuple[object, ...]]:
        reads.append(sql)
        return await read(sql, *values)

    any_store.read = noted  # type: ignore[method-assign]
    await authorizer.current(operator)
    assert await authorizer.declared("BIYSK") == "Biysk"
    assert len(reads) == 2
    async with any_store.transaction() as query:
        await _replace(query, any_store)
    await authorizer.current(operator)
    assert await authorizer.declared("biysk") == "Biysk"
    assert len(reads) == 2
    async with any_store.transaction() as query:
        await _remove_domain(query, any_store)
        await domains.insert(query, "BIYSK", NOW)
    found = await authorizer.current(operator)
    assert found is not None
    assert found.domains == {}
    assert await authorizer.declared("biysk") == "BIYSK"


async def test_a_commit_of_another_program_is_announced(opened: Opened, tmp_path: Path) -> None:
    store, other = Store(*await opened(tmp_path)), Store(*await opened(tmp_path))
    heard = asyncio.Event()
    announced: list[Changed] = []
    store.feed.subscribe(announced.append)
    store.feed.subscribe(lambda _changed: heard.set())
    watching = asyncio.create_task(store.watch())
    try:
        await heard.wait()  # the earlier state is unknown
        heard.clear()
        await _fill(other)
        await asyncio.wait_for(heard.wait(), 30)
        assert all(changed.elsewhere and Topic.USERS in changed.topics for changed in announced)
    finally:
        watching.cancel()
        await store.close()
        await other.close()


async def test_a_failing_subscriber_does_not_stop_the_others(
    any_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    announced: list[Changed] = []

    def fails(changed: Changed) -> None:
        raise TemporaryError(str(changed))

    any_store.feed.subscribe(fails)
    any_store.feed.subscribe(announced.append)
    await _fill(any_store)
    assert len(announced) == 1
    assert "a subscriber of changes has failed" in caplog.text


@pytest.mark.parametrize("sql", ["SELECT name FROM users", "INSERT INTO audit (id) VALUES (?)", "COMMIT"])
def test_a_statement_that_writes_nothing_that_is_cached_has_no_topic(sql: str) -> None:
    assert not topics_of(sql)
