"""Texts from files and stores as single lines of a report."""

from __future__ import annotations

_MOST_CHARACTERS = 200


def one_line(text: object, most_characters: int = _MOST_CHARACTERS) -> str:
    """Return a text as one line that is safe for terminals: escaped, and cut if too long.

    Unicode line ends and characters that change the text's direction are escaped too. So no text can imitate a line of
    the console.
    """
    said = str(text)
    shown = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in said[:most_characters])
    return shown if len(said) <= most_characters else f"{shown}… ({len(said):,} characters)"


def few_lines(lines: list[str], most_lines: int = 20) -> list[str]:
    """Return the first lines of many, each as one line, and the number of the others."""
    more = len(lines) - most_lines
    return [*map(one_line, lines[:most_lines]), *([f"and {more:,} more"] if more > 0 else [])]
