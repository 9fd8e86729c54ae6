"""Start the program as systemd does with a socket unit: `activate.py DESCRIPTOR,… PROGRAM WORD …`."""

from __future__ import annotations

import fcntl
import os
import sys

given = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 20) for number in sys.argv[1].split(",")]
for index, descriptor in enumerate(given):
    os.dup2(descriptor, 3 + index)
    os.close(descriptor)
told = {"LISTEN_FDS": str(len(given)), "LISTEN_PID": str(os.getpid())}
os.execve(sys.argv[2], sys.argv[2:], {**os.environ, **told})  # noqa: S606  no shell is wanted
