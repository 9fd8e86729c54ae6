"""Domains: virtual telephone exchanges, named in paths as `/domain/<DOMAIN>`.

A name is shown as it was declared. Two names that differ only in case are one domain: compare names when `folded`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from server.model.names import refusal

_MOST_CHARACTERS = 253
_NAME = re.compile(rf"[A-Za-z0-9._-]{{1,{_MOST_CHARACTERS}}}")
#: The reference forbids these names.
_RESERVED = frozenset({"undefined", "calendar", "properties"})


@dataclass(frozen=True, slots=True)
class Domain:
    """One domain as `domain/list` shows it."""

    name: str
    integrations: int


def folded(text: str) -> str:
    """Return the folded name, which all spellings of a domain share: lower case.

    A text beyond ASCII stays as it is, because some of its letters would fold into ASCII ones.
    """
    return text.lower() if text.isascii() else text


def parse_domain_name(text: str) -> str:
    """Return the name as it was typed; raises ValueError with the rule."""
    if folded(text) in _RESERVED:
        message = f"{text} is a reserved word"
        raise ValueError(message)
    if text.startswith((".", "-")):
        message = "a domain name does not begin with . or -"
        raise ValueError(message)
    if not _NAME.fullmatch(text):
        rule = "a domain name is 1 to 253 of A-Z a-z 0-9 . - _"
        raise refusal(rule, text, r"A-Za-z0-9._-", _MOST_CHARACTERS)
    return text
