"""Ranges of telephone numbers: `24010{0-1}` is 240100 and 240101, `20{01-20}` keeps its zeros.

A range is items separated by commas. An item is digits with any number of `{…}` groups. A group is a comma list of
digits or `a-b`. The size of a range is computed before it is expanded, so no word can exhaust memory or time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, product
from math import prod
from posixpath import commonprefix
from typing import NamedTuple

MOST_NUMBERS = 10_000
MOST_DIGITS = 32
_UNREADABLE = 10**12
#: When a range has too many numbers, counting stops after this many items; a line may have ten thousand.
_MOST_ITEMS_TOO_MANY = 4_000

_DIGITS = re.compile(r"[0-9]+")
_SINGLE = re.compile(r"(?:[0-9]+|\{[0-9]+\})+")
_PART = re.compile(r"(?P<digits>[0-9]+)|\{(?P<group>[^{}]*)\}")
_ITEM = re.compile(r"(?:[^,{}]|\{[^{}]*\}|[{}])+")


class _Choice(NamedTuple):
    """The values `first` … `last` at one position of a number, zero-padded to `width` digits.

    A tuple is fast to make, and a line may have thousands, which block the event loop.
    """

    first: int
    last: int
    width: int

    @property
    def size(self) -> int:
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

    Raises ValueError with the mistake. A range is refused before it is expanded if it has more than `MOST_NUMBERS`
    numbers, duplicates counted, or a number of more than `MOST_DIGITS` digits.
    """
    words = _split(text)
    single = [word for word in words if _SINGLE.fullmatch(word)]  # most items are single numbers
    items: list[_Item] = []
    groups: dict[str, _Part] = {}  # parse each text once, because thousands of items may be alike
    total = len(single)
    for word in words if len(words) <= MOST_NUMBERS else ():
        if not _SINGLE.fullmatch(word):
            items.append(_item(word, groups))
            total += prod(sum(choice.size for choice in part) for part in items[-1])
            if total > MOST_NUMBERS and len(items) > _MOST_ITEMS_TOO_MANY:
                break  # further items would only add more numbers
    if max(total, len(words)) > MOST_NUMBERS:
        many = f"{max(total, len(words)):,}" if total < _UNREADABLE else f"more than {_UNREADABLE:,}"
        more = " and more" if len(items) > _MOST_ITEMS_TOO_MANY else ""
        message = f"{_short(text)} makes {many} numbers{more}, at most {MOST_NUMBERS:,} are allowed"
        raise ValueError(message)
    plain = [_plain(word) for word in single]
    numbers = {"".join(digits) for item in items for digits in product(*(_texts(part) for part in item))}
    return ascending([*plain, *numbers])


def _plain(word: str) -> str:
    """Return the number of an item without alternatives. Raises ValueError when it is too long."""
    number = word.replace("{", "").replace("}", "")
    if len(number) > MOST_DIGITS:
        _item(word, {})  # raises the error
    return number


def ascending(numbers: Iterable[str]) -> tuple[str, ...]:
    """Return the numbers in ascending order, shorter ones first, then by value, without duplicates."""
    return tuple(sorted(set(numbers), key=lambda number: (len(number), number)))


def number_range(numbers: Sequence[str]) -> str:
    """Return a range for numbers that are sorted like those of `parse_numbers`; '' for none.

    Consecutive numbers of one length become `a-b`, after their common first digits.
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
    """Yield the first and the last number of each consecutive run."""
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
    """Split a range into items at the commas outside of braces."""
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
        part = groups.get(found[0])
        if part is None:
            part = groups[found[0]] = (_literal(digits),) if digits else _group(group)
        widest += part[0].widest if len(part) == 1 else max(choice.widest for choice in part)
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
    """Quote a word for a message; shorten a long one, because a word may have 64 K characters."""
    most = 40
    return text if len(text) <= most else f"{text[:most]}…"
