"""UTF-8 text as other programs write it: with a byte order mark, or by mistake in UTF-16 or UTF-32. Pure."""

from __future__ import annotations

BYTE_ORDER_MARK = "\ufeff"
#: So many bytes at the start of a text tell its encoding.
TELLING_BYTES = 4
NOT_UTF_8 = "this is not UTF-8 text"
HAS_NUL = "it has NUL characters, as UTF-16 text has; save it as UTF-8"
_MARKS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
#: Text without a mark that begins with characters of ASCII: 0 for each of the first four bytes that is NUL, else 1.
_NULS = {
    b"\1\0\0\0": "UTF-32",
    b"\0\0\0\1": "UTF-32",
    b"\1\0\1\0": "UTF-16",
    b"\0\1\0\1": "UTF-16",
}


def foreign_encoding(beginning: bytes) -> str:
    """Return `UTF-16` or `UTF-32` when the first bytes of a text are in that encoding; empty when they are not."""
    for mark, name in _MARKS.items():
        if beginning.startswith(mark):
            return name
    return _NULS.get(bytes(byte != 0 for byte in beginning[:TELLING_BYTES]), "")


def save_as_utf_8(encoding: str) -> str:
    """Return the sentence for a text in another encoding."""
    return f"this is {encoding} text; save it as UTF-8"


def decoded(raw: bytes) -> str:
    """Return the text of a file without its byte order mark.

    Raises ValueError, whose text never repeats the content, for UTF-16, UTF-32 and anything else that is not UTF-8.
    """
    encoding = foreign_encoding(raw)
    if encoding:
        raise ValueError(save_as_utf_8(encoding))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(NOT_UTF_8) from None
    if "\0" in text:
        raise ValueError(HAS_NUL)
    return text
