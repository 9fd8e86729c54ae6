"""What is wrong with a name that does not fit: letters that look like others are seen by nobody. Pure."""

from __future__ import annotations

import re
import unicodedata


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
    """Return the first character that is not of ASCII, described; empty where there is none."""
    found = next((each for each in text if not each.isascii()), "")
    return described(found) if found else ""
