"""Compute the audit chain: the mac that binds a record to the previous one, and the head's signature.

Both need the storage key; the database alone is not enough. Pure.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: In place of a previous mac: `FIRST` for a node's first record, `ANEW` for a record that restarts the chain behind a
#: changed head. Neither is hex, so no mac can equal them.
FIRST = b"first"
ANEW = b"anew"
#: The row of the table `store` that has the signed `Beginning`.
BEGINNING = "audit beginning"
#: The row of the table `store` that has the signed list of nodes.
NODES = "audit nodes"
#: The columns that a mac covers besides `seq`, in this order.
COLUMNS = (
    "at",
    "node",
    "event",
    "user_name",
    "source",
    "session_id",
    "command",
    "arguments",
    "status",
    "detail",
    "duration_ms",
)
#: The index of the node in these columns.
NODE = COLUMNS.index("node")
_LONGEST_MARK = 110


@dataclass(frozen=True, slots=True)
class Head:
    """The newest record of a node's chain. An exported head reveals a later roll-back."""

    seq: int
    mac: str

    def __str__(self) -> str:
        """Return the form that `audit verify --head` takes."""
        return f"{self.seq}:{self.mac}"


@dataclass(frozen=True, slots=True)
class Beginning:
    """The start of the chain: the highest id of the records from before it, and their number."""

    last_id: int
    count: int


class Sealer:
    """Computes macs and signatures with keys that are derived from the storage key."""

    def __init__(self, record_key: bytes, head_key: bytes) -> None:
        """Take one key for records and one for heads."""
        self._record_key = record_key
        self._head_key = head_key

    def mac(self, previous: bytes, seq: int, columns: Sequence[bytes]) -> bytes:
        """Return the mac of a record, in hex; `previous` is the previous mac, or `FIRST` or `ANEW`."""
        return _digest(self._record_key, (previous, b"%d" % seq, *columns))

    def signature(self, node: str, head: Head, nodes: Sequence[str]) -> str:
        """Sign a head, to prove that the console wrote it while these `nodes` were listed, sorted.

        An older list of nodes therefore does not fit newer heads. Before schema 4 there was no list, and `nodes` is
        empty.
        """
        columns = (node, str(head.seq), head.mac, *nodes)
        return _digest(self._head_key, [each.encode() for each in columns]).decode()

    def signed(self, node: str, head: Head, nodes: Sequence[str], signature: str) -> bool:
        """Tell whether the console wrote this head for these nodes."""
        return hmac.compare_digest(self.signature(node, head, nodes).encode(), signature.encode())

    def listed(self, nodes: Iterable[str]) -> str:
        """Return the signed list of nodes in its stored form."""
        text = json.dumps(sorted(set(nodes)), ensure_ascii=False, separators=(",", ":"))
        return f"{self._list_signature(text)}:{text}"

    def nodes(self, listed: str) -> tuple[str, ...] | None:
        """Return the nodes of a stored list, sorted; None when the signature is not the console's."""
        signature, _, text = listed.partition(":")
        if not hmac.compare_digest(self._list_signature(text).encode(), signature.encode()):
            return None
        return tuple(json.loads(text))

    def _list_signature(self, text: str) -> str:
        return _digest(self._head_key, (text.encode(),)).decode()

    def mark(self, beginning: Beginning) -> str:
        """Return the signed beginning in its stored form. No later record can pass for an older one."""
        return f"{beginning.last_id}:{beginning.count}:{self._mark_signature(beginning)}"

    def beginning(self, mark: str) -> Beginning | None:
        """Return the beginning of a stored mark; None when the signature is not the console's."""
        last_id, _, rest = mark.partition(":")
        count, _, signature = rest.partition(":")
        if not (last_id.isdecimal() and count.isdecimal() and len(mark) < _LONGEST_MARK):
            return None
        found = Beginning(int(last_id), int(count))
        return found if hmac.compare_digest(self._mark_signature(found).encode(), signature.encode()) else None

    def _mark_signature(self, beginning: Beginning) -> str:
        return _digest(self._head_key, (b"%d" % beginning.last_id, b"%d" % beginning.count)).decode()


def _digest(key: bytes, columns: Sequence[bytes]) -> bytes:
    """Return the digest of the columns. Each is preceded by its length, so no two records look alike."""
    message = b"".join([b"%d:%b," % (len(column), column) for column in columns])
    return hmac.digest(key, message, "sha256").hex().encode()
