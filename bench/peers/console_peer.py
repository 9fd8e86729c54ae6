"""The peer: asyncssh with the callbacks and algorithms of the console, and without its work.

It shows the cost of the library itself. Environment: PEER_DIR has host_key, authorized_key and replies/ with a file
for each answered command, named like the command with _ for /. PEER_PORT is the port to listen on.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import asyncssh

PROMPT = b"admin@ds1@ecss1:/$ "


class Session(asyncssh.SSHServerSession[bytes]):
    """One channel: a shell that echoes its input, or one command."""

    def __init__(self, replies: Mapping[str, bytes]) -> None:
        """Take the replies by command."""
        self._replies = replies
        self._line = b""
        self._command: str | None = None
        self._channel: asyncssh.SSHServerChannel[bytes]

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        """Take the channel."""
        self._channel = chan

    def pty_requested(self, *_terminal: object) -> bool:
        """Give a terminal."""
        return True

    def shell_requested(self) -> bool:
        """Give a shell."""
        return True

    def exec_requested(self, command: str) -> bool:
        """Run one command."""
        self._command = command
        return True

    def session_started(self) -> None:
        """Answer the command, or prompt."""
        if self._command is None:
            self._channel.write(PROMPT)
            return
        self._channel.write(self._reply(self._command))
        self._channel.exit(0)

    def data_received(self, data: bytes, _datatype: object) -> None:
        """Echo keys; answer each line."""
        *lines, rest = (self._line + data).replace(b"\n", b"\r").split(b"\r")
        if not lines:
            self._line = rest
            self._channel.write(data)
            return
        typed = len(self._line)
        for line in lines:
            self._channel.write(line[typed:] + b"\r\n" + self._reply(line.decode()).replace(b"\n", b"\r\n") + PROMPT)
            typed = 0
        self._line = rest

    def _reply(self, command: str) -> bytes:
        return self._replies.get(command.strip().replace("/", "_"), b"")


class Server(asyncssh.SSHServer):
    """One connection."""

    def __init__(self, replies: Mapping[str, bytes]) -> None:
        """Take the replies by command."""
        self._replies = replies

    def session_requested(self) -> Session:
        """Give a channel."""
        return Session(self._replies)


async def main(folder: Path, port: int) -> None:
    """Serve for ever."""
    logging.getLogger("asyncssh").setLevel(logging.WARNING)
    replies = {path.name: path.read_bytes() for path in (folder / "replies").iterdir()}
    await asyncssh.create_server(
        lambda: Server(replies),
        "127.0.0.1",
        port,
        server_host_keys=[str(folder / "host_key")],
        authorized_client_keys=str(folder / "authorized_key"),
        kex_algs=["curve25519-sha256"],
        encryption_algs=["aes128-gcm@openssh.com"],
        compression_algs=None,
        encoding=None,
        line_editor=False,
        agent_forwarding=False,
    )
    gc.collect()
    gc.freeze()
    await asyncio.Event().wait()


asyncio.run(main(Path(os.environ["PEER_DIR"]), int(os.environ["PEER_PORT"])))
