"""`audit verify` names the kind and record of each change made without the storage key."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from chains import COLUMNS, NODE, Attacked, event
from stories import STORIES

from server.audit.inspection import MOST_FINDINGS, WINDOW, Inspection
from server.audit.verify import certificate, findings
from server.storage import events
from server.storage.events import Kept
from server.storage.heads import Outline

LENGTH = 200
_NUMBERS = {"status", "duration_ms", "seq"}
_CHANGED_NUMBER = tuple(1 << 8 * byte for byte in range(7))


@pytest.fixture
def chain(tmp_path: Path) -> Attacked:
    """A store with a chain of 200 records."""
    store = Attacked.make(tmp_path)
    store.write(event(number) for number in range(1, LENGTH + 1))
    return store


def _loaded(chain: Attacked) -> tuple[list[Kept], Outline]:
    async def load() -> tuple[list[Kept], Outline]:
        store = await chain.opened()
        outline = await events.outline(store)
        rows = await events.kept(store, 0, outline.last_id, LENGTH)
        await store.close()
        return rows, outline

    return asyncio.run(load())


def _flips(record: Kept) -> Iterator[Kept]:
    """Yield the record once for each byte of each column, with that byte flipped."""
    for place, column in enumerate(COLUMNS[:-2]):
        value = record.columns[place]
        if column in _NUMBERS:
            others = [str(int(value) ^ bit).encode() for bit in _CHANGED_NUMBER]
        else:
            others = [value[:byte] + bytes([value[byte] ^ 0x20]) + value[byte + 1 :] for byte in range(len(value))]
        for other in others:
            yield replace(record, columns=(*record.columns[:place], other, *record.columns[place + 1 :]))
    for byte in range(len(record.mac)):
        yield replace(record, mac=record.mac[:byte] + bytes([record.mac[byte] ^ 1]) + record.mac[byte + 1 :])
    for bit in _CHANGED_NUMBER:
        yield replace(record, seq=(record.seq or 0) ^ bit)


@pytest.mark.slow
def test_every_flipped_byte_of_every_column_is_found_in_the_right_record(chain: Attacked) -> None:
    """Change several distant records at a time, so that each has its own finding, until every byte was flipped."""
    rows, outline = _loaded(chain)
    sealer = chain.prepared.vault.audit
    apart = 10
    flips = 0
    for offset in range(apart):
        todo = {place: _flips(rows[place]) for place in range(offset, LENGTH, apart)}
        while todo:
            changed = {place: other for place, these in todo.items() if (other := next(these, None))}
            todo = {place: these for place, these in todo.items() if place in changed}
            inspection = Inspection(sealer, outline)
            inspection.feed(changed.get(place, row) for place, row in enumerate(rows))
            inspection.finish()
            told = [text.partition(":")[0] for text in findings(inspection)]
            assert told == [f"record {place + 1} of {NODE} was changed" for place in sorted(changed)]
            flips += len(changed)
    assert flips > LENGTH * 150


@pytest.mark.slow
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("number", [1, 17, LENGTH])
def test_a_column_that_was_changed_in_the_file_is_found(chain: Attacked, column: str, number: int) -> None:
    """Includes values that are not text, and another type that reads the same."""
    kept = f"id = {number}"
    for changed in (
        f"UPDATE audit SET {column} = {column} || 'x' WHERE {kept}",
        f"UPDATE audit SET {column} = CAST(x'ff' AS TEXT) WHERE {kept}",
        f"UPDATE audit SET {column} = CAST({column} AS BLOB) WHERE {kept}",
        f"UPDATE audit SET {column} = '' WHERE {kept}",
    ):
        ((before,),) = chain.sql(f"SELECT {column} FROM audit WHERE {kept}")
        chain.sql(changed)
        (finding,) = (text.partition(":")[0] for text in chain.found())
        assert finding == f"record {number} of {NODE} was changed", changed
        chain.sql((f"UPDATE audit SET {column} = ? WHERE {kept}", [before]))
        assert chain.found() == []


@pytest.mark.parametrize("story", STORIES)
def test_each_kind_of_tampering_is_reported(chain: Attacked, story: str) -> None:
    statements, told = STORIES[story]
    chain.sql(*statements)
    assert chain.found() == told


def test_an_intact_chain_verifies(chain: Attacked) -> None:
    chain.write([event(1, "ds2@ecss2")])
    chain.write([event(201), event(2, "ds2@ecss2")])
    inspection = chain.inspected(chain.head())
    assert findings(inspection) == []
    assert certificate(inspection) == [
        f"{NODE}: 201 records are whole, head {chain.head()}",
        f"ds2@ecss2: 2 records are whole, head {chain.head('ds2@ecss2')}",
    ]


def test_a_full_rollback_is_detected_by_an_exported_head(chain: Attacked) -> None:
    """The store of an hour ago is valid in itself, so only an exported head reveals the rollback."""
    before = chain.prepared.database.read_bytes()
    earlier = chain.head()
    chain.write(event(number) for number in range(201, 211))
    exported = chain.head()
    assert chain.found(exported) == []
    assert chain.found(earlier) == [], "a head stays true when the chain goes on"
    chain.prepared.database.write_bytes(before)
    assert chain.found() == []
    told = [f"{NODE} ends at record 200, the exported head is 210: it was rolled back or cut"]
    assert chain.found(exported) == told
    chain.write(event(number) for number in range(301, 321))
    assert chain.found(exported) == [f"record 210 of {NODE} is not the one that was exported"]


def test_records_with_an_older_head_are_detected(chain: Attacked) -> None:
    ((seq, mac, signature),) = chain.sql("SELECT seq, mac, signature FROM audit_heads")
    chain.write([event(201), event(202)])
    chain.sql(("UPDATE audit_heads SET seq = ?, mac = ?, signature = ?", [seq, mac, signature]))
    assert chain.found() == [f"the head of {NODE} was set back to 200, its records go on to 202"]


@pytest.mark.parametrize(
    ("attack", "told"),
    [
        ("UPDATE audit_heads SET signature = 'x'", []),
        ("DELETE FROM audit_heads", []),
        ("UPDATE audit_heads SET seq = 190, mac = (SELECT mac FROM audit WHERE seq = 190)", []),
    ],
)
def test_new_records_do_not_hide_a_changed_head(chain: Attacked, attack: str, told: list[str]) -> None:
    """The console keeps running, as operators need it. The finding stays."""
    chain.sql(attack)
    chain.write([event(201)])
    chain.write([event(202)])
    anew = f"record 201 of {NODE} was written behind a head that was changed: what was there before is not certain"
    assert chain.found() == [*told, anew]


def test_deleted_records_stay_reported_after_new_ones(chain: Attacked) -> None:
    chain.sql("DELETE FROM audit WHERE id > 197")
    chain.write([event(201)])
    assert chain.found() == [
        f"records 198 to 200 of {NODE} are missing, and record 201 cannot be checked without",
    ]


def test_another_storage_key_makes_another_chain(chain: Attacked, tmp_path: Path) -> None:
    """Records of a second console cannot be moved here."""
    other = Attacked.make(tmp_path / "other")
    other.write(event(number) for number in range(1, LENGTH + 1))
    rows = other.sql(f"SELECT {', '.join(COLUMNS)} FROM audit WHERE id = 50")
    chain.sql((f"UPDATE audit SET ({', '.join(COLUMNS)}) = ({', '.join('?' * len(COLUMNS))}) WHERE id = 50", rows[0]))
    assert chain.found()[0] == f"record 50 of {NODE} was changed"


def test_endless_damage_ends_the_check(tmp_path: Path) -> None:
    store = Attacked.make(tmp_path)
    store.write(event(number) for number in range(1, 5 * WINDOW))
    store.sql("UPDATE audit SET detail = 'x' WHERE id % 2 = 0")
    told = store.found()
    assert told[-1] == "there is more: the check ended here"
    assert len(told) == MOST_FINDINGS + 1
    store.sql("UPDATE audit SET mac = 'x', seq = abs(random() % 10000)")
    assert store.found()


def test_a_raw_write_to_a_record_is_detected(chain: Attacked) -> None:
    """Neither the index nor an SQL statement reveals it."""
    chain.sql("PRAGMA wal_checkpoint(TRUNCATE)")
    raw = chain.prepared.database.read_bytes()
    assert raw.count(b"declare domain d123") == 1
    chain.prepared.database.write_bytes(raw.replace(b"declare domain d123", b"declare domain d124"))
    assert chain.found() == [f"record 123 of {NODE} was changed"]


_WRITER = """
import asyncio, sys
from pathlib import Path
from random import Random
sys.path.insert(0, {tests!r})
from chains import Attacked, event
from server.storage import events

