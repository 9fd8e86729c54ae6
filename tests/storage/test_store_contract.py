"""What the rest of the program needs of a store: the same answers from each engine."""

from __future__ import annotations

from dataclasses import replace

from chains import event

from server.audit.journal import Journal
from server.audit.verify import findings, inspect
from server.cooperative import Turns
from server.model.access import Role, User, UserKey
from server.model.integrations import Integration, IntegrationType, new_key
from server.storage import credentials, domains, events, history, integrations, users
from server.storage.store import Store

_NOW = "2026-11-29T10:00:00.000+00:00"


def _user(name: str, *keys: str, role: Role = Role.ADMIN) -> User:
    return User(name=name, role=role, password_hash=None, keys=tuple(map(UserKey, keys)), added_at=_NOW)


async def _filled(store: Store) -> None:
    async with store.transaction() as query:
        for name in ("vera", "admin", "oleg"):
            role = Role.ADMIN if name == "admin" else Role.OPERATOR
            assert await users.insert(query, _user(name, f"ssh-ed25519 {name}", role=role), _NOW)
        for name in ("Biysk.local", "a.local", "Z.local"):
            assert await domains.insert(query, name, _NOW)


async def test_users_are_found_with_their_keys_and_grants(any_store: Store) -> None:
    await _filled(any_store)
    async with any_store.transaction() as query:
        assert not await users.insert(query, _user("oleg"), _NOW)
        assert not await users.insert_key(query, "oleg", UserKey("ssh-ed25519 oleg"), _NOW)
        assert await users.insert_key(query, "oleg", UserKey("ssh-ed25519 second", "laptop", ("10.0.0.0/8",)), _NOW)
        assert await users.grant(query, "oleg", "BIYSK.local", _NOW)
        assert not await users.grant(query, "oleg", "biysk.LOCAL", _NOW)
    oleg = await users.find(any_store.read, "oleg")
    assert oleg is not None
    assert [str(key) for key in oleg.keys] == ["ssh-ed25519 oleg", "ssh-ed25519 second"]
    assert oleg.keys[1].sources == ("10.0.0.0/8",)
    assert oleg.domains == {"biysk.local": "Biysk.local"}
    assert [user.name for user in await users.every(any_store)] == ["admin", "oleg", "vera"]
    assert (await credentials.by_name(any_store.read, "oleg")).role == "operator"
    assert (await credentials.by_name(any_store.read, "nobody")).name is None
    assert (await credentials.by_key(any_store.read, "oleg", "ssh-ed25519 second")).comment == "laptop"
    assert (await credentials.by_key(any_store.read, "vera", "ssh-ed25519 second")).name is None
    async with any_store.transaction() as query:
        assert await users.delete(query, "oleg")
    assert await any_store.read("SELECT user_name FROM user_keys ORDER BY user_name") == [("admin",), ("vera",)]
    assert await any_store.read("SELECT count(*) FROM grants") == [(0,)]


async def test_a_password_is_exchanged_only_for_the_expected_one(any_store: Store) -> None:
    await _filled(any_store)
    async with any_store.transaction() as query:
        assert await users.set_password(query, "oleg", "first")
        assert not await users.exchange_password(query, "oleg", "other", "second")
        assert await users.exchange_password(query, "oleg", "first", "second")
        assert not await users.renew_hash(query, "oleg", "first", "third")
    assert (await credentials.by_name(any_store.read, "oleg")).password_hash == "second"


async def test_domains_are_found_in_any_case_and_sorted_by_code_point(any_store: Store) -> None:
    await _filled(any_store)
    async with any_store.transaction() as query:
        assert not await domains.insert(query, "BIYSK.LOCAL", _NOW)
    assert [each.name for each in await domains.every(any_store)] == ["a.local", "Biysk.local", "Z.local"]
    assert await domains.declared_as(any_store.read, "biysk.LOCAL") == "Biysk.local"
    assert await domains.names(any_store, "", 2) == ["a.local", "Biysk.local", "Z.local"]
    async with any_store.transaction() as query:
        assert await domains.delete(query, "BIYSK.local") == []
        assert await domains.delete(query, "biysk.local") is None


async def test_integrations_keep_their_keys_apart(any_store: Store) -> None:
    await _filled(any_store)
    vault, share = any_store.vault, Turns().of("tests")
    first, second = new_key(), new_key()
    service = Integration("Z-1", IntegrationType.SERVICE, ("2400", "2401"))
    async with any_store.transaction() as query:
        await integrations.insert(query, vault, "biysk.local", service, first, _NOW)
        await integrations.insert(query, vault, "biysk.local", Integration("a.2", IntegrationType.WIDGET), second, _NOW)
    keyed = await integrations.of_domain(any_store, "Biysk.local", share, lambda _done, _total: None) or []
    assert [(each.integration.client_id, each.key) for each in keyed] == [("Z-1", first), ("a.2", second)]
    replaced = new_key()
    async with any_store.transaction() as query:
        assert await integrations.replace_key(query, vault, "biysk.local", "Z-1", replaced, _NOW)
        assert not await integrations.replace_key(query, vault, "biysk.local", "none", new_key(), _NOW)
        await integrations.set_properties(query, "biysk.local", replace(service, numbers=("7",)), _NOW)
        assert await integrations.delete(query, "biysk.local", "a.2")
    one = await integrations.one(any_store, "biysk.local", "Z-1")
    assert one is not None
    assert (one.key, one.integration.numbers) == (replaced, ("7",))
    assert await any_store.read("SELECT key_hash FROM integrations") == [(vault.lookup_hash(replaced),)]
    assert await integrations.of_domain(any_store, "none.local", share, lambda _done, _total: None) is None


async def test_the_history_keeps_the_newest_lines_within_its_limits(any_store: Store) -> None:
    await _filled(any_store)
    async with any_store.transaction() as query:
        await history.append(query, "oleg", _NOW, [f"line {number}" for number in range(1200)])
        await history.append(query, "oleg", "of another user with this name", ["never"])
    assert await history.lines(any_store, "oleg") == [f"line {number}" for number in range(200, 1200)]
    async with any_store.transaction() as query:
        await history.append(query, "oleg", _NOW, ["ж" * 100_000, "last"])
    kept = await history.lines(any_store, "oleg")
    assert kept[-2:] == ["ж" * 100_000, "last"]
    assert sum(len(line.encode()) for line in kept) <= history.KEPT_BYTES
    assert await any_store.read("SELECT count(*) FROM history") == [(len(kept),)]


async def test_records_with_characters_that_no_engine_stores_block_no_other(any_store: Store) -> None:
    journal = Journal(any_store)
    for number, name in enumerate(("one", "\udcff two", "\0three", "four")):
        journal.record_soon(replace(event(number), user_name=name))
    await journal.close()
    stored = await any_store.read("SELECT user_name FROM audit ORDER BY id")
    assert stored == [("one",), ("? two",), ("\N{REPLACEMENT CHARACTER}three",), ("four",)]
    assert [row["user_name"] for row in await events.after(any_store, 0, 2)] == ["one", "? two"]
    inspection = await inspect(any_store, None, Turns().of("tests"), lambda _done, _total: None)
    assert findings(inspection) == []
    assert (await events.outline(any_store)).last_id == await events.last_id(any_store) == 4
