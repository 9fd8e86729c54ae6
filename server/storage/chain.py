"""The arithmetic of the audit's chain: what binds a record to the one before it, and what signs the newest.

Whoever has the database without the storage key can compute neither. Pure.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: Stands for the mac before a node's first record, and before a record that begins anew behind a head that was
#: changed. No mac can be either: they are no hex.
FIRST = b"first"
ANEW = b"anew"
#: The name of the signed `Beginning` among what the store says of itself.
BEGINNING = "audit beginning"
#: The name of the signed list of nodes there.
NODES = "audit nodes"
#: What a mac covers besides `seq`, in this order: the columns of a record.
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
#: Where the node stands among them.
NODE = COLUMNS.index("node")
_LONGEST_MARK = 110


@dataclass(frozen=True, slots=True)
class Head:
    """The newest record of a node's chain: what is exported so that a roll-back is found."""

    seq: int
    mac: str

    def __str__(self) -> str:
        """Return it as `audit verify --head` takes it."""
        return f"{self.seq}:{self.mac}"


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where the chain begins: the highest id of the records from before it, and how many these are."""

    last_id: int
    count: int


class Sealer:
    """Computes macs and signatures with keys that are derived from the storage key."""

    def __init__(self, record_key: bytes, head_key: bytes) -> None:
        """Take a key for records and another for heads."""
        self._record_key = record_key
        self._head_key = head_key

    def mac(self, previous: bytes, seq: int, columns: Sequence[bytes]) -> bytes:
        """Return the mac of a record, in hex; `previous` is the mac before it, or `FIRST` or `ANEW`."""
        return _digest(self._record_key, (previous, b"%d" % seq, *columns))

    def signature(self, node: str, head: Head, nodes: Sequence[str]) -> str:
        """Return what proves that the console wrote this head while these `nodes` were listed, sorted.

        So an older list does not fit to the heads of today. Before schema 4 there was no list, and `nodes` are none.
        """
        columns = (node, str(head.seq), head.mac, *nodes)
        return _digest(self._head_key, [each.encode() for each in columns]).decode()

    def signed(self, node: str, head: Head, nodes: Sequence[str], signature: str) -> bool:
        """Tell whether the console wrote this head for these nodes."""
        return hmac.compare_digest(self.signature(node, head, nodes).encode(), signature.encode())

    def listed(self, nodes: Iterable[str]) -> str:
        """Return the list of nodes as the store keeps it, signed."""
        text = json.dumps(sorted(set(nodes)), ensure_ascii=False, separators=(",", ":"))
        return f"{self._listed(text)}:{text}"

    def nodes(self, listed: str) -> tuple[str, ...] | None:
        """Return the nodes that the console has listed, sorted; None when it is not its signature."""
        signature, _, text = listed.partition(":")
        if not hmac.compare_digest(self._listed(text).encode(), signature.encode()):
            return None
        return tuple(json.loads(text))

    def _listed(self, text: str) -> str:
        return _digest(self._head_key, (text.encode(),)).decode()

    def mark(self, beginning: Beginning) -> str:
        """Return the beginning as the store keeps it, signed: no record can be passed off as one from before."""
        return f"{beginning.last_id}:{beginning.count}:{self._mark(beginning)}"

    def beginning(self, mark: str) -> Beginning | None:
        """Return the beginning that the console has signed, None when it is not its signature."""
        last_id, _, rest = mark.partition(":")
        count, _, signature = rest.partition(":")
        if not (last_id.isdecimal() and count.isdecimal() and len(mark) < _LONGEST_MARK):
            return None
        found = Beginning(int(last_id), int(count))
        return found if hmac.compare_digest(self._mark(found).encode(), signature.encode()) else None

    def _mark(self, beginning: Beginning) -> str:
        return _digest(self._head_key, (b"%d" % beginning.last_id, b"%d" % beginning.count)).decode()


def _digest(key: bytes, columns: Sequence[bytes]) -> bytes:
    """Each column goes in behind its length: no two different records are the same bytes."""
    message = b"".join([b"%d:%b," % (len(column), column) for column in columns])
    return hmac.digest(key, message, "sha256").hex().encode()
