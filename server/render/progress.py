"""Show the progress of long work on one line."""

from __future__ import annotations

_BAR_COLUMNS = 30


def progress_text(done: float, total: float, unit: str) -> str:
    """Return a bar and its figures: `━━━━━━━━━╸   3 of 10 s`.

    rich could draw the bar, but importing it blocks the event loop for 40 ms.
    """
    halves = int(2 * _BAR_COLUMNS * min(done, total) / total) if total else 0
    bar = "━" * (halves // 2) + "╸" * (halves % 2)
    return f"{bar.ljust(_BAR_COLUMNS)} {done:.0f} of {total:.0f} {unit}"
