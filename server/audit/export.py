"""Write the audit as JSON lines to standard error or a file, for log collectors.

The exporter reads the store, not the program. It writes every committed record in order, also those of other programs.
So no line tells of a change that was rolled back, and no change waits for the log. A log that cannot be read or written
is reported once and tried again; the lines wait in the store. Each line has `seq` and `mac`, so the log also exports
the head.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import re
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

from server.escaping import escaped_json
from server.node import metrics
from server.node.metrics import Reading, single
from server.plain_files import plain
from server.storage import events
from server.storage.owner import ROOT, owners_of
from server.storage.store import Store

T = TypeVar("T")

LOOK_SECONDS = 0.5
_ROWS_PER_WRITE = 500
_LAST_SECONDS = 0.5
#: A longer write is reported: nobody may be reading the pipe, or a file server may be down.
_SLOW_SECONDS = 5.0
_TAIL_BYTES = 262_144
#: A whole line as this program writes it. Nothing else in the file is parsed.
_RECORD = re.compile(rb'^\{"id": ([1-9][0-9]{0,17}), "at": .*\}$', re.MULTILINE)

_log = logging.getLogger("ecss-console.audit")


class _LogEnd(NamedTuple):
    """The end of a log: the id of its last record, or 0, and whether its last line is incomplete."""

    last_id: int
    is_incomplete: bool


class Exporter:
    """Writes new audit records to a log. `start` it once, and `stop` it once before the store is closed."""

    def __init__(self, store: Store, path: Path | None) -> None:
        """Take the store and the file; None means standard error."""
        self._store = store
        self._path = path
        self._last_id = 0
        self._broken = False
        self._following: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Start after the last record in the file, or after the newest record if the file has none.

        Records from the time without a server are thus written too.
        """
        self._last_id = (await events.outline(self._store)).last_id
        self._following = asyncio.get_running_loop().create_task(self._follow())
        self._following.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Write the remaining records, but do not wait long for a log that cannot be written."""
        if self._following is None:
            return
        self._stopping.set()
        await asyncio.wait({self._following}, timeout=_LAST_SECONDS)
        self._following.cancel()

    def readings(self) -> Iterator[Reading]:
        """Yield whether writing the log fails."""
        yield single(metrics.AUDIT_LOG_FAILING, int(self._broken))

    def _ended(self, following: asyncio.Task[None]) -> None:
        """Report that the log is no longer written, unless the exporter is stopping."""
        if not self._stopping.is_set():
            self._broken = True
            error = None if following.cancelled() else following.exception()
            _log.critical("the audit's log is not written any more, restart the server", exc_info=error)

    async def _find_end(self) -> None:
        log_end = await _in_thread(partial(_last_written, self._path))
        if log_end.is_incomplete:  # by a power cut; the next record must not become part of that line
            await _in_thread(partial(_append, self._path, b"\n"))
        if log_end.last_id > self._last_id:
            self._restart(log_end.last_id, self._last_id)
        elif log_end.last_id:
            self._last_id = log_end.last_id

    def _restart(self, written: int, there: int) -> None:
        """Start from the first record. If records were removed, repeated lines are better than missing ones."""
        message = (
            "the audit's log ends at id %d, the store at %d: "
            "it was cut or rolled back; all its records are written again"
        )
        _log.error(message, written, there)
        self._last_id = 0

    async def _follow(self) -> None:
        end_found = False
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._stopping.wait()
            try:
                if not end_found:
                    await self._find_end()
                    end_found = True
                await self._catch_up()
            except Exception as error:  # noqa: BLE001  whatever the error is, the next try may succeed
                self._report(error)

    async def _catch_up(self) -> None:
        there = (await events.last_id(self._store)) if self._last_id else 0
        if there < self._last_id:
            self._restart(self._last_id, there)
        while rows := await events.after(self._store, self._last_id, _ROWS_PER_WRITE):
            lines = "".join(escaped_json(json.dumps(row)) + "\n" for row in rows)
            await self._write(lines.encode())
            self._last_id = int(str(rows[-1]["id"]))
            self._report(None)

    async def _write(self, lines: bytes) -> None:
        writing = _in_thread(partial(_append, self._path, lines))
        await asyncio.wait({writing}, timeout=_SLOW_SECONDS)
        if not writing.done():
            self._report(TimeoutError(f"it has taken nothing for {_SLOW_SECONDS:.0f} seconds"))
        await writing

    def _report(self, error: Exception | None) -> None:
        if error is not None and not self._broken:
            _log.error("the audit's log cannot be written, its lines wait: %s", error)
        elif error is None and self._broken:
            _log.info("the audit's log is written again")
        self._broken = error is not None


def _in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """Run work that may block for ever in a thread that does not keep the process alive."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: Exception | None) -> None:
        if done.done():
            return  # the caller no longer waits
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(cast("T", result))

    def run() -> None:
        result: T | None = None
        failed: Exception | None = None
        try:
            result = work()
        except Exception as error:  # noqa: BLE001  raised where the future is awaited
            failed = error
        with suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(tell, result, failed)

    threading.Thread(target=run, name="audit log", daemon=True).start()
    return done


def _append(path: Path | None, text: bytes) -> None:
    """Write all lines or none. The file is opened each time, so a moved file is created again."""
    if path is None:
        for line in text.splitlines(keepends=True):  # a pipe keeps a single write whole
            os.write(sys.stderr.fileno(), line)
        return
    if os.geteuid() == ROOT and owners_of(path):
        raise OSError(errno.EPERM, "root writes no log into a folder of somebody else", str(path))
    descriptor = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        before = os.fstat(descriptor)
        rest = memoryview(text)
        try:
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        except OSError:
            if stat.S_ISREG(before.st_mode):
                os.ftruncate(descriptor, before.st_size)
            raise
    finally:
        os.close(descriptor)


def _last_written(path: Path | None) -> _LogEnd:
    """Return the end of a log. Raises OSError or ValueError when the end of a file cannot be found.

    A pipe or a device has no end. It is not opened, because that may block.
    """
    if path is None or not path.is_file():
        return _LogEnd(0, is_incomplete=False)
    with plain(path) as descriptor:
        size = os.fstat(descriptor).st_size
        lines, _, rest = os.pread(descriptor, _TAIL_BYTES, max(0, size - _TAIL_BYTES)).rpartition(b"\n")
    records = [int(found[1]) for found in _RECORD.finditer(lines)]
    if not records and size > _TAIL_BYTES:
        message = f"there is no record in its last {_TAIL_BYTES:,} bytes; move it away, and the server starts a new one"
        raise ValueError(message)
    return _LogEnd(records[-1] if records else 0, is_incomplete=bool(rest))
