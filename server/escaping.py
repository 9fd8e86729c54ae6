r"""Characters that must not reach a terminal or a reader of lines as they are: one set for log and replies.

Text of other people stands in both: names that were tried at a login, comments of keys, words of commands. They are
control characters, line ends of Unicode, characters that are not shown or turn the direction of text, and halves of
characters. Letters, digits and blanks of all scripts stay as they are.
"""

from __future__ import annotations

import re

#: C0, DEL, C1; what Unicode calls format characters, but for the visible signs of Arabic and Syriac; halves.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff\ud800-\udfff]"
)


def escaped(text: str, keep: str = "") -> str:
    r"""Return a text that moves no terminal: `\n` and ESC as `\x0a` and `\x1b`, but for the characters in `keep`."""
    plain = text
    for each in keep:
        plain = plain.replace(each, "")
    if plain.isprintable():  # ten times as fast as the expression, and nearly always so
        return text
    return _UNSAFE.sub(lambda found: found[0] if found[0] in keep else _escape(ord(found[0])), text)


def escaped_json(document: str) -> str:
    """Return a JSON document in which all these characters are escapes of JSON, so that it stays one line."""
    if document.isascii():  # JSON itself escapes the others
        return document.replace("\x7f", "\\u007f")
    return document if document.isprintable() else _UNSAFE.sub(_json_escape, document)


def _escape(code: int) -> str:
    if code <= 0xFF:  # noqa: PLR2004  two digits are enough up to here, and four up to the next
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004


def _json_escape(found: re.Match[str]) -> str:
    return re.sub("....", r"\\u\g<0>", found[0].encode("utf-16-be", "surrogatepass").hex())
