"""Send status to systemd, and take over the listening sockets that systemd opened.

Implements sd_notify(3) and sd_listen_fds(3) without a library. Does nothing when systemd did not start the program.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from server.errors import StartError

_FIRST_DESCRIPTOR = 3
_MICROSECONDS = 1_000_000
#: `FileDescriptorName=` of the socket unit for the metrics.
_METRICS = "metrics"


class SystemdNotifier:
    """Sends status to systemd. `watchdog_seconds` is the watchdog's timeout, 0 for none."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        """Read $NOTIFY_SOCKET, and $WATCHDOG_USEC if $WATCHDOG_PID names this process."""
        self._address = environment.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):  # an abstract socket name of Linux
            self._address = "\0" + self._address[1:]
        for_this_process = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "") if for_this_process else ""
        self.watchdog_seconds = int(microseconds) / _MICROSECONDS if microseconds.isdecimal() else 0.0

    def ready(self, status: str) -> None:
        """Report that logins are accepted."""
        self._tell("READY=1", f"STATUS={status}")

    def waiting(self, status: str, seconds: int) -> None:
        """Report what the start waits for, and ask for so much more time for the start."""
        self._tell(f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={seconds * _MICROSECONDS}")

    def reloading(self) -> None:
        """Report that a reload has begun. Call `ready` after it."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        """Report that the shutdown has begun."""
        self._tell("STOPPING=1", f"STATUS={status}")

    async def beat(self, status: Callable[[], str]) -> None:
        """Notify the watchdog twice per timeout, for ever.

        A blocked event loop sends nothing, so systemd restarts the program.
        """
        while self._address and self.watchdog_seconds:
            self._tell("WATCHDOG=1", f"STATUS={status()}")
            await asyncio.sleep(self.watchdog_seconds / 2)

    def _tell(self, *assignments: str) -> None:
        if not self._address:
            return
        # the service goes on when systemd does not listen or no descriptor is free: the next notification may succeed
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)  # noqa: FBT003  the method name explains the flag
            sender.sendto("\n".join(assignments).encode(), self._address)


@dataclass(frozen=True, slots=True)
class ActivatedSockets:
    """The listening sockets of systemd's socket activation, for SSH clients and for the metrics."""

    ssh: tuple[socket.socket, ...] = ()
    metrics: tuple[socket.socket, ...] = ()


def activated_sockets(environment: Mapping[str, str] = os.environ) -> ActivatedSockets:
    """Return the listening sockets that systemd passed, if any.

    `FileDescriptorName=metrics` marks those for the metrics. Raises StartError for a descriptor that is not a listening
    TCP socket.
    """
    count = environment.get("LISTEN_FDS", "")
    if environment.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal():
        return ActivatedSockets()
    opened = [_listening(_FIRST_DESCRIPTOR + index) for index in range(int(count))]
    names = dict(enumerate(environment.get("LISTEN_FDNAMES", "").split(":")))
    for_metrics = tuple(each for index, each in enumerate(opened) if names.get(index) == _METRICS)
    return ActivatedSockets(tuple(each for each in opened if each not in for_metrics), for_metrics)


def _listening(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)  # noqa: FBT003  the name of the call says it
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise StartError(_misfit(descriptor))
        given = socket.socket(fileno=descriptor)
        listens = given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise StartError(_misfit(descriptor)) from error
    if given.family not in {socket.AF_INET, socket.AF_INET6} or not listens:
        raise StartError(_misfit(descriptor))
    return given


def _misfit(descriptor: int) -> str:
    return (
        f"descriptor {descriptor} from the service manager is no listening TCP socket: "
        "the socket unit needs ListenStream=PORT and Accept=no"
    )
