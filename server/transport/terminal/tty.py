"""The terminal of one channel: a queue of unread input, and the output.

It exists as long as the channel. Early input is never lost: it waits in the queue, and a full queue pauses the client.
"""

from __future__ import annotations

import asyncio
import codecs
import re
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Protocol

from server.cooperative import Share
from server.encoding import TELLING_BYTES, foreign_encoding

#: Reading pauses above the first size and resumes below the second, in characters.
PAUSE_ABOVE = 262_144
RESUME_BELOW = 65_536
INTERRUPT = "\x03"
END_OF_INPUT = "\x04"
#: The time that the echo of a line waits for the reply, to share a packet. A packet costs as much CPU as a command.
_SOON_SECONDS = 0.005
_COMPACT_ABOVE = 65_536
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


class Channel(Protocol):
    """The part of an SSH channel that a terminal uses."""

    def write(self, data: bytes) -> None:
        """Send bytes. Raises OSError on a closed channel."""

    def pause_reading(self) -> None:
        """Stop the client from sending."""

    def resume_reading(self) -> None:
        """Let the client send again."""


class Tty:
    r"""The queue between a channel and its reader.

    With a `pty`, `\n` is sent as `\r\n`, and Ctrl-C interrupts. `arrivals` counts the packets and `arrived` the
    characters so far. `last_input` is the time of the last packet in monotonic seconds.
    """

    def __init__(
        self, channel: Channel, *, pty: bool, interrupt: Callable[[], None], share: Share | None = None
    ) -> None:
        """Take the channel and the user's share of the loop.

        Ctrl-C calls `interrupt` when no line is being read.
        """
        self.pty = pty
        self.ended = False
        self.on_input: Callable[[], None] | None = None
        self.reading = False
        self.arrivals = self.arrived = 0
        self.last_input = monotonic()
        self._channel = channel
        self._interrupt = interrupt
        self._share = share
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")  # drops a byte order mark at the start
        self._beginning = b""
        self._queue = ""
        self._start = 0
        self._after_return = False
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._unsent: list[str] = []
        self._unsent_soon = False

    async def turn(self) -> None:
        """Wait for a turn to handle many keys. Sessions of all users take turns."""
        if self._share is not None:
            await self._share.turn()

    def feed(self, data: bytes) -> None:
        r"""Queue bytes from the client: UTF-8, with every line end as `\r`, even when packets divide it.

        It drops a byte order mark at the start. With a pty it drops NUL too, because a key sends it. Without a pty it
        keeps NUL, so that a line in UTF-16 is refused as a whole.
        """
        if len(self._beginning) < TELLING_BYTES:
            self._beginning += data[: TELLING_BYTES - len(self._beginning)]
        text = self._decoder.decode(data)
        if "\0" in text:
            text = text.replace("\0", "") if self.pty else self._without_nul_after_return(text)
        if not text:
            return
        self.last_input = monotonic()
        self.arrivals += 1
        self.arrived += len(text)
        after_return, self._after_return = self._after_return, text[-1] == "\r"
        if after_return and text[0] == "\n":
            text = text[1:]
        text = text.replace("\r\n", "\r").replace("\n", "\r")
        if self.pty and INTERRUPT in text:
            text = self._interrupted(text)
        self._queue += text
        if len(self) > PAUSE_ABOVE and not self._paused:
            self._paused = True
            self._channel.pause_reading()
        self._wake()

    @property
    def foreign_encoding(self) -> str:
        """`UTF-16` or `UTF-32` when the input begins in that encoding; otherwise empty."""
        return foreign_encoding(self._beginning)

    def interrupt(self) -> None:
        """Act as on Ctrl-C, for `signal INT` and a break."""
        if self.reading and self.pty:
            self.feed(INTERRUPT.encode())
            return
        self.drop()
        self._interrupt()

    def end(self) -> None:
        """Note the end of input."""
        self.ended = True
        self._wake()

    def abandon(self) -> None:
        """Drop the queue and release waiting writers, because the client is gone."""
        self.drop()
        self._writable.set()
        self.end()

    def __len__(self) -> int:
        """The number of unread characters."""
        return len(self._queue) - self._start

    async def wait(self, after: int = -1) -> None:
        """Wait for input in the queue after more than `after` packets, or for the end of input."""
        while not self.ended and not (len(self) and self.arrivals > after):
            await self._arrival()

    @property
    def has_line_end(self) -> bool:
        """Whether the end of the current line has arrived; the end of input counts as one."""
        return self.ended or self._queue.find("\r", self._start) >= 0

    async def line_end_by(self, deadline: float) -> bool:
        """Wait until `deadline`, in event loop time, for the end of the line. Returns whether it has arrived."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while not self.has_line_end:
                    await self._arrival()
        return self.has_line_end

    async def _arrival(self) -> None:
        """Wait for the next input."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def take_line(self) -> str | None:
        """Take a complete line of visible characters and tabs, without its line end. Returns None without one.

        With a pty each tab becomes a blank, because Tab completes only in an unfinished line.
        """
        end = self._queue.find("\r", self._start)
        if end < 0 or _CONTROL.search(self._queue, self._start, end):
            return None
        line = self._queue[self._start : end]
        self._taken(end + 1)
        return line.replace("\t", " ") if self.pty else line

    def peek(self, most: int) -> str:
        """Return up to `most` characters, and leave them in the queue."""
        return self._queue[self._start : self._start + most]

    def take(self, count: int) -> None:
        """Remove `count` characters that `peek` has returned."""
        self._taken(self._start + count)

    def put_back(self, text: str) -> None:
        """Put characters back at the beginning of the queue."""
        self._queue, self._start = text + self._queue[self._start :], 0

    def take_through(self, stops: str) -> str:
        """Take the queue up to and including the first character of `stops`, or the whole queue."""
        found = re.compile(f"[{re.escape(stops)}]").search(self._queue, self._start)
        end = found.end() if found else len(self._queue)
        text = self._queue[self._start : end]
        self._taken(end)
        return text

    def write(self, text: str) -> None:
        r"""Send text in the next iteration of the event loop at the latest. Use `\n` as line end.

        All text of one iteration is sent as one packet, because a packet costs more CPU than the rest of a short reply.
        """
        if not self._unsent or self._unsent_soon:
            asyncio.get_running_loop().call_soon(self.flush)
            self._unsent_soon = False
        self._unsent.append(text)

    def write_soon(self, text: str) -> None:
        """Send text together with the next output, but after 5 milliseconds at the latest."""
        if not self._unsent:
            asyncio.get_running_loop().call_later(_SOON_SECONDS, self.flush)
            self._unsent_soon = True
        self._unsent.append(text)

    def flush(self) -> None:
        """Send the waiting output. A closed channel is not an error."""
        self._unsent_soon = False
        text, self._unsent = "".join(self._unsent), []
        if not text:
            return
        try:
            self._channel.write((text.replace("\n", "\r\n") if self.pty else text).encode("utf-8", "replace"))
        except OSError:
            self._writable.set()

    def pause_writing(self) -> None:
        """Make writers wait, because the client does not read."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Release waiting writers, because the client has read enough."""
        self._writable.set()
        if self.on_input is not None:
            self.on_input()  # keys wait in the queue while the client does not read

    @property
    def is_writable(self) -> bool:
        """Whether the client has read enough for more output."""
        return self._writable.is_set()

    async def writable(self) -> None:
        """Wait until the client has read enough for more output."""
        await self._writable.wait()

    async def drain(self) -> None:
        """Send the waiting output, and wait until the client has read enough for more."""
        self.flush()
        await self._writable.wait()

    def _interrupted(self, text: str) -> str:
        """Drop all input before the last Ctrl-C, and return the text to queue."""
        self.drop()
        rest = text[text.rindex(INTERRUPT) + 1 :]
        if self.reading:
            return INTERRUPT + rest
        self._interrupt()
        return rest

    def _without_nul_after_return(self, text: str) -> str:
        r"""Turn the line end `\r\0` into `\r`, even when packets divide it."""
        return text.removeprefix("\0" if self._after_return else "").replace("\r\0", "\r")

    def drop(self) -> None:
        """Drop all unread input."""
        self._taken(len(self._queue))

    def _taken(self, end: int) -> None:
        self._start = end
        if self._start > _COMPACT_ABOVE or self._start == len(self._queue):
            self._queue, self._start = self._queue[self._start :], 0
        if self._paused and len(self) < RESUME_BELOW:
            self._paused = False
            self._channel.resume_reading()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self.on_input is not None:
            self.on_input()