async def write(store):
    opened = await store.opened()
    for number in range(60):
        async with opened.transaction(30) as query:
            query.audit.add(event(number), event(number + 1000))
    await opened.close()

asyncio.run(write(Attacked.make(Path({folder!r}))))
"""


def test_two_programs_that_record_at_once_keep_one_chain(tmp_path: Path) -> None:
    store = Attacked.make(tmp_path)
    script = _WRITER.format(tests=str(Path(__file__).parents[1] / "support"), folder=str(tmp_path))
    writers = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    inspection = store.inspected()
    assert certificate(inspection) == [f"{NODE}: 240 records are whole, head {store.head()}"]
    assert not inspection.findings


def test_a_transaction_that_is_rolled_back_leaves_the_chain_whole(tmp_path: Path) -> None:
    store = Attacked.make(tmp_path)

    async def write() -> None:
        opened = await store.opened()
        for number in range(10):
            with suppress(ZeroDivisionError):
                async with opened.transaction() as query:
                    query.audit.add(event(number))
                    assert 1 // (number % 2), "an odd one is kept"
        await opened.close()

    asyncio.run(write())
    assert certificate(store.inspected()) == [f"{NODE}: 5 records are whole, head {store.head()}"]


@pytest.mark.parametrize("number", ["'many'", "x'ff'", "1e300"])
def test_a_changed_record_number_does_not_stop_recording(tmp_path: Path, number: str) -> None:
    """The newest number was once used unchecked: every change failed after the next start of the server."""
    store = Attacked.make(tmp_path)
    store.write(event(each) for each in range(3))
    store.sql(f"UPDATE audit SET seq = {number} WHERE id = 2")
    store.write([event(4)])
    assert store.sql("SELECT seq FROM audit WHERE id = 4") == [(4,)]
    assert store.found()


def test_unusual_text_keeps_the_chain_intact(tmp_path: Path) -> None:
    store = Attacked.make(tmp_path)
    odd: list[Callable[[str], str]] = [lambda text: f"{text}\0{text}", lambda _: "", lambda text: f"1:{text},"]
    store.write(replace(event(1), detail=make("é\u2028𝄞"), arguments=make("{}")) for make in odd)
    assert store.found() == []


def _attacked_at_random(rows: list[Kept], dice: Random) -> list[Kept]:
    """Return the records after up to four kinds of tampering in any order."""
    rows = [*rows]
    for _ in range(dice.randint(1, 4)):
        at, other = dice.randrange(len(rows)), dice.randrange(len(rows))
        match dice.randrange(7):
            case 0:
                del rows[at : at + dice.randint(1, 9)]
            case 1:
                rows[at], rows[other] = rows[other], rows[at]
            case 2:
                rows.insert(at, rows[other])
            case 3:
                rows[at] = replace(rows[at], seq=dice.choice((None, 0, -1, rows[other].seq, 2**62)))
            case 4:
                rows[at] = replace(rows[at], columns=rows[other].columns)
            case 5:
                rows[at] = replace(rows[at], mac=dice.choice((b"", b"first", b"anew", rows[other].mac)))
            case _:
                columns = (rows[at].columns[0], b"ds9@ecss9", *rows[at].columns[2:])
                rows[at] = replace(rows[at], columns=columns, unchained=dice.random() < 0.5)
        if not rows:
            break
    return rows


def test_random_tampering_is_detected(chain: Attacked) -> None:
    """Single attacks have exact findings above. Combined ones must only be found and not break the check."""
    rows, outline = _loaded(chain)
    dice = Random(20261123)  # noqa: S311  the same every time
    for _ in range(400):
        attacked = _attacked_at_random(rows[-60:] if dice.random() < 0.1 else rows, dice)
        inspection = Inspection(chain.prepared.vault.audit, outline)
        for start in range(0, len(attacked), 50):
            inspection.feed(attacked[start : start + 50])
        inspection.finish()
        assert bool(inspection.findings) == (attacked != rows)
        assert all(str(finding) for finding in inspection.findings)
