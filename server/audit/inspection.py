"""Check the audit for damage: follow every node's chain and name each changed or missing record.

Pure: records go in, in stored order, and findings come out. A record's mac, computed over the previous mac, proves its
identity even if it was moved or renumbered. Around damage the next `WINDOW` records are searched; memory does not grow
with the audit.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from server.audit.findings import Change, Finding
from server.storage.chain import ANEW, FIRST, NODE, Head, Sealer
from server.storage.events import Kept
from server.storage.heads import Outline

WINDOW = 256
MOST_FINDINGS = 100


@dataclass
class Chain:
    """The checked part of one node's chain: `due` is the number of the next record.

    `previous` are the macs that the next record may follow: the stored one and, after a changed record, also the
    correct one. It is empty after a missing record. `head` is None unless the console wrote it.
    """

    node: str
    head: Head | None
    due: int = 1
    previous: tuple[bytes, ...] = (FIRST,)
    doubtful: bool = False

    def accept(self, *macs: bytes, doubtful: bool = False) -> None:
        """Accept the due record, with its possible macs."""
        self.due, self.previous, self.doubtful = self.due + 1, macs, doubtful

    @property
    def end(self) -> Head:
        """The newest checked record."""
        return Head(self.due - 1, self.previous[0].decode(errors="replace") if self.previous else "")


@dataclass(frozen=True, slots=True)
class Exported:
    """A head that was kept outside the store; an empty node means the node that is asked."""

    node: str
    head: Head

    def of(self, node: str) -> Exported:
        """Return the head with this node if it has none."""
        return self if self.node else Exported(node, self.head)

    def __str__(self) -> str:
        """Return the form that `audit verify --head` takes."""
        return f"{self.node}={self.head}" if self.node else str(self.head)


@dataclass
class Inspection:
    """One check of the audit: `feed` all records in order, then `finish`, and read `findings`.

    `uncovered` counts the records from before the chain.
    """

    sealer: Sealer
    outline: Outline
    exported: Exported | None = None
    findings: list[Finding] = field(default_factory=list)
    chains: dict[str, Chain] = field(default_factory=dict)
    uncovered: int = 0
    _exported_seen: bool = False
    _window: deque[Kept] = field(default_factory=deque)

    def __post_init__(self) -> None:
        """Begin with the heads, which name the nodes."""
        if self.outline.beginning is None:
            self._report(Change.BEGINNING_CHANGED)
        if not self.outline.listed:
            self._report(Change.NODES_CHANGED)
        for each in self.outline.heads:
            self.chains[each.node] = Chain(each.node, each.head if each.signed else None)
            if not each.signed:
                self._report(Change.HEAD_CHANGED, each.node)

    @property
    def full(self) -> bool:
        """Whether there are so many findings that more would tell nothing new."""
        return len(self.findings) >= MOST_FINDINGS

    def feed(self, records: Iterable[Kept]) -> None:
        """Follow the chains over these records. The last ones wait until the following ones are known."""
        self._window.extend(records)
        while len(self._window) > WINDOW and not self.full:
            self._step()

    def finish(self) -> None:
        """Follow the chains to their ends and compare the ends with the heads."""
        while self._window and not self.full:
            self._step()
        if self.full:
            self._report(Change.MORE)
            return
        for chain in self.chains.values():
            self._compare_with_head(chain)
        for node in self.outline.nodes:
            if node not in self.chains:
                self._report(Change.NODE_REMOVED, node)
        beginning = self.outline.beginning
        if beginning is not None and self.uncovered < beginning.count:
            self._report(Change.UNCOVERED_MISSING, first=self.uncovered, last=beginning.count)
        self._compare_with_export()

    def _is_from_before(self, record: Kept) -> bool:
        beginning = self.outline.beginning
        return beginning is None or 0 < record.id <= beginning.last_id

    def _step(self) -> None:
        """Accept the next record, or find out why it is not the due one."""
        record = self._window[0]
        chain = self.chains.get(_node(record))
        if chain is not None and record.seq == chain.due and self._proves(record, chain):
            self._accept(chain, record)
            self._window.popleft()
        elif record.unchained and self._is_from_before(record):
            self.uncovered += 1
            self._window.popleft()
        elif self._accept_relabelled(record) or self._accept_restart(record):
            self._window.popleft()
        elif chain is None:
            self._begin_node(record)
        elif self._is_confirmed_by_next(record, chain):
            self._accept_changed(chain, self._window.popleft())
        elif any(self._proves(each, chain) for each in self._window if _node(each) == chain.node):
            self._reorder(chain)
        elif ahead := self._missing_before(record, chain):
            self._report(Change.MISSING, chain.node, chain.due, chain.due + ahead - 1)
            chain.due, chain.previous = chain.due + ahead, ()
            self._report(Change.RENUMBERED, chain.node, chain.due, says=record.seq)
            self._accept(chain, self._window.popleft())
        elif chain.head is not None and chain.due > chain.head.seq:
            self._report_inserted(self._window.popleft())
        elif record.seq == chain.due:
            self._accept_changed(chain, self._window.popleft())
        else:
            self._skip(chain, record)

    def _report(self, change: Change, node: str = "", first: int = 0, last: int = 0, says: int | None = None) -> None:
        finding = Finding(change, node, first, last or first, says)
        joined = self.findings[-1].joined(finding) if self.findings else None
        self.findings[-1:] = [joined] if joined else [*self.findings[-1:], finding]

    def _proves(self, record: Kept, chain: Chain) -> bool:
        """Tell whether the mac proves that this is the due record, whatever its stored number and node."""
        if not record.whole:
            return False
        columns = (*record.columns[:NODE], chain.node.encode(), *record.columns[NODE + 1 :])
        return any(self.sealer.mac(each, chain.due, columns) == record.mac for each in chain.previous)

    def _is_confirmed_by_next(self, record: Kept, chain: Chain) -> bool:
        """Tell whether the next record follows this one. Then this is the due record, changed in place."""
        following = self._window[1] if len(self._window) > 1 else None
        if record.seq != chain.due or following is None or _node(following) != chain.node:
            return False
        should_be = (self.sealer.mac(each, chain.due, record.columns) for each in chain.previous)
        return self._proves(following, Chain(chain.node, None, chain.due + 1, (record.mac, *should_be)))

    def _missing_before(self, record: Kept, chain: Chain) -> int:
        """Return how many records are missing before this one, although it has the due number; 0 if none.

        The following record proves it: it follows this record's mac, under the number after the original one.
        """
        following = self._window[1] if len(self._window) > 1 else None
        if record.seq != chain.due or following is None or _node(following) != chain.node:
            return 0
        numbers = range(1, WINDOW)
        after = (Chain(chain.node, None, chain.due + 1 + ahead, (record.mac,)) for ahead in numbers)
        return next((ahead for ahead, each in zip(numbers, after, strict=True) if self._proves(following, each)), 0)

    def _accept(self, chain: Chain, record: Kept, *macs: bytes, doubtful: bool = False) -> None:
        wanted = self.exported
        if wanted and (wanted.node, wanted.head) == (chain.node, Head(chain.due, record.mac.decode(errors="replace"))):
            self._exported_seen = True
        chain.accept(record.mac, *macs, doubtful=doubtful)

    def _accept_relabelled(self, record: Kept) -> bool:
        """Accept a record whose number or node was changed, because its mac still proves its identity."""
        for chain in self.chains.values():
            if self._proves(record, chain):
                renumbered = _node(record) == chain.node and record.seq is not None
                change = Change.RENUMBERED if renumbered else Change.CHANGED
                self._report(change, chain.node, chain.due, says=record.seq if renumbered else None)
                self._accept(chain, record)
                return True
        return False

    def _accept_restart(self, record: Kept) -> bool:
        """Accept a record that the console wrote after a changed head."""
        chain = self.chains.get(_node(record))
        if chain is None or record.seq is None or record.seq < chain.due or not record.whole:
            return False
        if self.sealer.mac(ANEW, record.seq, record.columns) != record.mac:
            return False
        if record.seq > chain.due:
            self._report(Change.CUT, chain.node, chain.due, record.seq - 1)
        self._report(Change.BEGUN_ANEW, chain.node, record.seq)
        chain.due = record.seq
        self._accept(chain, record)
        return True

    def _begin_node(self, record: Kept) -> None:
        """Begin the chain of a node without a head; a single record of such a node was inserted."""
        node = _node(record)
        of_node = sum(_node(each) == node for each in self._window)
        if record.seq is None or (of_node == 1 and not self._proves(record, Chain(node, None))):
            self._report_inserted(self._window.popleft())
            return
        self._report(Change.HEAD_MISSING, node)
        self.chains[node] = Chain(node, None)

    def _accept_changed(self, chain: Chain, record: Kept) -> None:
        """Accept a record with the right number and a wrong mac.

        After a missing record the mac cannot be checked, so there is no finding.
        """
        if chain.previous:
            self._report(Change.DOUBTFUL if chain.doubtful else Change.CHANGED, chain.node, chain.due)
        should_be = [self.sealer.mac(each, chain.due, record.columns) for each in chain.previous]
        self._accept(chain, record, *should_be[:1], doubtful=bool(chain.previous))

    def _skip(self, chain: Chain, record: Kept) -> None:
        """Continue after missing records, or skip an inserted one."""
        said = [each.seq for each in self._window if _node(each) == chain.node and each.seq is not None]
        onwards = min((seq for seq in said if seq >= chain.due), default=chain.due)
        if record.seq is None or record.seq < chain.due or onwards == chain.due:
            self._report_inserted(self._window.popleft())
            return
        self._report(Change.MISSING, chain.node, chain.due, onwards - 1)
        chain.due, chain.previous = onwards, ()

    def _report_inserted(self, record: Kept) -> None:
        if record.seq is None:
            self._report(Change.STRAY, first=record.id)
        else:
            self._report(Change.PUT_IN, _node(record), record.seq)

    def _reorder(self, chain: Chain) -> None:
        """Follow the chain through records in another order; the remaining records between them were inserted."""
        mine = [record for record in self._window if _node(record) == chain.node]
        order: dict[int, int] = {}  # index in `mine` -> true number
        while max(order, default=0) >= len(order):
            free = (place for place in range(len(mine)) if place not in order)
            place = next((place for place in free if self._proves(mine[place], chain)), None)
            if place is None:
                break
            order[place] = chain.due
            self._accept(chain, mine[place])
        passed = mine[: max(order) + 1]
        for place, record in enumerate(passed):
            if place not in order:
                self._report_inserted(record)
        self._report_order(chain.node, [(mine[place], order[place]) for place in sorted(order)])
        count = itertools.count(1)
        self._window = deque(
            record for record in self._window if _node(record) != chain.node or next(count) > len(passed)
        )

    def _report_order(self, node: str, found: list[tuple[Kept, int]]) -> None:
        """Report identified records that were moved or renumbered."""
        numbers = [number for _, number in found]
        moved = [pair for pair in zip(numbers, sorted(numbers), strict=True) if pair[0] != pair[1]]
        if moved:
            change = Change.SWAPPED if len(moved) == 2 else Change.DISORDERED  # noqa: PLR2004  a pair
            self._report(change, node, min(map(min, moved)), max(map(max, moved)))
            return
        for record, number in found:
            if record.seq != number:
                self._report(Change.RENUMBERED, node, number, says=record.seq)

    def _compare_with_head(self, chain: Chain) -> None:
        if chain.head is not None and chain.head.seq >= chain.due:
            self._report(Change.CUT, chain.node, chain.due, chain.head.seq)
        elif chain.head is not None and chain.head.seq < chain.end.seq:
            self._report(Change.HEAD_BEHIND, chain.node, chain.head.seq, chain.end.seq)

    def _compare_with_export(self) -> None:
        if self.exported is None or self._exported_seen:
            return
        node, head = self.exported.node, self.exported.head
        end = self.chains[node].end.seq if node in self.chains else 0
        if end < head.seq:
            self._report(Change.ROLLED_BACK, node, head.seq, end)
        else:
            self._report(Change.NOT_EXPORTED, node, head.seq)


def _node(record: Kept) -> str:
    return record.columns[NODE].decode(errors="replace")
