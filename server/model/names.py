"""Characters that nobody sees, and letters that look like others: found, and named by code, name and place. Pure."""

from __future__ import annotations

import re
import unicodedata

#: Every blank and format character beyond ASCII (Unicode's categories Zs, Zl, Zp and Cf), and what else takes no ink:
#: joiners, fillers, variation selectors, the blank of Braille. A test holds it against the interpreter's own tables.
_UNSEEN = re.compile(
    r"[\u00a0\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u1680\u17b4\u17b5"
    r"\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0"
    r"\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    r"\U000e0000-\U000e0fff]"
)


def refusal(rule: str, text: str, allowed: str, most: int) -> ValueError:
    """Return the error that names the rule, and what of the text breaks it where that is hard to see.

    `allowed` is the inside of a class of characters; `most` is how many a name may have.
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
    """Return a character as it stands there, or its code and name where it cannot be told from others."""
    if character.isascii() and character.isprintable() and character != " ":
        return character
    return f"U+{ord(character):04X} ({unicodedata.name(character, 'without a name')})"


def foreign(text: str) -> str:
    """Return the first character that is not of ASCII, described with its place; empty where there is none."""
    if text.isascii():
        return ""
    place, found = next((place, each) for place, each in enumerate(text, 1) if not each.isascii())
    return f"{described(found)} at place {place}"


def with_foreign(message: str, text: str) -> str:
    """Return a message about a wrong text, with the first character of it that is not of ASCII.

    A message that names one already stays as it is.
    """
    found = foreign(text)
    return f"{message}; it has {found}" if found and "U+" not in message else message


def unseen(text: str, start: int = 0, end: int | None = None) -> int | None:
    """Return where the first character stands that nobody sees, between `start` and `end`; None without one.

    A blank of ASCII, and control characters, are not meant.
    """
    found = _UNSEEN.search(text, start, len(text) if end is None else end)
    return found.start() if found else None
