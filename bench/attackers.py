"""Attacks by an unauthenticated client, a viewer or an operator, each in its own process.

python bench/attackers.py WHO ATTACK PORT KEY    makes one attack of `ATTACKS` and ends; loopback only

The users `vi` (viewer) and `op` (operator of the domain `attack.local`) log in with KEY.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import asyncssh
from asyncssh.constants import MSG_GLOBAL_REQUEST, MSG_USERAUTH_REQUEST
from asyncssh.packet import Boolean, MPInt, String, UInt32, UInt64

SECONDS = 4.0
DOMAIN = "attack.local"
_CHANNELS, _STRANGERS = 48, 60
_LINE_LETTERS = 64_000
#: Sorting these by Unicode's rules is quadratic; each of those grows 18-fold.
_MARKS, _GROWING = ("a" + "\u0300\u0316" * 14_900).encode(), ("\ufdfa" * 19_900).encode()
_REGEX = "(?:(.?)(.?)){20}c"
_CERTIFICATE = b"ssh-ed25519-cert-v01@openssh.com"

_Connection = asyncssh.SSHClientConnection
_Process = asyncssh.SSHClientProcess[bytes]


class _Stranger(asyncssh.SSHClientConnection):
    """A client that logs in by no method of its own: an attack sends the packets."""

    def __init__(self, options: asyncssh.SSHClientConnectionOptions) -> None:
        """Take asyncssh's options."""
        super().__init__(asyncio.get_running_loop(), options)
        self.ready = asyncio.Event()

    def try_next_auth(self, *, next_method: bool = False) -> None:  # noqa: ARG002  asyncssh's signature
        """Leave the next step to the attack."""
        self.ready.set()

    def _refused(self, _type: int, _id: int, _packet: object) -> None:
        """Take a refusal as it comes."""

    _packet_handlers = {  # noqa: RUF012  asyncssh's table
        **asyncssh.SSHClientConnection._packet_handlers,  # noqa: SLF001
        51: _refused,
    }

    def request(self, name: bytes, method: str, *fields: bytes) -> None:
        """Send one request of authentication."""
        self.send_packet(MSG_USERAUTH_REQUEST, String(name), String("ssh-connection"), String(method), b"".join(fields))


async def _stranger(port: int, source: str) -> _Stranger:
    options = asyncssh.SSHClientConnectionOptions(
        username="nobody", client_keys=None, known_hosts=None, agent_path=None, config=None
    )
    _, client = await asyncio.get_running_loop().create_connection(
        lambda: _Stranger(options), "127.0.0.1", port, local_addr=(source, 0)
    )
    await asyncio.wait_for(client.ready.wait(), 20)
    return client


async def _strangers(port: int, act: Callable[[_Stranger], Awaitable[None]]) -> None:
    """Run many unauthenticated clients repeatedly, from enough addresses that no per-source limit stops them."""
    end = time.monotonic() + SECONDS

    async def work(number: int) -> None:
        while time.monotonic() < end:
            with suppress(OSError, asyncssh.Error, TimeoutError):
                client = await _stranger(port, f"127.0.{1 + number % 3}.{1 + number}")
                await act(client)
                await asyncio.sleep(0.05)
                client.abort()

    await asyncio.gather(*(work(number) for number in range(_STRANGERS)))


async def _passwords(port: int, _key: str) -> None:
    async def act(client: _Stranger) -> None:
        client.request(b"admin", "password", Boolean(False), String(_MARKS))  # noqa: FBT003  as the protocol has it
        client.request(b"admin", "password", Boolean(True), String(b"x"), String(_GROWING))  # noqa: FBT003
        client.request(_GROWING, "password", Boolean(False), String(b"x"))  # noqa: FBT003

    await _strangers(port, act)


