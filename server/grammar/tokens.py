"""Split a line into words at blanks. `"…"` and `'…'` quote; the bare word `|` begins a filter.

Source of the rules: cocon-facts (`--name VALUE`, quotes) and the project's grammar contract (both quotes, `|`,
comments, invisible characters, the limits of 64 K characters and 4,096 words).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from server.encoding import HAS_NUL
from server.model.names import described, unseen

MOST_CHARACTERS = 65_536
#: A range of ten thousand numbers is one word, so this is enough. Each word blocks the event loop for 2 µs.
MOST_WORDS = 4_096
_LONG_CHARACTERS = 2_048
_BLANKS = " \t"
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_PLAIN = re.compile(r"[^ \t]+")
_CHUNK = re.compile(r"""[^ \t"']+|"[^"]*"|'[^']*'""")


class Word(NamedTuple):
    """One word. `typed` is its slice of the line, quotes included. `start` is its position.

    A tuple is fast to make, and a line may have 4,096 words.
    """

    text: str
    typed: str
    start: int

    @property
    def bare(self) -> bool:
        """Whether the word was typed without quotes."""
        return self.text == self.typed


@dataclass(frozen=True, slots=True)
class Line:
    """A line split into words.

    `mistake` says why it cannot run; then `words` are those before the mistake.
    """

    words: tuple[Word, ...]
    filters: tuple[tuple[Word, ...], ...] = ()
    mistake: str | None = None


def takes_time(text: str) -> bool:
    """Tell whether parsing a line may take more than a millisecond, as filters and number ranges may."""
    return len(text) > _LONG_CHARACTERS or "|" in text or "{" in text


def is_comment(text: str) -> bool:
    """Tell whether a line is a comment: `#` is its first character after any blanks."""
    return text.lstrip(_BLANKS).startswith("#")


def tokenize(text: str) -> Line:
    """Split a line. Never raises: `mistake` describes an error.

    A comment has no words and no mistake, like an empty line.
    """
    if len(text) > MOST_CHARACTERS:
        return Line((), mistake=f"the line is longer than {MOST_CHARACTERS:,} characters; none of it was run")
    if is_comment(text):
        return Line(())
    control = _CONTROL.search(text)
    if control:
        return Line((), mistake=_control(control[0], control.start()))
    if '"' not in text and "'" not in text:
        plain = islice(_PLAIN.finditer(text), MOST_WORDS + 1)
        words = [Word(found[0], found[0], found.start()) for found in plain]
        return _pipeline(words, _unseen_mistake(text, None if text.isascii() else unseen(text)))
    return _quoted(text)


def _quoted(text: str) -> Line:
    """Split a line with quotes."""
    hidden: int | None = None
    words: list[Word] = []
    position = 0
    while (start := _skip_blanks(text, position)) < len(text):
        end, chunks = start, []
        while found := _CHUNK.match(text, end):
            chunks.append(found[0])
            if hidden is None and found[0][0] not in "\"'":
                hidden = unseen(text, end, found.end())
            end = found.end()
        if end < len(text) and text[end] not in _BLANKS:
            mistake = f"the quote {text[end]} at column {end + 1} is not closed"
            return _pipeline(words, _unseen_mistake(text, hidden) or mistake)
        unquoted = "".join(chunk[1:-1] if chunk[0] in "\"'" else chunk for chunk in chunks)
        words.append(Word(unquoted, text[start:end], start))
        if len(words) > MOST_WORDS:
            break
        position = end
    return _pipeline(words, _unseen_mistake(text, hidden))


def _control(character: str, at: int) -> str:
    mistake = f"the line has the control character U+{ord(character):04X} at column {at + 1}"
    return f"{mistake}: {HAS_NUL}" if character == "\0" else mistake


def _unseen_mistake(text: str, at: int | None) -> str | None:
    if at is None:
        return None
    return f"the line has {described(text[at])} at column {at + 1}, which is invisible; only in quotes is it text"


def _skip_blanks(text: str, position: int) -> int:
    while position < len(text) and text[position] in _BLANKS:
        position += 1
    return position


def _pipeline(words: list[Word], mistake: str | None = None) -> Line:
    """Separate the words at each bare `|` into the command and its filters."""
    if len(words) > MOST_WORDS:
        mistake = f"the line has more than {MOST_WORDS:,} words; none of it was run"
        del words[MOST_WORDS:]
    stages: list[list[Word]] = [[]]
    for word in words:
        if word.typed == "|":
            stages.append([])
        else:
            stages[-1].append(word)
    command, *filters = (tuple(stage) for stage in stages)
    return Line(command, tuple(filters), mistake)
