"""How far long work is, as one line for a person who waits."""

from __future__ import annotations

import io

_BAR_COLUMNS = 30


def progress_text(done: float, total: float, unit: str) -> str:
    """Return a bar with its figures: `━━━━━━━━━╸   3 of 10 s`."""
    from rich.console import Console  # noqa: PLC0415  40 ms that only long work needs
    from rich.progress_bar import ProgressBar  # noqa: PLC0415

    file = io.StringIO()
    bar = ProgressBar(total=total, completed=done, width=_BAR_COLUMNS)
    Console(file=file, width=_BAR_COLUMNS, color_system=None, force_terminal=True).print(bar, end="")
    return f"{file.getvalue().rstrip().ljust(_BAR_COLUMNS)} {done:.0f} of {total:.0f} {unit}"
