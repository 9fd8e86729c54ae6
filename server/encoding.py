"""Decode UTF-8 with or without a byte order mark, and recognise UTF-16 and UTF-32 to refuse them.

Pure.
"""

from __future__ import annotations

import codecs

BYTE_ORDER_MARK = "\ufeff"
#: The number of bytes at the start of a text that show its encoding.
TELLING_BYTES = 4
NOT_UTF_8 = "this is not UTF-8 text"
HAS_NUL = "it has NUL characters, as UTF-16 text has; save it as UTF-8"
_MARKS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
#: Text without a mark that begins with ASCII characters. Of its first four bytes, a NUL counts as 0, others as 1.
_NULS = {
    b"\1\0\0\0": "UTF-32",
    b"\0\0\0\1": "UTF-32",
    b"\1\0\1\0": "UTF-16",
    b"\0\1\0\1": "UTF-16",
}


def foreign_encoding(beginning: bytes) -> str:
    """Return `UTF-16` or `UTF-32` when the first bytes of a text are in that encoding, else an empty text."""
    for mark, name in _MARKS.items():
        if beginning.startswith(mark):
            return name
    return _NULS.get(bytes(byte != 0 for byte in beginning[:TELLING_BYTES]), "")


def save_as_utf_8(encoding: str) -> str:
    """Return the error message for text in another encoding."""
    return f"this is {encoding} text; save it as UTF-8"


def decoded(raw: bytes) -> str:
    """Return the text of a file without its byte order mark.

    Raises ValueError for anything but UTF-8. The message never repeats the content, which may be secret.
    """
    encoding = foreign_encoding(raw)
    if encoding:
        raise ValueError(save_as_utf_8(encoding))
    try:
        text = raw.removeprefix(codecs.BOM_UTF8).decode("utf-8")  # the owner of a folder may not load another codec
    except UnicodeDecodeError:
        raise ValueError(NOT_UTF_8) from None
    if "\0" in text:
        raise ValueError(HAS_NUL)
    return text
