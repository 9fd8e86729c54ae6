"""Ranges of telephone numbers: `24010{0-1}` is 240100 and 240101, `20{01-20}` keeps its zeros.

A range is items separated by commas; an item is digits with any number of `{…}` groups; a group is a comma list of
digits or `a-b`. The size of a range is known before anything is expanded, so no word can take memory or time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from math import prod
from posixpath import commonprefix

MOST_NUMBERS = 10_000
MOST_DIGITS = 32
_UNREADABLE = 10**12

_DIGITS = re.compile(r"[0-9]+")
_PART = re.compile(r"(?P<digits>[0-9]+)|\{(?P<group>[^{}]*)\}")
_ITEM = re.compile(r"(?:[^,{}]|\{[^{}]*\}|[{}])+")


@dataclass(frozen=True, slots=True)
class _Choice:
    """The values `first` … `last` in one place of a number, zero-padded to `width` digits."""

    first: int
    last: int
    width: int

    @property
    def count(self) -> int:
        return self.last - self.first + 1

    @property
    def widest(self) -> int:
        return max(self.width, len(str(self.last)))

    def texts(self) -> list[str]:
        return [str(value).zfill(self.width) for value in range(self.first, self.last + 1)]


_Part = tuple[_Choice, ...]
_Item = tuple[_Part, ...]


def parse_numbers(text: str) -> tuple[str, ...]:
    """Expand a range into its numbers: ascending (shorter first, then by value), without duplicates.

    Raises ValueError with what is wrong; a range of more than `MOST_NUMBERS` numbers, duplicates counted, or with a
    number of more than `MOST_DIGITS` digits, is refused before it is expanded.
    """
    words = _split(text)
    groups: dict[str, _Part] = {}  # of thousands of groups many are alike
    plain = [word for word in words if len(word) <= MOST_DIGITS and _DIGITS.fullmatch(word)]  # as most are
    items = [_item(word, groups) for word in words if len(word) > MOST_DIGITS or not _DIGITS.fullmatch(word)]
    total = len(plain) + sum(prod(sum(choice.count for choice in part) for part in item) for item in items)
    if total > MOST_NUMBERS:
        many = f"{total:,}" if total < _UNREADABLE else f"more than {_UNREADABLE:,}"
        message = f"{_short(text)} makes {many} numbers, at most {MOST_NUMBERS:,} are allowed"
        raise ValueError(message)
    numbers = {"".join(digits) for item in items for digits in product(*(_texts(part) for part in item))}
    return ascending([*plain, *numbers])


def ascending(numbers: Iterable[str]) -> tuple[str, ...]:
    """Return numbers in their order, shorter ones first, then by value, without duplicates."""
    return tuple(sorted(set(numbers), key=lambda number: (len(number), number)))


def number_range(numbers: Sequence[str]) -> str:
    """Return a range that makes these numbers, which are ascending as `parse_numbers` returns them; '' for none.

    What follows one another stands as `a-b` behind the digits that all numbers of a length begin with.
    """
    items = []
    for width, group in groupby(numbers, key=len):
        same = [*group]
        shared = len(commonprefix([same[0], same[-1]]))
        if len(same) == 1 or shared == width:
            items += same
            continue
        choices = [_run(run, shared) for run in _runs(same)]
        items.append(f"{same[0][:shared]}{{{','.join(choices)}}}")
    return ",".join(items)


def _runs(numbers: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the first and last of what follows one another."""
    first = last = numbers[0]
    for number in numbers[1:]:
        if int(number) != int(last) + 1:
            yield first, last
            first = number
        last = number
    yield first, last


def _run(run: tuple[str, str], shared: int) -> str:
    first, last = (number[shared:] for number in run)
    return first if first == last else f"{first}-{last}"


def _split(text: str) -> list[str]:
    """Return the items: the text between the commas that stand outside of braces."""
    items = _ITEM.findall(text)
    if not items:
        message = "the number range is empty: numbers are expected, as in 24010{0-1}"
        raise ValueError(message)
    if len(",".join(items)) != len(text):
        message = f"{_short(text)} has an empty item; numbers are separated by single commas, as in 240100,240200"
        raise ValueError(message)
    return items


def _item(text: str, groups: dict[str, _Part]) -> _Item:
    parts: list[_Part] = []
    end = widest = 0
    for found in _PART.finditer(text):
        if found.start() != end:
            break
        digits, group, end = found["digits"], found["group"], found.end()
        key = digits or f"{{{group}}}"
        part = groups.get(key)
        if part is None:
            part = groups[key] = (_literal(digits),) if digits else _group(group)
        widest += max(choice.widest for choice in part)
        if widest > MOST_DIGITS:
            message = f"{_short(text)} makes numbers of more than {MOST_DIGITS} digits"
            raise ValueError(message)
        parts.append(part)
    if end != len(text):
        message = f"{_short(text)} is no number range: digits and groups are expected, as in 24010{{0-1}}"
        raise ValueError(message)
    return tuple(parts)


def _group(text: str) -> _Part:
    return tuple(_choice(part) for part in text.split(","))


def _choice(text: str) -> _Choice:
    first, dash, last = text.partition("-")
    if not _DIGITS.fullmatch(first) or (dash and not _DIGITS.fullmatch(last)):
        message = f"{{{_short(text)}}} is no group: digits or a-b are expected, as in {{0-1}} or {{1,3,5-7}}"
        raise ValueError(message)
    if not dash:
        return _literal(first)
    if len(first) > MOST_DIGITS or len(last) > MOST_DIGITS:
        message = f"{{{_short(text)}}} makes numbers of more than {MOST_DIGITS} digits"
        raise ValueError(message)
    if (first[0] == "0" or last[0] == "0") and len(first) != len(last):
        message = f"{{{text}}} is ambiguous: with a leading zero both ends have the same width, as in {{01-20}}"
        raise ValueError(message)
    if int(last) < int(first):
        message = f"{{{text}}} runs backwards: write {{{last}-{first}}}"
        raise ValueError(message)
    return _Choice(int(first), int(last), len(first))


def _literal(digits: str) -> _Choice:
    if len(digits) > MOST_DIGITS:
        message = f"{_short(digits)} has {len(digits)} digits, at most {MOST_DIGITS} are allowed"
        raise ValueError(message)
    return _Choice(int(digits), int(digits), len(digits))


def _texts(part: _Part) -> list[str]:
    return [text for choice in part for text in choice.texts()]


def _short(text: str) -> str:
    """Quote a word in a message without letting a word of 64 K characters fill the screen."""
    most = 40
    return text if len(text) <= most else f"{text[:most]}…"
