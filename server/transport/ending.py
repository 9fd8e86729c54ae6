"""Why the editing of a line stops for a moment or for good."""

from __future__ import annotations

from enum import Enum


class Ending(Enum):
    """Why the editor stopped reading keys."""

    ACCEPT = "Enter"
    COMPLETE = "Tab"
    EXPLAIN = "? at the start of a word"
    DROP = "Ctrl-C"
    LEAVE = "Ctrl-D on an empty line, or the end of input"
    RECALL = "the first key of the line that needs the user's earlier lines"
    TOO_LONG = "the line has grown beyond what is edited"
