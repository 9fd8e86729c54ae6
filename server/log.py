"""The program's log on standard error: text for people, or one JSON object per line.

A message may contain text from clients and files. It still stays one line and cannot control a terminal: control
characters, Unicode line ends and direction marks are escaped. Traceback lines are indented, so that none of them looks
like a log line. While serving, a background thread does the writing.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Any

from server.config import Config
from server.escaping import escaped, escaped_json

_INDENT = "    "
#: The most lines that wait for a slow reader of standard error. Further lines are dropped and counted.
MOST_WAITING_LINES = 10_000
_LAST_SECONDS = 0.5

_log = logging.getLogger("ecss-console.log")


def about(event: str, **fields: object) -> dict[str, Any]:
    """Return the `extra` of a log line: a stable event name, and fields such as `user`."""
    return {"fields": {"event": event, **fields}}


def configure(config: Config) -> None:
    """Apply the configured format and level. A reload calls it again."""
    node = config.node.name
    formatter = JsonLines(node) if config.log.format == "json" else ConsoleLines()
    root = logging.getLogger()
    for handler in root.handlers:
        handler.setFormatter(formatter)
    root.setLevel(config.log.level.upper())


def begin() -> None:
    """Log text for people until the configuration is loaded."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.StreamHandler(sys.stderr))
    root.handlers[0].setFormatter(ConsoleLines())
    root.setLevel(logging.INFO)
    # at lower levels asyncssh logs data from clients, and aiosqlite logs stored values, password hashes included
    for library in ("asyncssh", "aiosqlite"):
        logging.getLogger(library).setLevel(logging.WARNING)
    # `ssh.policy: compatible` offers such a group on purpose, and a Python warning is not in the log's format
    warnings.filterwarnings("ignore", "Diffie-Hellman over finite fields", UserWarning)


@contextmanager
def unblocked() -> Iterator[None]:
    """Log from a background thread inside the block, because an unread pipe would block every session.

    The end of the block waits at most half a second for the remaining lines. Call `begin` first.
    """
    stream = sys.__stderr__
    if stream is None:  # the parent process closed it
        yield
        return
    root = logging.getLogger()
    direct = root.handlers[0]
    background = BackgroundLogHandler(stream.fileno())
    background.setFormatter(direct.formatter)
    root.handlers[0] = background
    try:
        yield
    finally:
        root.handlers[0] = direct
        background.close()


class BackgroundLogHandler(logging.Handler):
    """Writes lines to a descriptor from its own thread.

    When too many wait, it drops lines and logs their number.
    """

    def __init__(self, descriptor: int) -> None:
        """Take the descriptor, which the caller closes."""
        super().__init__()
        self._descriptor = descriptor
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._lost = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, or count it as lost when the queue is full."""
        if self._lines.qsize() >= MOST_WAITING_LINES:
            self._lost += 1
            return
        self._tell_lost()
        self._lines.put(self.format(record) + "\n")

    def close(self) -> None:
        """Wait at most half a second for the remaining lines, then stop the thread."""
        self._tell_lost()
        self._lines.put(None)
        self._thread.join(_LAST_SECONDS)
        super().close()

    def _tell_lost(self) -> None:
        if self._lost:
            message = "%d lines of the log were lost: nobody read standard error"
            told = _log.makeRecord(_log.name, logging.WARNING, "", 0, message, (self._lost,), None)
            self._lost = 0
            self._lines.put(self.format(told) + "\n")

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            rest = line.encode(errors="backslashreplace")
            with suppress(OSError):  # the reader is gone
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]


class ConsoleLines(logging.Formatter):
    """Formats `2026-11-24 01:02:03,456 WARNING ecss-console.login: …` in the node's time zone."""

    def __init__(self) -> None:
        """Set the layout of a line."""
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        """Return the line."""
        return escaped(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: ANN401, N802  logging's name and type
        """Return the traceback below the line."""
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802  logging's name
        """Return the stack below the line."""
        return _indented(super().formatStack(stack_info))


class JsonLines(logging.Formatter):
    """Formats `{"at": …, "level": …, "logger": …, "node": …, "message": …}` and the extra fields.

    UTC, ASCII.
    """

    def __init__(self, node: str) -> None:
        """Take the node's name."""
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "node": self._node,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return escaped_json(json.dumps(line, default=str))


def _indented(text: str) -> str:
    return "\n".join(_INDENT + escaped(line) for line in text.split("\n"))
