"""SQL that tampers with a chain of 200 records, and the finding of `audit verify` for each."""

from __future__ import annotations

from chains import COLUMNS, NODE

from server.storage import chain


def _swap(one: int, other: int, *columns: str) -> list[str]:
    """Return SQL that swaps columns of two records."""
    names = ", ".join(columns)
    return [
        f"CREATE TEMP TABLE a AS SELECT {names} FROM audit WHERE id = {one}",
        f"CREATE TEMP TABLE b AS SELECT {names} FROM audit WHERE id = {other}",
        *(f"UPDATE audit SET {name} = (SELECT {name} FROM b) WHERE id = {one}" for name in columns),
        *(f"UPDATE audit SET {name} = (SELECT {name} FROM a) WHERE id = {other}" for name in columns),
    ]


def _id_swap(one: int, other: int) -> list[str]:
    return [
        f"UPDATE audit SET id = -1 WHERE id = {one}",
        f"UPDATE audit SET id = {one} WHERE id = {other}",
        f"UPDATE audit SET id = {other} WHERE id = -1",
    ]


def _copy(number: int, id_: str, seq: str) -> str:
    names = ", ".join(chain.COLUMNS)
    return f"INSERT INTO audit (id, {names}, seq, mac) SELECT {id_}, {names}, {seq}, mac FROM audit WHERE id = {number}"


def _shift(first: int) -> list[str]:
    """Return SQL that makes room for a record before the one with this number."""
    return [
        f"UPDATE audit SET id = -id - 1, seq = seq + 1 WHERE id >= {first}",
        "UPDATE audit SET id = -id WHERE id < 0",
    ]


ALL_BUT_SEQ = tuple(column for column in COLUMNS if column != "seq")
STORIES: dict[str, tuple[list[str], list[str]]] = {
    "three records are dropped": (
        ["DELETE FROM audit WHERE id BETWEEN 5 AND 7"],
        [f"records 5 to 7 of {NODE} are missing, and record 8 cannot be checked without"],
    ),
    "the first record is dropped": (
        ["DELETE FROM audit WHERE id = 1"],
        [f"record 1 of {NODE} is missing, and record 2 cannot be checked without"],
    ),
    "the newest records are dropped": (
        ["DELETE FROM audit WHERE id > 197"],
        [f"the newest 3 records of {NODE} are missing, records 198 to 200"],
    ),
    "the newest records are dropped and the head is set back": (
        [
            "DELETE FROM audit WHERE id > 197",
            "UPDATE audit_heads SET seq = 197, mac = (SELECT mac FROM audit WHERE seq = 197)",
        ],
        [f"the head of {NODE} was changed"],
    ),
    "all records are dropped": (
        ["DELETE FROM audit"],
        [f"the newest 200 records of {NODE} are missing, records 1 to 200"],
    ),
    "a record is dropped and the rest renumbered": (
        ["DELETE FROM audit WHERE id = 5", "UPDATE audit SET seq = seq - 1 WHERE seq > 5"],
        [
            f"record 5 of {NODE} is missing, and record 6 cannot be checked without",
            f"records 6 to 200 of {NODE} were changed: the number there is 5 to 199",
        ],
    ),
    "records lie in each other's place": (_id_swap(9, 10), [f"records 9 and 10 of {NODE} changed places"]),
    "far records lie in each other's place": (_id_swap(20, 90), [f"records 20 and 90 of {NODE} changed places"]),
    "records swap what is in them": (_swap(9, 10, *ALL_BUT_SEQ), [f"records 9 and 10 of {NODE} changed places"]),
    "the newest two swap what is in them": (
        _swap(199, 200, *ALL_BUT_SEQ),
        [f"records 199 and 200 of {NODE} changed places"],
    ),
    "records swap what happened but not the macs": (
        _swap(9, 10, "command", "arguments", "detail"),
        [
            f"record 9 of {NODE} was changed",
            f"record 10 of {NODE} was changed, or cannot be checked because record 9 was changed",
        ],
    ),
    "a record moves to the end": (
        ["UPDATE audit SET id = 1000 WHERE id = 50"],
        [f"records 50 to 200 of {NODE} are in another order"],
    ),
    "a copy is put in with the same number": (
        [_copy(30, "1000", "seq")],
        [f"record 30 of {NODE} was put in"],
    ),
    "a copy is put in behind the newest": (
        [_copy(30, "1000", "201")],
        [f"record 201 of {NODE} was put in"],
    ),
    "a copy is put in and the rest renumbered": (
        [*_shift(12), _copy(30, "12", "12"), "UPDATE audit SET detail = 'forged' WHERE id = 12"],
        [
            f"record 12 of {NODE} was put in",
            f"records 12 to 200 of {NODE} were changed: the number there is 13 to 201",
        ],
    ),
    "a record loses its number and mac": (
        ["UPDATE audit SET seq = NULL, mac = NULL WHERE id = 40"],
        [
            "a record without a number was put in, with id 40",
            f"record 40 of {NODE} is missing, and record 41 cannot be checked without",
        ],
    ),
    "the first record loses its number and mac": (
        ["UPDATE audit SET seq = NULL, mac = NULL WHERE id = 1"],
        [
            "a record without a number was put in, with id 1",
            f"record 1 of {NODE} is missing, and record 2 cannot be checked without",
        ],
    ),
    "the newest records are passed off as older than the chain": (
        ["UPDATE audit SET seq = NULL, mac = NULL WHERE id > 198", "DELETE FROM audit_heads"],
        [
            f"the head of {NODE} is missing",
            "a record without a number was put in, with id 199",
            "a record without a number was put in, with id 200",
        ],
    ),
    "all records are passed off as older than the chain": (
        [
            "DELETE FROM audit WHERE id > 2",
            "UPDATE audit SET seq = NULL, mac = NULL",
            "DELETE FROM audit_heads",
            "UPDATE store SET value = '2:2:' || substr(value, 5) WHERE name = 'audit beginning'",
        ],
        ["the mark of where the chain begins was changed or removed", f"{NODE} was removed with all its records"],
    ),
    "a record is changed together with its mac": (
        ["UPDATE audit SET detail = 'nothing', mac = substr(mac, 2) || substr(mac, 1, 1) WHERE id = 60"],
        [
            f"record 60 of {NODE} was changed",
            f"record 61 of {NODE} was changed, or cannot be checked because record 60 was changed",
        ],
    ),
    "a record moves to another node": (
        ["UPDATE audit SET node = 'ds2@ecss2' WHERE id = 70"],
        [f"record 70 of {NODE} was changed"],
    ),
    "the head is removed": (["DELETE FROM audit_heads"], [f"the head of {NODE} is missing"]),
    "the head's signature is changed": (
        ["UPDATE audit_heads SET signature = 'x'"],
        [f"the head of {NODE} was changed"],
    ),
    "the head is no text": (
        ["UPDATE audit_heads SET mac = x'ff00', seq = 'many'"],
        [f"the head of {NODE} was changed"],
    ),
}
