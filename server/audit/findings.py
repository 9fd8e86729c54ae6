"""The kinds of damage to the audit, and their texts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum


class Change(Enum):
    """A kind of damage. The value is its text, with places for the fields of the finding."""

    CHANGED = "{records} of {node} {was} changed"
    RENUMBERED = "{records} of {node} {was} changed: the number there is {says}"
    DOUBTFUL = "{records} of {node} {was} changed, or cannot be checked because record {before} was changed"
    MISSING = "{records} of {node} {is_} missing, and record {behind} cannot be checked without"
    CUT = "the newest {count} of {node} {is_} missing, {records}"
    SWAPPED = "records {first} and {last} of {node} changed places"
    DISORDERED = "records {first} to {last} of {node} are in another order"
    PUT_IN = "{records} of {node} {was} put in"
    STRAY = "a record without a number was put in, with id {first}"
    HEAD_CHANGED = "the head of {node} was changed"
    HEAD_MISSING = "the head of {node} is missing"
    HEAD_BEHIND = "the head of {node} was set back to {first}, its records go on to {last}"
    NODE_REMOVED = "{node} was removed with all its records"
    NODES_CHANGED = "the list of the nodes was changed or removed"
    BEGUN_ANEW = (
        "{records} of {node} {was} written behind a head that was changed: what was there before is not certain"
    )
    ROLLED_BACK = "{node} ends at record {last}, the exported head is {first}: it was rolled back or cut"
    NOT_EXPORTED = "record {first} of {node} is not the one that was exported"
    BEGINNING_CHANGED = "the mark of where the chain begins was changed or removed"
    UNCOVERED_MISSING = "of the {last} records from before the chain {first} are there"
    MORE = "there is more: the check ended here"


_MERGED = {Change.CHANGED, Change.RENUMBERED, Change.DOUBTFUL, Change.PUT_IN}


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of damage to one record or to a range. `says` is the number stored in the first one."""

    change: Change
    node: str = ""
    first: int = 0
    last: int = 0
    says: int | None = None

    def joined(self, following: Finding) -> Finding | None:
        """Return one finding for both if `following` continues this one; else None."""
        same = self.change == following.change and self.node == following.node and self.change in _MERGED
        shift = None if self.says is None else self.says - self.first
        other_shift = None if following.says is None else following.says - following.first
        goes_on = same and shift == other_shift and following.first == self.last + 1
        return replace(self, last=following.last) if goes_on else None

    def __str__(self) -> str:
        """Return the text of the finding."""
        one = self.first == self.last
        count = self.last - self.first + 1
        said = f"{self.says}" if one or self.says is None else f"{self.says} to {self.says + count - 1}"
        return self.change.value.format(
            records=f"record {self.first}" if one else f"records {self.first} to {self.last}",
            count="record" if one else f"{count} records",
            was="was" if one else "were",
            is_="is" if one else "are",
            node=self.node,
            first=self.first,
            last=self.last,
            before=self.first - 1,
            behind=self.last + 1,
            says=said,
        )
