"""Which lines hold a secret, so that no history keeps them. Pure."""

from __future__ import annotations

import re

from server.grammar.declare import Argument, Option
from server.grammar.match import Ready, match
from server.grammar.tokens import tokenize
from server.grammar.tree import Directory, Location, find
from server.model.integrations import holds_key

#: No word but a secret or a hash is so long without a break; numbers have up to 32 digits.
_LONG = re.compile(r"[A-Za-z0-9]{33}")


def holds_secret(root: Directory, here: Location, text: str) -> bool:
    """Tell whether a line may hold a secret.

    It does when its command takes one, when it names no command and has something that looks like one, and wherever an
    API key stands, as in the place of a client id; and when it cannot run and speaks of a password, which the console
    only ever asks for: `--password hunter2` is a mistake that people make. `here` is where it was typed.
    """
    if holds_key(text):
        return True
    if "passw" in text.lower() and not isinstance(match(root, here, tokenize(text)), Ready):
        return True
    if not _LONG.search(text):
        return False
    words = tokenize(text).words
    found = find(root, here, words[0].text) if words else None
    command = found.command if found else None
    if command is None:
        return True
    takers: tuple[Argument | Option, ...] = (*command.arguments, *command.options)
    return any(taker.kind is not None and taker.kind.secret for taker in takers)
