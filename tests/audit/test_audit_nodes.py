"""The list of audit nodes: no node vanishes with all its records unnoticed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from chains import NODE, Attacked, event

from server.storage.sqlite.files import Prepared, prepare

OTHER = "ds2@ecss1"
_LIST = "SELECT value FROM store WHERE name = 'audit nodes'"
_REMOVED = f"{OTHER} was removed with all its records"
_LIST_CHANGED = "the list of the nodes was changed or removed"
_HEAD_CHANGED = f"the head of {NODE} was changed"


@pytest.fixture
def chains(tmp_path: Path) -> Attacked:
    """A store with a node in use and a retired one, five records each."""
    store = Attacked.make(tmp_path)
    store.write(event(number) for number in range(1, 3))
    store.write(event(number, OTHER) for number in range(1, 6))
    store.write(event(number) for number in range(3, 6))
    assert store.found() == []
    return store


def _remove(chains: Attacked, node: str) -> None:
    chains.sql(("DELETE FROM audit WHERE node = ?", [node]), ("DELETE FROM audit_heads WHERE node = ?", [node]))


def _set(chains: Attacked, value: object) -> None:
    chains.sql(("INSERT OR REPLACE INTO store (name, value) VALUES ('audit nodes', ?)", [value]))


def test_a_removed_node_with_all_its_records_is_detected(chains: Attacked) -> None:
    """Nothing revealed it once the node's name was out of use."""
    _remove(chains, OTHER)
    assert chains.found() == [_REMOVED]
    chains.write([event(6), event(7)])
    assert chains.found() == [_REMOVED], "for ever"


def test_a_removed_node_with_an_older_list_is_detected(chains: Attacked, tmp_path: Path) -> None:
    """The older list is signed, but the other node's head is signed for the current list."""
    older = Attacked(_copied(chains, tmp_path / "older"))
    older.sql("DELETE FROM audit", "DELETE FROM audit_heads", "DELETE FROM store WHERE name = 'audit nodes'")
    older.write([event(1)])
    ((before,),) = older.sql(_LIST)
    assert str(before).endswith(f':["{NODE}"]')
    _remove(chains, OTHER)
    _set(chains, before)
    assert chains.found() == [_HEAD_CHANGED]
    chains.write([event(6)])
    anew = f"record 6 of {NODE} was written behind a head that was changed: what was there before is not certain"
    assert chains.found() == [anew], "what goes on behind it does not cover it up"


def _copied(chains: Attacked, folder: Path) -> Prepared:
    """Return a copy with the same storage key, like an older backup."""
    (folder / "keys").mkdir(parents=True)
    key = chains.prepared.database.parent.parent / "keys" / "storage.key"
    (folder / "keys" / "storage.key").write_bytes(key.read_bytes())
    (folder / "var").mkdir()
    with closing(sqlite3.connect(chains.prepared.database)) as source:
        source.execute("VACUUM INTO ?", [str(folder / "var" / "console.db")])
    return prepare(folder / "var" / "console.db", folder / "keys", make=False)


def test_a_removed_node_and_list_are_detected(chains: Attacked) -> None:
    _remove(chains, OTHER)
    chains.sql("DELETE FROM store WHERE name = 'audit nodes'")
    assert chains.found() == [_LIST_CHANGED, _HEAD_CHANGED]
    chains.write([event(6)])
    assert len(chains.found()) == 1


def test_a_removed_audit_is_detected(chains: Attacked) -> None:
    chains.sql("DELETE FROM audit", "DELETE FROM audit_heads")
    assert chains.found() == [f"{node} was removed with all its records" for node in (NODE, OTHER)]
    chains.write([event(1)])
    assert len(chains.found()) == 2
    _set(chains, "[]")
    assert _LIST_CHANGED in chains.found()


def test_every_byte_of_the_list_that_is_flipped_is_found_and_harms_no_chain(chains: Attacked) -> None:
    ((before,),) = chains.sql(_LIST)
    raw = str(before).encode()
    for place in range(len(raw)):
        _set(chains, raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        assert chains.found() == [_LIST_CHANGED], place
    for other in (None, "", b"\xff", 7, raw.decode() + " ", raw.decode()[:-1]):
        if other is None:
            chains.sql("DELETE FROM store WHERE name = 'audit nodes'")
        else:
            _set(chains, other)
        assert chains.found() == [_LIST_CHANGED], other
    _set(chains, before)
    assert chains.found() == []


def test_a_changed_node_list_is_rewritten_with_the_next_record(chains: Attacked) -> None:
    """No record was lost, because the heads match the nodes."""
    ((before,),) = chains.sql(_LIST)
    _set(chains, "nothing")
    chains.write([event(6)])
    assert chains.found() == []
    assert chains.sql(_LIST) == [(before,)]


def test_a_new_node_is_listed_and_changed_heads_stay_reported(chains: Attacked) -> None:
    chains.sql(("UPDATE audit_heads SET signature = 'x' WHERE node = ?", [OTHER]))
    chains.write([event(1, "ds3@ecss1")])
    assert chains.found() == [f"the head of {OTHER} was changed"]
    ((listed,),) = chains.sql(_LIST)
    assert str(listed).endswith(f':["{NODE}","{OTHER}","ds3@ecss1"]')
    chains.write([event(6)])
    assert chains.found() == [f"the head of {OTHER} was changed"]


def test_an_upgrade_lists_existing_nodes_and_repairs_no_head(chains: Attacked) -> None:
    """The list cannot reveal records removed before it was made."""
    audit = chains.prepared.vault.audit
    for node in (NODE, OTHER):
        chains.sql(
            (
                "UPDATE audit_heads SET signature = ? WHERE node = ?",
                [audit.signature(node, chains.head(node), ()), node],
            )
        )
    chains.sql(
        ("UPDATE audit_heads SET signature = 'x' WHERE node = ?", [OTHER]),
        "DELETE FROM store WHERE name = 'audit nodes'",
        "ALTER TABLE domains DROP COLUMN declared_as",
        "UPDATE store SET value = '3' WHERE name = 'schema'",
    )
    assert chains.found() == [f"the head of {OTHER} was changed"], "an older schema, as in a backup, has no list"
    prepare(chains.prepared.database, chains.prepared.database.parent.parent / "keys", make=False)
    assert chains.found() == [f"the head of {OTHER} was changed"]
    _remove(chains, OTHER)
    assert chains.found() == [_REMOVED]
