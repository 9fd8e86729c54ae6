"""The reason why the console ends a session, or all of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The end of one session, or of all of them when the console stops.

    `None` in its place means: not ending. `reason` is a short phrase for logs and probes. `sentence` is shown to
    the client; an empty one shows nothing.
    """

    reason: str
    sentence: str = ""


STOPPING = Shutdown("the console is stopping", "The console is stopping; log in again later.")
