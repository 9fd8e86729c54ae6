"""Which lines hold a secret, so that no history keeps them. Pure."""

from __future__ import annotations

import re
from difflib import get_close_matches

from server.grammar.match import Ready, match
from server.grammar.tokens import Line, tokenize
from server.grammar.tree import Directory, Location, commands_below, find
from server.model.integrations import holds_key

#: No word but a secret or a hash is so long without a break; numbers have up to 32 digits.
_LONG = re.compile(r"[A-Za-z0-9]{33}")
#: A mistyped command stands among the first words: behind a pasted prompt, or a word as `delete` of the vendor's pages.
_MOST_WORDS = 4


def holds_secret(root: Directory, here: Location, text: str) -> bool:
    """Tell whether a line may hold a secret; `here` is the directory where it was typed.

    It does when its command takes one, whatever its words, or when it is no command but nearly one that does; when it
    names no command and has something that looks like a secret; wherever an API key stands, as in the place of a client
    id; and when it cannot run and speaks of a password, which the console only ever asks for: `--password hunter2` is a
    mistake that people make.
    """
    if holds_key(text):
        return True
    line = tokenize(text)
    found = find(root, here, line.words[0].text) if line.words else None
    says_password = "passw" in text.lower()
    if found is None or found.command is None:
        return says_password or _LONG.search(text) is not None or _nearly_takes_secret(root, line)
    if found.command.takes_secret:
        return True
    return says_password and not isinstance(match(root, here, line), Ready)


def _nearly_takes_secret(root: Directory, line: Line) -> bool:
    """Tell whether a line without a command was meant for one that takes a secret, in whatever directory that is."""
    names = {command.name for command in commands_below(root) if command.takes_secret}
    typed = (word.text.rpartition("/")[2] for word in line.words[:_MOST_WORDS])
    return any(get_close_matches(each, names, n=1) for each in typed)
