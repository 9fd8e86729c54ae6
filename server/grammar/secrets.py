"""Find lines that may hold a secret, so that no history keeps them. Pure."""

from __future__ import annotations

import re
from difflib import get_close_matches

from server.grammar.match import Match, Ready, Unknown
from server.grammar.tokens import Line
from server.grammar.tree import Directory, commands_below
from server.model.integrations import holds_key

#: Only secrets and hashes have so many characters without a break; numbers have up to 32 digits.
_LONG = re.compile(r"[A-Za-z0-9]{33}")
#: A mistyped command is among the first words. A pasted prompt or the `delete` from the vendor's documentation may come
#: before it.
_MOST_WORDS = 4


def holds_secret(root: Directory, text: str, line: Line, outcome: Match) -> bool:
    """Tell whether a line may hold a secret. `outcome` is the match of `line`.

    A line may hold one in four cases: it has an API key anywhere; its command takes a secret, whatever its other words;
    it names no command, but nearly one that takes a secret, or has a long run of letters and digits; it cannot run and
    mentions a password. The console only ever asks for passwords, and people type `--password hunter2` by mistake.
    """
    if holds_key(text):
        return True
    mentions_password = "passw" in text.lower()
    command = None if isinstance(outcome, Unknown) else outcome.command
    if command is None:
        return mentions_password or _LONG.search(text) is not None or _nearly_takes_secret(root, line)
    return command.takes_secret or (mentions_password and not isinstance(outcome, Ready))


def _nearly_takes_secret(root: Directory, line: Line) -> bool:
    """Tell whether a line without a command resembles a command of any directory that takes a secret."""
    names = {command.name for command in commands_below(root) if command.takes_secret}
    typed = (word.text.rpartition("/")[2] for word in line.words[:_MOST_WORDS])
    return any(get_close_matches(each, names, n=1) for each in typed)
