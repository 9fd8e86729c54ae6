"""Domains: virtual telephone exchanges, named in paths as `/domain/<DOMAIN>`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from server.model.names import refusal

_MOST_CHARACTERS = 253
_NAME = re.compile(rf"[a-z0-9._-]{{1,{_MOST_CHARACTERS}}}")
#: Names that the reference refuses.
_RESERVED = frozenset({"undefined", "calendar", "properties"})


@dataclass(frozen=True, slots=True)
class Domain:
    """One domain as `domain/list` shows it."""

    name: str
    integrations: int


def folded(text: str) -> str:
    """Return a name in lower case; beyond ASCII it stays, as some letters there fold into a name of ASCII."""
    return text.lower() if text.isascii() else text


def parse_domain_name(text: str) -> str:
    """Return the name in lower case; raises ValueError with what would be right."""
    name = folded(text)
    if name in _RESERVED:
        message = f"{name} is a reserved word"
        raise ValueError(message)
    if name.startswith((".", "-")):
        message = "a domain name does not begin with . or -"
        raise ValueError(message)
    if not _NAME.fullmatch(name):
        rule = "a domain name is 1 to 253 of a-z 0-9 . - _"
        raise refusal(rule, name, r"a-z0-9._-", _MOST_CHARACTERS)
    return name
