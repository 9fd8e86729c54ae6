"""The reasons why the line editor stops."""

from __future__ import annotations

from enum import Enum


class EditorStop(Enum):
    """The reason why the editor stopped reading keys. It continues unless the line is finished."""

    ACCEPT = "Enter"
    COMPLETE = "Tab"
    EXPLAIN = "? at the start of a word"
    DROP = "Ctrl-C"
    LEAVE = "Ctrl-D on an empty line, or the end of input"
    RECALL = "the first key that needs the earlier lines of the user"
    TOO_LONG = "the line is too long for the editor"
