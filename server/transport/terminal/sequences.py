"""Split terminal input into text, control characters, and escape sequences of limited length.

The functions keep no state: an unfinished sequence waits in the terminal's queue. A control character or the length
limit ends it. Then its characters count as text, so that a line never runs with a part missing.
"""

from __future__ import annotations

import re

#: The length limit of a sequence. A reader must look at this many characters at least.
MOST_CHARACTERS_PER_SEQUENCE = 300

_VISIBLE = r"[^\x00-\x1f\x7f-\x9f]"
_PARAMETERS = r"[0-?]{0,32}+[\ -/]{0,8}+"
_STRING = r"[\]PX^_][^\x00-\x1f]{0,256}+"
_PIECE = re.compile(
    rf"""{_VISIBLE}++
    | \x1b(?: \[\[[\x20-\x7e]                # a function key of the Linux console
            | \[M[^\x00-\x1f]{{3}}           # a mouse report of three characters
            | \[(?!\[|M){_PARAMETERS}[@-~]   # CSI … final
            | O[\x20-\x7e]                   # SS3 and one key
            | {_STRING}(?:\x07|\x1b\\)       # OSC, DCS, SOS, PM, APC … BEL or ST
            | [^\x00-\x1f\[\]OPX^_]          # Alt and one key
      )
    | [\x00-\x1f\x7f-\x9f]
    """,
    re.VERBOSE,
)
_OPEN = re.compile(
    rf"\x1b(?:\[(?:\[|M[^\x00-\x1f]{{0,2}}|{_PARAMETERS})|O|{_STRING}\x1b?)?\Z",
    re.VERBOSE,
)
PASTE_BEGINS, PASTE_ENDS = "\x1b[200~", "\x1b[201~"


def piece_at(text: str, start: int) -> str:
    """Return the text, control character or escape sequence at `start`, or "" for an unfinished sequence.

    An escape character that begins no sequence is returned alone.
    """
    found = _PIECE.match(text, start)
    if found is None or (found[0] == "\x1b" and _OPEN.match(text, start)):
        return ""
    return found[0]


def is_text(piece: str) -> bool:
    """Tell whether a piece is a run of visible characters."""
    return piece[0] >= " " and not "\x7f" <= piece[0] <= "\x9f"
