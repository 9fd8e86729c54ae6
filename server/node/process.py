"""Metrics of this process from the kernel. A system without /proc has fewer of them.

prometheus_client cannot collect them: it reads the boot time from /proc/stat, which the unit's sandbox hides.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from server.node import metrics
from server.node.metrics import Reading, single

_PROC = Path("/proc/self")


def readings() -> Iterator[Reading]:
    """Yield CPU time, memory and file descriptors."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    yield single(metrics.CPU, used.ru_utime + used.ru_stime)
    yield single(metrics.MOST_FILES, float(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))
    with suppress(OSError):
        resident_pages = int((_PROC / "statm").read_text().split()[1])
        yield single(metrics.RESIDENT, float(resident_pages * os.sysconf("SC_PAGE_SIZE")))
        yield single(metrics.OPEN_FILES, float(len(os.listdir(_PROC / "fd")) - 1))  # noqa: PTH208  one descriptor belongs to this listing
