"""The progress of long work, as one line for a person who waits."""

from __future__ import annotations

_BAR_COLUMNS = 30


def progress_text(done: float, total: float, unit: str) -> str:
    """Return a bar with its figures: `━━━━━━━━━╸   3 of 10 s`.

    rich could draw it, but importing it blocks the event loop for 40 ms.
    """
    halves = int(2 * _BAR_COLUMNS * min(done, total) / total) if total else 0
    bar = "━" * (halves // 2) + "╸" * (halves % 2)
    return f"{bar.ljust(_BAR_COLUMNS)} {done:.0f} of {total:.0f} {unit}"
