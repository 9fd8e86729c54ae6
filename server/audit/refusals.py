"""Count and log refused connections and requests, so that no flood fills the log or the audit.

The first refusal of a source for a reason is logged at once, later ones are summarised every `SUMMARY_SECONDS`. In each
such period at most `MOST_NAMED` sources are named. All others share one line per reason, so a flood from many sources
makes only a few lines.
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
class RefusalLine:
    """One log line: `count` refusals of a source for a reason; no source means all unnamed sources.

    `what` is the first refused request.
    """

    reason: Refusal
    source: str
    user_name: str
    count: int
    first: bool
    what: str = ""


class Tally:
    """Counts refusals by reason, and those that wait for the next summary. Pure."""

    def __init__(self, most_named: int = MOST_NAMED) -> None:
        """Start without refusals."""
        self.counted: Counter[Refusal] = Counter()
        self._most_named = most_named
        self._named: Counter[tuple[Refusal, str, str]] = Counter()
        self._others: Counter[Refusal] = Counter()

    def note(self, reason: Refusal, source: str, user_name: str, what: str = "") -> RefusalLine | None:
        """Count a refusal; return the line to log at once, None when it waits for the summary."""
        self.counted[reason] += 1
        key = (reason, source, user_name)
        if key in self._named:
            self._named[key] += 1
            return None
        if len(self._named) >= self._most_named:
            self._others[reason] += 1
            return None
        self._named[key] = 0
        return RefusalLine(reason, source, user_name, 1, first=True, what=what)

    def summary(self) -> list[RefusalLine]:
        """Return the lines that were not logged yet. A source without new refusals then counts as new."""
        named = [RefusalLine(*key, count, first=False) for key, count in self._named.items() if count]
        others = [RefusalLine(reason, "", "", count, first=False) for reason, count in self._others.items()]
        self._others.clear()
        self._named = Counter({(line.reason, line.source, line.user_name): 0 for line in named})
        return named + others

    @property
    def idle(self) -> bool:
        """Whether no source is remembered, so that there is nothing to summarise."""
        return not self._named and not self._others


class Refusals:
    """Logs refusals and records them in the audit; `counted` has the totals. `close` it."""

    def __init__(self, journal: Journal, node_name: str) -> None:
        """Take the journal that records the events."""
        self._journal = journal
        self._node_name = node_name
        self._tally = Tally()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def counted(self) -> Counter[Refusal]:
        """The number of refusals since the start, by reason."""
        return self._tally.counted

    def refuse(self, reason: Refusal, address: str, user_name: str = "", what: str = "") -> None:
        """Count a refusal, and log it now or in the next summary.

        `what` is the refused request. It may be the client's own text, so it is shortened and escaped.
        """
        line = self._tally.note(reason, address, user_name, ascii(what[:MOST_WHAT_CHARACTERS])[1:-1])
        if line is not None:
            self._log_line(line)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SUMMARY_SECONDS, self._sum_up)

    def close(self) -> None:
        """Log the rest. Call `refuse` no more afterwards."""
        if self._timer is not None:
            self._timer.cancel()
        for line in self._tally.summary():
            self._log_line(line)

    def _sum_up(self) -> None:
        for line in self._tally.summary():
            self._log_line(line)
        again = not self._tally.idle
        self._timer = asyncio.get_running_loop().call_later(SUMMARY_SECONDS, self._sum_up) if again else None

    def _log_line(self, line: RefusalLine) -> None:
        source = line.source or "other sources"
        number = "" if line.first else f"{line.count:,} more from "
        user = f" as {line.user_name}" if line.user_name else ""
        fields = {"source": line.source, "user": line.user_name, "reason": line.reason.value, "count": line.count}
        fields |= {"what": line.what} if line.what else {}
        kind = EventKind.NEGOTIATION_FAILED if line.reason is Refusal.NEGOTIATION else EventKind.CONNECTION_REFUSED
        extra = about(kind.value, **fields)
        what = f": {line.what}" if line.what else ""
        _log.warning("refused %s%s%s: %s%s", number, source, user, line.reason.value, what, extra=extra)
        event = Event(
            kind,
            utc_now(),
            self._node_name,
            line.user_name,
            line.source,
            "",
            status=1,
            detail=f"{line.reason.value} {line.count}{what}",
        )
        self._journal.record_soon(event)