async def _certificates(port: int, _key: str) -> None:
    """Certificates whose authority is RSA with an exponent as long as its modulus."""
    modulus = int.from_bytes(os.urandom(384), "big") | 1 << 3071 | 1
    authority = String(b"ssh-rsa") + MPInt(modulus >> 1 | 1) + MPInt(modulus)
    certificate = b"".join(
        (
            String(_CERTIFICATE) + String(os.urandom(32)) * 2 + UInt64(1) + UInt32(1) + String(b"id"),
            String(String(b"x")) + UInt64(0) + UInt64(2**64 - 1) + String(b"") * 3 + String(authority),
            String(String(b"rsa-sha2-512") + String(os.urandom(384))),
        )
    )

    async def act(client: _Stranger) -> None:
        for _ in range(40):
            client.request(b"admin", "publickey", Boolean(False), String(_CERTIFICATE), String(certificate))  # noqa: FBT003

    await _strangers(port, act)


async def _key_exchanges(port: int, _key: str) -> None:
    async def act(client: _Stranger) -> None:
        for _ in range(5):
            client._send_kexinit()  # noqa: SLF001
            client._kexinit_sent = True  # noqa: SLF001
            await asyncio.sleep(0.02)

    await _strangers(port, act)


async def _login(port: int, key: str, name: str) -> _Connection:
    return await asyncssh.connect(
        "127.0.0.1", port, username=name, client_keys=[key], known_hosts=None, agent_path=None, config=None
    )


async def _shells(port: int, key: str, name: str, terminal: str | None = None) -> list[_Process]:
    connection = await _login(port, key, name)
    size = (80, 24)
    shells = [
        await connection.create_process(term_type=terminal, term_size=size if terminal else None, encoding=None)
        for _ in range(_CHANNELS)
    ]
    for shell in shells:
        shell.channel.set_encoding(None)
    return shells


async def _typed(port: int, key: str, name: str, keys: bytes, *, terminal: str | None = None) -> None:
    """Type the same text on many channels of one connection, then read the output until the time is over."""
    shells = await _shells(port, key, name, terminal)

    async def read(shell: _Process) -> None:
        while await shell.stdout.read(1 << 20):
            pass

    reading = [asyncio.create_task(read(shell)) for shell in shells]
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for shell in shells:
            with suppress(OSError, asyncssh.Error):
                shell.stdin.write(keys)
        await asyncio.sleep(SECONDS / 2)
    for each in reading:
        each.cancel()


async def _environment(port: int, key: str) -> None:
    channel = await _raw_channel(await _login(port, key, "vi"))
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for number in range(20):
            with suppress(OSError, asyncssh.Error):
                channel._send_request(b"env", String(b"V%d" % number), String(b"x" * 32_000))  # noqa: SLF001
        await asyncio.sleep(0.01)


async def _raw_channel(connection: _Connection) -> asyncssh.SSHClientChannel[bytes]:
    loop = asyncio.get_running_loop()
    channel = asyncssh.SSHClientChannel[bytes](connection, loop, "strict", None, "strict", 2**21, 32_768)
    await channel._open(b"session")  # noqa: SLF001
    return channel


async def _unread_socket(port: int, key: str) -> None:
    """Ask for large replies with a window of 4 GB, and read nothing from the socket."""
    connection = await _login(port, key, "vi")
    channel, _ = await connection.create_session(asyncssh.SSHClientSession, window=2**32 - 1, encoding=None)
    for _ in range(20):
        channel.write(b'echo "' + b"x" * 60_000 + b'"\n')
    await asyncio.sleep(SECONDS / 4)
    if (transport := connection._transport) is not None:  # noqa: SLF001
        transport.pause_reading()
    for _ in range(int(SECONDS * 15)):
        channel.write(b"history\n")
        await asyncio.sleep(0.05)
    connection.abort()


async def _proofs(port: int, key: str) -> None:
    connection = await _login(port, key, "vi")
    told = connection.get_server_host_key()
    payload = String(told.public_data if told else b"") * 4_600
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        prove = String(b"hostkeys-prove-00@openssh.com")
        connection.send_packet(MSG_GLOBAL_REQUEST, prove, Boolean(False), payload)  # noqa: FBT003
        await asyncio.sleep(0.05)


