"""Examples for the help pages, which `make docs` records from a running console."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_SECTION = re.compile(r"^== (.*)\n", re.MULTILINE)


def example(path: str) -> str:
    """Return the recorded session of a command, or an empty text before `make docs` has recorded it."""
    return _recorded().get(path, "")


@cache
def _recorded() -> dict[str, str]:
    _, *parts = _SECTION.split((files("server.render") / "examples.txt").read_text(encoding="utf-8"))
    return dict(zip(parts[::2], parts[1::2], strict=True))
