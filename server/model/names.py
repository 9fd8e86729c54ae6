"""Find invisible characters and look-alike letters; describe them by code, name and position. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

#: All blanks and format characters beyond ASCII (Unicode's categories Zs, Zl, Zp and Cf), and other invisible ones:
#: joiners, fillers, variation selectors, the blank of Braille. A test compares them with the interpreter's own tables.
_UNSEEN = re.compile(
    r"[\u00a0\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u1680\u17b4\u17b5"
    r"\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0"
    r"\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    r"\U000e0000-\U000e0fff]"
)

#: The most names in one sentence.
_MOST_NAMED = 10


def refusal(rule: str, text: str, allowed: str, most: int) -> ValueError:
    """Return an error with the rule and the first character or the length that breaks it.

    `allowed` is the inside of a regular expression's character class; `most` is the longest length of a name.
    """
    wrong = re.search(f"[^{allowed}]", text)
    if wrong is not None:
        why = f"; {described(wrong[0])} at place {wrong.start() + 1} is none of them"
    elif len(text) > most:
        why = f"; this one has {len(text)}"
    else:
        why = ""
    return ValueError(rule + why)


def described(character: str) -> str:
    """Return a visible ASCII character as it is, any other one as its code and name."""
    if character.isascii() and character.isprintable() and character != " ":
        return character
    return f"U+{ord(character):04X} ({unicodedata.name(character, 'without a name')})"


def foreign(text: str) -> str:
    """Return the first character beyond ASCII, described with its position; empty if there is none."""
    if text.isascii():
        return ""
    place, found = next((place, each) for place, each in enumerate(text, 1) if not each.isascii())
    return f"{described(found)} at place {place}"


def with_foreign(message: str, text: str) -> str:
    """Add the first character beyond ASCII of a wrong text to the message about it.

    A message that names a character already stays as it is.
    """
    found = foreign(text)
    return f"{message}; it has {found}" if found and "U+" not in message else message


def unseen(text: str, start: int = 0, end: int | None = None) -> int | None:
    """Return the position of the first invisible character from `start` to `end`; None without one.

    The ASCII blank and control characters do not count.
    """
    found = _UNSEEN.search(text, start, len(text) if end is None else end)
    return found.start() if found else None


def first_named(names: Sequence[str]) -> str:
    """Return the first ten names and the number of the others, as part of a sentence."""
    more = len(names) - _MOST_NAMED
    return ", ".join([*names[:_MOST_NAMED], *([f"and {more:,} more"] if more > 0 else [])])
