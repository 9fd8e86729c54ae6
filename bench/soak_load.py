"""The clients of the soak: writers with tracked changes, readers, interactive users, and vandals."""

from __future__ import annotations

import asyncio
import random
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import asyncssh
from console import ConsoleServer
from ledger import DOMAIN, Ledger, change_until_cut
from postgresql import Database

HERE = f"domain/{DOMAIN}/integrations/"
_KEY = re.compile(r"API key: ([A-Za-z0-9]{64})")
_PERSON = {"client_version": "OpenSSH_9.9"}
_READS = (f"{HERE}list", f"{HERE}list | json", f"{HERE}list | match 7", "domain/list", "whoami", "cocon/session/list")
#: Wrong and right input for each state of a connection.
_NOISE = (
    b"",
    b"SSH-2.0-x\r\n" + bytes(64),
    b"GET / HTTP/1.0\r\n\r\n",
    b"\xff" * 4000,
    b"SSH-2.0-x\r\n" + b"a" * 70_000,
)


@dataclass
class Shared:
    """An integration with two writers: one changes its key, one its numbers. Neither may undo the other."""

    client_id: str
    key: str = ""
    numbers: str = ""


@dataclass
class Load:
    """The running load and its results. `until` is a time of the loop."""

    console: ConsoleServer
    until: float
    database: Database | None = None
    ledger: Ledger = field(default_factory=Ledger)
    shared: list[Shared] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def goes_on(self) -> bool:
        """Return whether there is time left."""
        return asyncio.get_running_loop().time() < self.until

    async def pause(self, most_seconds: float) -> None:
        """Wait a while, but no longer than the remaining time."""
        left = self.until - asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, min(left, random.uniform(0, most_seconds))))


@asynccontextmanager
async def client(load: Load, **options: object) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """Log in and out repeatedly, whatever happens between."""
    connection = await load.console.connected(**options)
    try:
        yield connection
    finally:
        connection.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(connection.wait_closed(), 10)


async def write_own(load: Load, connection: asyncssh.SSHClientConnection, name: str) -> None:
    """Change integrations that no other client changes."""
    while load.goes_on():
        await change_until_cut(connection, load.ledger, name, most=3)
        await load.pause(0.5)


async def replace_keys(load: Load, connection: asyncssh.SSHClientConnection, shared: Shared) -> None:
    """Replace the key of an integration again and again, while another writer sets its numbers."""
    while load.goes_on():
        ran = await connection.run(f"{HERE}replace {shared.client_id}")
        if ran.exit_status == 0 and (found := _KEY.search(str(ran.stdout))):
            shared.key = found[1]
            load.done["shared key replaced"] += 1
        elif ran.exit_status != 75:
            load.wrong.append(f"replace: {ran.exit_status}: {ran.stdout!s:.200}")
        await load.pause(0.4)


async def set_numbers(load: Load, connection: asyncssh.SSHClientConnection, shared: Shared) -> None:
    """Set the numbers of an integration again and again, while another writer replaces its key."""
    while load.goes_on():
        wanted = str(random.randrange(1000, 10_000))
        ran = await connection.run(f"{HERE}set {shared.client_id} --numbers {wanted}")
        if ran.exit_status == 0:
            shared.numbers = wanted
            load.done["shared numbers set"] += 1
            await _look_at_numbers(load, connection, shared)
        elif ran.exit_status != 75:
            load.wrong.append(f"set: {ran.exit_status}: {ran.stdout!s:.200}")
        await load.pause(0.4)


async def _look_at_numbers(load: Load, connection: asyncssh.SSHClientConnection, shared: Shared) -> None:
    """Check now whether the other writer has undone the change, because the next change would hide it."""
    await load.pause(0.1)
    ran = await connection.run(f"{HERE}show {shared.client_id}")
    if ran.exit_status == 0 and f"Numbers: {shared.numbers}\n" not in str(ran.stdout):
        load.wrong.append(f"{shared.client_id} has lost the numbers {shared.numbers}: {ran.stdout!s:.200}")


async def read(load: Load) -> None:
    """Log in, read, leave. Reads must succeed whatever the state of the disk."""
    while load.goes_on():
        async with client(load) as connection:
            for _ in range(20):
                ran = await connection.run(random.choice(_READS))
                load.done["read"] += 1
                if ran.exit_status not in {0, 75}:
                    load.wrong.append(f"read: {ran.exit_status}: {ran.stdout!s:.200}")
                await load.pause(0.2)


async def type_keys(load: Load) -> None:
    """Type lines key by key at a terminal, with Tab, history and Ctrl-C among them, and leave or vanish."""
    words = ("domain/bi\t\x15whoami\r", "who\x03pwd\r", "\x1b[A\r", "sleep 30\r", "\x03", "help\r", "ls\r", "\x12who\r")
    while load.goes_on():
        connection = await load.console.connected(**_PERSON)
        shell = await connection.create_process(term_type="xterm", term_size=(80, 24), encoding="utf-8")
        reading = asyncio.create_task(shell.stdout.read())
        for _ in range(random.randrange(1, 12)):
            for key in random.choice(words):
                shell.stdin.write(key)
                await asyncio.sleep(0.01)
            await load.pause(0.3)
        load.done["person"] += 1
        connection.abort()
        await connection.wait_closed()
        with suppress(asyncssh.Error, OSError):
            await reading


async def vandalise(load: Load) -> None:
    """Send noise, use a wrong password, request output without reading it, and vanish in every state."""
    while load.goes_on():
        load.done["vandal"] += 1
        await random.choice((_noise, _guess, _unread))(load)
        await load.pause(0.5)


async def _noise(load: Load) -> None:
    with suppress(OSError):
        reader, writer = await asyncio.open_connection("127.0.0.1", load.console.port)
        writer.write(random.choice(_NOISE))
        with suppress(TimeoutError):
            await asyncio.wait_for(reader.read(100), random.uniform(0, 0.5))
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.close()


async def _guess(load: Load) -> None:
    with suppress(asyncssh.Error, OSError):
        await load.console.connected(client_keys=None, password="guessed")  # noqa: S106  nobody has it


async def _unread(load: Load) -> None:
    connection = await load.console.connected()
    shell = await connection.create_process(encoding=None, window=1 << 16)
    shell.channel.pause_reading()
    shell.stdin.write(f"{HERE}list\n".encode() * 200)
    await asyncio.sleep(random.uniform(0, 1))
    connection.abort()
    await connection.wait_closed()


async def add_shared(load: Load, count: int) -> None:
    """Add the integrations that have two writers each."""
    async with client(load) as connection:
        for number in range(count):
            shared = Shared(f"shared{number}", numbers="1000")
            ran = await connection.run(f"{HERE}add {shared.client_id} --service --numbers 1000", check=True)
            shared.key = str(ran.stdout).split("API key: ")[1].split()[0]
            load.shared.append(shared)