async def _history(port: int, key: str) -> None:
    """Fill the stored history with long lines, then recall it and search in it in many shells."""
    line = b'echo "' + (b"x" * 40 + b" ") * 1_490 + b'"\r'
    await _typed(port, key, "vi+rich", line, terminal="xterm")
    await _typed(port, key, "vi+rich", b"x" + b"\x1b[A" * 200 + b"\x12zq" + b"\x12" * 200 + b"\x03", terminal="xterm")


async def _passwords_of_a_user(port: int, key: str) -> None:
    for connection in [await _login(port, key, "vi") for _ in range(2)]:
        for _ in range(64):
            process = await connection.create_process(encoding=None)
            process.stdin.write(b"passwd\nwrong\n" * 8)
    await asyncio.sleep(SECONDS)


async def _checked_imports(port: int, key: str) -> None:
    rows = [{"client_id": f"c{number}", "type": "widget", "api_key": os.urandom(32).hex()} for number in range(10_000)]
    await _documents_of(port, key, json.dumps(rows).encode(), 24, ends=True)


async def _endless_documents(port: int, key: str) -> None:
    await _documents_of(port, key, ("\U0001f600" * (1 << 18)).encode() * 10, 8, ends=False)


async def _documents_of(port: int, key: str, document: bytes, channels: int, *, ends: bool) -> None:
    connection, end = await _login(port, key, "op"), time.monotonic() + SECONDS * 2

    async def send() -> None:
        while time.monotonic() < end:
            process = await connection.create_process(
                f"domain/{DOMAIN}/integrations/import{' --check' if ends else ''}", encoding=None
            )
            process.stdin.write(document)
            if ends:
                process.stdin.write_eof()
                await process.wait()
            else:
                await asyncio.sleep(SECONDS)
                process.close()

    await asyncio.gather(*(send() for _ in range(channels)), return_exceptions=True)


def _long(words: str, before: str = "echo ", behind: str = "\n") -> bytes:
    return (before + '"' + words * (_LINE_LETTERS // len(words)) + '"' + behind).encode()


def _types(name: str, keys: bytes, terminal: str | None = None) -> Callable[[int, str], Awaitable[None]]:
    return lambda port, key: _typed(port, key, name, keys, terminal=terminal)


_NUMBERS = (
    f"domain/{DOMAIN}/integrations/add n --service --numbers " + "24{0-9}{0-9}{0-9}{0-9}," * 2_500 + "1 --check\n"
)

#: Attacker and attack name -> the function that attacks, with a port and a key.
ATTACKS: dict[str, dict[str, Callable[[int, str], Awaitable[None]]]] = {
    "stranger": {
        "passwords": _passwords,
        "certificates": _certificates,
        "key exchanges": _key_exchanges,
    },
    "viewer": {
        "env": _environment,
        "unread socket": _unread_socket,
        "hostkeys-prove": _proofs,
        "regex": _types("vi", _long("a ", behind=f' | regex "{_REGEX}"\n')),
        "long lines": _types("vi", _long("x")),
        "words": _types("vi+rich", b"a " * 32_000 + b"\t?\x15", "xterm"),
        "Ctrl-W": _types("vi+plain", b"a " * 32_000 + b"\x17" * 32_000, "dumb"),
        "yank": _types("vi+rich", b"x" * 900 + b"\x15" + b"\x1b9" * 6 + b"\x19" * 200 + b"\x15", "xterm"),
        "history": _history,
        "passwd x128": _passwords_of_a_user,
    },
    "operator": {
        "import --check x24": _checked_imports,
        "endless documents": _endless_documents,
        "numbers": _types("op", _NUMBERS.encode()),
        "long lines": _types("op", _long("x")),
    },
}


def main() -> None:
    """Make one attack at a lower CPU priority than the console, as if from another machine."""
    os.nice(10)
    who, attack, port, key = sys.argv[1:]

    async def go() -> None:
        with suppress(TimeoutError, OSError, asyncssh.Error):
            await asyncio.wait_for(ATTACKS[who][attack](int(port), key), SECONDS * 4)

    asyncio.run(go())
    os._exit(0)  # open channels need no close


if __name__ == "__main__":
    main()
