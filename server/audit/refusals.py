"""Who was turned away and why: counted, and told to the log and the audit without letting a flood fill either.

The first refusal of a source for a reason is told at once; what follows is summed up every `SUMMARY_SECONDS`. Of
sources beyond `MOST_NAMED` in one such time only the sum is told: a flood makes the same few lines however wide it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass

from server.audit.journal import Journal, utc_now
from server.log import about
from server.model.events import Event, EventKind
from server.model.refusals import Refusal

SUMMARY_SECONDS = 10.0
MOST_NAMED = 16
MOST_WHAT_CHARACTERS = 1000

_log = logging.getLogger("ecss-console.limits")


@dataclass(frozen=True, slots=True)
class Told:
    """One line: `count` refusals of a source for a reason; without a source, of all that are not named.

    `what` says what was asked for the first time.
    """

    reason: Refusal
    source: str
    user_name: str
    count: int
    first: bool
    what: str = ""


class Tally:
    """What was refused since the start, by reason, and what of it waits for the next summary. Pure."""

    def __init__(self, most_named: int = MOST_NAMED) -> None:
        """Begin with nothing refused."""
        self.counted: Counter[Refusal] = Counter()
        self._most_named = most_named
        self._named: Counter[tuple[Refusal, str, str]] = Counter()
        self._others: Counter[Refusal] = Counter()

    def note(self, reason: Refusal, source: str, user_name: str, what: str = "") -> Told | None:
        """Count a refusal; return what is to be told at once, None when it waits for the summary."""
        self.counted[reason] += 1
        key = (reason, source, user_name)
        if key in self._named:
            self._named[key] += 1
            return None
        if len(self._named) >= self._most_named:
            self._others[reason] += 1
            return None
        self._named[key] = 0
        return Told(reason, source, user_name, 1, first=True, what=what)

    def summary(self) -> list[Told]:
        """Return what was not told yet; sources that were quiet since the last summary count as new from now on."""
        named = [Told(*key, count, first=False) for key, count in self._named.items() if count]
        others = [Told(reason, "", "", count, first=False) for reason, count in self._others.items()]
        self._others.clear()
        self._named = Counter({(told.reason, told.source, told.user_name): 0 for told in named})
        return named + others

    @property
    def idle(self) -> bool:
        """Whether nobody is remembered, so that there is nothing to sum up."""
        return not self._named and not self._others


class Refusals:
    """Tells the log and the audit who was turned away; `counted` holds the numbers since the start. `close` it."""

    def __init__(self, journal: Journal, node_name: str) -> None:
        """Take the journal that the events go to."""
        self._journal = journal
        self._node_name = node_name
        self._tally = Tally()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def counted(self) -> Counter[Refusal]:
        """How many were refused since the start, by reason."""
        return self._tally.counted

    def refuse(self, reason: Refusal, address: str, user_name: str = "", what: str = "") -> None:
        """Count a refusal and see to it that it is told, now or in the next summary.

        `what` was asked for; it may be a client's own text, and is shortened and escaped.
        """
        told = self._tally.note(reason, address, user_name, ascii(what[:MOST_WHAT_CHARACTERS])[1:-1])
        if told is not None:
            self._tell(told)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SUMMARY_SECONDS, self._sum_up)

    def close(self) -> None:
        """Tell what waits; nothing is refused any more."""
        if self._timer is not None:
            self._timer.cancel()
        for told in self._tally.summary():
            self._tell(told)

    def _sum_up(self) -> None:
        for told in self._tally.summary():
            self._tell(told)
        again = not self._tally.idle
        self._timer = asyncio.get_running_loop().call_later(SUMMARY_SECONDS, self._sum_up) if again else None

    def _tell(self, told: Told) -> None:
        source = told.source or "other sources"
        number = "" if told.first else f"{told.count:,} more from "
        user = f" as {told.user_name}" if told.user_name else ""
        fields = {"source": told.source, "user": told.user_name, "reason": told.reason.value, "count": told.count}
        fields |= {"what": told.what} if told.what else {}
        kind = EventKind.NEGOTIATION_FAILED if told.reason is Refusal.NEGOTIATION else EventKind.CONNECTION_REFUSED
        extra = about(kind.value, **fields)
        what = f": {told.what}" if told.what else ""
        _log.warning("refused %s%s%s: %s%s", number, source, user, told.reason.value, what, extra=extra)
        event = Event(
            kind,
            utc_now(),
            self._node_name,
            told.user_name,
            told.source,
            "",
            status=1,
            detail=f"{told.reason.value} {told.count}{what}",
        )
        self._journal.record_soon(event)
