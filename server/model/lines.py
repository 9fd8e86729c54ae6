"""Text from files and stores as one line of a report."""

from __future__ import annotations

_MOST_CHARACTERS = 200


def one_line(text: object, most_characters: int = _MOST_CHARACTERS) -> str:
    """Return a text as one line that moves no terminal: escapes for what is not shown, and cut where it is too long.

    Line ends of Unicode and what turns the direction of text are such: no text can pass for a line of ours.
    """
    said = str(text)
    shown = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in said[:most_characters])
    return shown if len(said) <= most_characters else f"{shown}… ({len(said):,} characters)"


def few_lines(lines: list[str], most_lines: int = 20) -> list[str]:
    """Return the first of many lines, each of them one line, and how many there are besides."""
    more = len(lines) - most_lines
    return [*map(one_line, lines[:most_lines]), *([f"and {more:,} more"] if more > 0 else [])]
