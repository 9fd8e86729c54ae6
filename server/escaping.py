r"""Escape unsafe characters, in the same way for the log and for replies.

Both show text that other people typed: user names of failed logins, comments of keys, arguments of commands. Unsafe
characters could control a terminal or forge a line. They are control characters, Unicode line ends, invisible
characters, direction marks and lone surrogates. Letters, digits and blanks of all scripts are safe.
"""

from __future__ import annotations

import re

#: C0, DEL, C1; Unicode's format characters, except the visible Arabic and Syriac ones; surrogates.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff\ud800-\udfff]"
)


def escaped(text: str, keep: str = "") -> str:
    r"""Escape unsafe characters, except those in `keep`: a line feed becomes `\x0a`, ESC becomes `\x1b`."""
    plain = text
    for each in keep:
        plain = plain.replace(each, "")
    if plain.isprintable():  # the usual case; ten times as fast as the expression
        return text
    return _UNSAFE.sub(lambda found: found[0] if found[0] in keep else _escape(ord(found[0])), text)


def escaped_json(document: str) -> str:
    """Replace unsafe characters of a JSON document with JSON escapes, so that it stays one line."""
    if document.isascii():  # the JSON encoder has escaped the other control characters
        return document.replace("\x7f", "\\u007f")
    return document if document.isprintable() else _UNSAFE.sub(_json_escape, document)


def _escape(code: int) -> str:
    if code <= 0xFF:  # noqa: PLR2004  the highest code of two hexadecimal digits
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004


def _json_escape(found: re.Match[str]) -> str:
    return re.sub("....", r"\\u\g<0>", found[0].encode("utf-16-be", "surrogatepass").hex())
