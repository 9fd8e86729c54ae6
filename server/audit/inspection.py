"""Whether the audit is as the console wrote it: follows every node's chain and names what was done to which record.

Pure: records go in, in the order in which they lie in the store; findings come out. A record proves itself by its mac
behind the one before it, so one that was moved or renumbered is still known for what it is. Around damage the next
`WINDOW` records are looked through; memory does not grow with the audit.
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
    """One node's chain as far as it was followed: `due` is the number of the next record.

    `previous` are the macs that it may build upon: the one that is stored, and behind a changed record also the one
    that should be; none where the record before is missing. `head` is None unless the console wrote it.
    """

    node: str
    head: Head | None
    due: int = 1
    previous: tuple[bytes, ...] = (FIRST,)
    doubtful: bool = False

    def accept(self, *macs: bytes, doubtful: bool = False) -> None:
        """Take the record that is due, with what its mac may be."""
        self.due, self.previous, self.doubtful = self.due + 1, macs, doubtful

    @property
    def end(self) -> Head:
        """The newest record that was followed."""
        return Head(self.due - 1, self.previous[0].decode(errors="replace") if self.previous else "")


@dataclass(frozen=True, slots=True)
class Exported:
    """A head of a node that somebody kept elsewhere; without a node it is of the one that is asked."""

    node: str
    head: Head

    def of(self, node: str) -> Exported:
        """Return it as one of this node where it names none."""
        return self if self.node else Exported(node, self.head)

    def __str__(self) -> str:
        """Return it as `audit verify --head` takes it."""
        return f"{self.node}={self.head}" if self.node else str(self.head)


@dataclass
class Inspection:
    """One walk over the audit: `feed` it everything in order, then `finish` it and read what it found.

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
        """Begin with the heads: they say which nodes there are."""
        if self.outline.beginning is None:
            self._found(Change.BEGINNING_CHANGED)
        if not self.outline.listed:
            self._found(Change.NODES_CHANGED)
        for each in self.outline.heads:
            self.chains[each.node] = Chain(each.node, each.head if each.signed else None)
            if not each.signed:
                self._found(Change.HEAD_CHANGED, each.node)

    @property
    def full(self) -> bool:
        """Whether so much was found that going on would tell nothing more."""
        return len(self.findings) >= MOST_FINDINGS

    def feed(self, records: Iterable[Kept]) -> None:
        """Follow the chains over these records, but for the last ones, which wait for what comes behind them."""
        self._window.extend(records)
        while len(self._window) > WINDOW and not self.full:
            self._step()

    def finish(self) -> None:
        """Follow the chains to their ends and compare these with the heads."""
        while self._window and not self.full:
            self._step()
        if self.full:
            self._found(Change.MORE)
            return
        for chain in self.chains.values():
            self._compare_with_head(chain)
        for node in self.outline.nodes:
            if node not in self.chains:
                self._found(Change.NODE_REMOVED, node)
        beginning = self.outline.beginning
        if beginning is not None and self.uncovered < beginning.count:
            self._found(Change.UNCOVERED_MISSING, first=self.uncovered, last=beginning.count)
        self._compare_with_export()

    def _is_from_before(self, record: Kept) -> bool:
        beginning = self.outline.beginning
        return beginning is None or 0 < record.id <= beginning.last_id

    def _step(self) -> None:
        """Take the next record, or explain why it is not the one that is due."""
        record = self._window[0]
        chain = self.chains.get(_node(record))
        if chain is not None and record.seq == chain.due and self._proves(record, chain):
            self._take(chain, record)
            self._window.popleft()
        elif record.unchained and self._is_from_before(record):
            self.uncovered += 1
            self._window.popleft()
        elif self._is_due_elsewhere(record) or self._begins_anew(record):
            self._window.popleft()
        elif chain is None:
            self._meet_node(record)
        elif self._is_borne_out(record, chain):
            self._take_changed(chain, self._window.popleft())
        elif any(self._proves(each, chain) for each in self._window if _node(each) == chain.node):
            self._reorder(chain)
        elif ahead := self._ahead(record, chain):
            self._found(Change.MISSING, chain.node, chain.due, chain.due + ahead - 1)
            chain.due, chain.previous = chain.due + ahead, ()
            self._found(Change.RENUMBERED, chain.node, chain.due, says=record.seq)
            self._take(chain, self._window.popleft())
        elif chain.head is not None and chain.due > chain.head.seq:
            self._put_in(self._window.popleft())
        elif record.seq == chain.due:
            self._take_changed(chain, self._window.popleft())
        else:
            self._skip(chain, record)

    def _found(self, change: Change, node: str = "", first: int = 0, last: int = 0, says: int | None = None) -> None:
        finding = Finding(change, node, first, last or first, says)
        joined = self.findings[-1].joined(finding) if self.findings else None
        self.findings[-1:] = [joined] if joined else [*self.findings[-1:], finding]

    def _proves(self, record: Kept, chain: Chain) -> bool:
        """Tell whether this record is the one that is due, whatever number and node stand in it."""
        if not record.whole:
            return False
        columns = (*record.columns[:NODE], chain.node.encode(), *record.columns[NODE + 1 :])
        return any(self.sealer.mac(each, chain.due, columns) == record.mac for each in chain.previous)

    def _is_borne_out(self, record: Kept, chain: Chain) -> bool:
        """Tell whether the next record builds upon this one, so that it is the one that is due, changed in place."""
        following = self._window[1] if len(self._window) > 1 else None
        if record.seq != chain.due or following is None or _node(following) != chain.node:
            return False
        should_be = (self.sealer.mac(each, chain.due, record.columns) for each in chain.previous)
        return self._proves(following, Chain(chain.node, None, chain.due + 1, (record.mac, *should_be)))

    def _ahead(self, record: Kept, chain: Chain) -> int:
        """Return by how many a record is further on than the one that is due, though it has its number; 0 if it is not.

        The one behind it proves that: it builds upon its mac, with a number that no longer stands there.
        """
        following = self._window[1] if len(self._window) > 1 else None
        if record.seq != chain.due or following is None or _node(following) != chain.node:
            return 0
        numbers = range(1, WINDOW)
        after = (Chain(chain.node, None, chain.due + 1 + ahead, (record.mac,)) for ahead in numbers)
        return next((ahead for ahead, each in zip(numbers, after, strict=True) if self._proves(following, each)), 0)

    def _take(self, chain: Chain, record: Kept, *macs: bytes, doubtful: bool = False) -> None:
        wanted = self.exported
        if wanted and (wanted.node, wanted.head) == (chain.node, Head(chain.due, record.mac.decode(errors="replace"))):
            self._exported_seen = True
        chain.accept(record.mac, *macs, doubtful=doubtful)

    def _is_due_elsewhere(self, record: Kept) -> bool:
        """Take a record whose number or node was changed: its mac still proves which it is."""
        for chain in self.chains.values():
            if self._proves(record, chain):
                renumbered = _node(record) == chain.node and record.seq is not None
                change = Change.RENUMBERED if renumbered else Change.CHANGED
                self._found(change, chain.node, chain.due, says=record.seq if renumbered else None)
                self._take(chain, record)
                return True
        return False

    def _begins_anew(self, record: Kept) -> bool:
        """Take a record that the console wrote behind a head that was changed."""
        chain = self.chains.get(_node(record))
        if chain is None or record.seq is None or record.seq < chain.due or not record.whole:
            return False
        if self.sealer.mac(ANEW, record.seq, record.columns) != record.mac:
            return False
        if record.seq > chain.due:
            self._found(Change.CUT, chain.node, chain.due, record.seq - 1)
        self._found(Change.BEGUN_ANEW, chain.node, record.seq)
        chain.due = record.seq
        self._take(chain, record)
        return True

    def _meet_node(self, record: Kept) -> None:
        """Begin with a node that has no head; a single record of such a node is a stray one."""
        node = _node(record)
        of_node = sum(_node(each) == node for each in self._window)
        if record.seq is None or (of_node == 1 and not self._proves(record, Chain(node, None))):
            self._put_in(self._window.popleft())
            return
        self._found(Change.HEAD_MISSING, node)
        self.chains[node] = Chain(node, None)

    def _take_changed(self, chain: Chain, record: Kept) -> None:
        """Take a record whose number is right and whose mac is not; behind a missing one nothing can be said of it."""
        if chain.previous:
            self._found(Change.DOUBTFUL if chain.doubtful else Change.CHANGED, chain.node, chain.due)
        should_be = [self.sealer.mac(each, chain.due, record.columns) for each in chain.previous]
        self._take(chain, record, *should_be[:1], doubtful=bool(chain.previous))

    def _skip(self, chain: Chain, record: Kept) -> None:
        """Go on behind what is missing, or pass over what was put in."""
        said = [each.seq for each in self._window if _node(each) == chain.node and each.seq is not None]
        onwards = min((seq for seq in said if seq >= chain.due), default=chain.due)
        if record.seq is None or record.seq < chain.due or onwards == chain.due:
            self._put_in(self._window.popleft())
            return
        self._found(Change.MISSING, chain.node, chain.due, onwards - 1)
        chain.due, chain.previous = onwards, ()

    def _put_in(self, record: Kept) -> None:
        if record.seq is None:
            self._found(Change.STRAY, first=record.id)
        else:
            self._found(Change.PUT_IN, _node(record), record.seq)

    def _reorder(self, chain: Chain) -> None:
        """Follow the chain through records that lie in another order; what is left between them was put in."""
        mine = [record for record in self._window if _node(record) == chain.node]
        order: dict[int, int] = {}  # place among them -> which record it is
        while max(order, default=0) >= len(order):
            free = (place for place in range(len(mine)) if place not in order)
            place = next((place for place in free if self._proves(mine[place], chain)), None)
            if place is None:
                break
            order[place] = chain.due
            self._take(chain, mine[place])
        passed = mine[: max(order) + 1]
        for place, record in enumerate(passed):
            if place not in order:
                self._put_in(record)
        self._tell_order(chain.node, [(mine[place], order[place]) for place in sorted(order)])
        count = itertools.count(1)
        self._window = deque(
            record for record in self._window if _node(record) != chain.node or next(count) > len(passed)
        )

    def _tell_order(self, node: str, found: list[tuple[Kept, int]]) -> None:
        """Tell how records lie that are known for what they are: moved, or under other numbers."""
        numbers = [number for _, number in found]
        moved = [pair for pair in zip(numbers, sorted(numbers), strict=True) if pair[0] != pair[1]]
        if moved:
            change = Change.SWAPPED if len(moved) == 2 else Change.DISORDERED  # noqa: PLR2004  a pair
            self._found(change, node, min(map(min, moved)), max(map(max, moved)))
            return
        for record, number in found:
            if record.seq != number:
                self._found(Change.RENUMBERED, node, number, says=record.seq)

    def _compare_with_head(self, chain: Chain) -> None:
        if chain.head is not None and chain.head.seq >= chain.due:
            self._found(Change.CUT, chain.node, chain.due, chain.head.seq)
        elif chain.head is not None and chain.head.seq < chain.end.seq:
            self._found(Change.HEAD_BEHIND, chain.node, chain.head.seq, chain.end.seq)

    def _compare_with_export(self) -> None:
        if self.exported is None or self._exported_seen:
            return
        node, head = self.exported.node, self.exported.head
        end = self.chains[node].end.seq if node in self.chains else 0
        if end < head.seq:
            self._found(Change.ROLLED_BACK, node, head.seq, end)
        else:
            self._found(Change.NOT_EXPORTED, node, head.seq)


def _node(record: Kept) -> str:
    return record.columns[NODE].decode(errors="replace")
