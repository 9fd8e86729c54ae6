"""Hostile connections from one address: silent ones, garbage, half key exchanges, wrong passwords.

python bench/flood.py PORT KEY COUNT    prints how many of each kind it made; loopback only
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from random import Random

from guessing import refusals  # isort: skip  neighbours, not packages
from packets import KEXINIT, PacketMaker  # isort: skip
from servers import Server  # isort: skip

SOURCE = "127.0.0.9"
_AT_ONCE = 200
_SILENT_SECONDS = 1.0
_REPLY_SECONDS = 0.5
_VERSION = b"SSH-2.0-OpenSSH_9.9\r\n"


async def _read_for(reader: asyncio.StreamReader, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while await reader.read(65536):
                pass


async def _raw(port: int, sent: bytes, seconds: float) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(SOURCE, 0))
    try:
        writer.write(sent)
        await _read_for(reader, seconds)
    finally:
        writer.transport.abort()


async def flood(server: Server, count: int) -> Counter[str]:
    """Make `count` connections, a few hundred at once."""
    random, maker, made, left = Random(9), PacketMaker(9), Counter[str](), count
    half = _VERSION + maker.framed(KEXINIT, maker.kexinit())

    def garbage() -> bytes:
        return random.choice((_VERSION, b"")) + random.randbytes(random.randrange(1, 3000))

    kinds: dict[str, Callable[[], Awaitable[object]]] = {
        "silent": lambda: _raw(server.port, b"", _SILENT_SECONDS),
        "garbage": lambda: _raw(server.port, garbage(), _REPLY_SECONDS),
        "half key exchange": lambda: _raw(server.port, half, _REPLY_SECONDS),
        "wrong password": lambda: refusals(server, "admin", 3, SOURCE),
    }

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            kind = random.choices([*kinds], (50, 25, 20, 5))[0]
            with suppress(OSError):
                await kinds[kind]()
            made[kind] += 1

    await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
    return made


def start(server: Server, count: int) -> subprocess.Popen[str]:
    """Flood from a separate process, so that its CPU work does not delay the measuring process."""
    words = [sys.executable, __file__, str(server.port), str(server.key), str(count)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)


if __name__ == "__main__":
    os.nice(5)  # a real flood comes over a network and does not use the server's CPU
    port, key, connections = sys.argv[1:]
    target = Server("", subprocess.Popen(["true"], text=True), int(port), Path(key))
    print(dict(asyncio.run(flood(target, int(connections)))))
