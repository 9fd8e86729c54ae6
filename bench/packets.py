"""SSH messages for the fuzzer: valid ones by connection phase, and mutations of them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from asyncssh.packet import Boolean, Byte, NameList, String, UInt32

from lines import LineMaker  # isort: skip  a neighbour, not a package

ABSURD = (0, 1, 255, 32768, 35000, 65535, 262144, 2**31 - 1, 2**31, 2**32 - 1)
DISCONNECT, IGNORE, UNIMPLEMENTED, DEBUG, SERVICE_REQUEST, SERVICE_ACCEPT, EXT_INFO = range(1, 8)
KEXINIT, NEWKEYS, KEX_INIT, KEX_REPLY = 20, 21, 30, 31
USERAUTH_REQUEST, USERAUTH_FAILURE, USERAUTH_SUCCESS, USERAUTH_BANNER = 50, 51, 52, 53
GLOBAL_REQUEST, REQUEST_SUCCESS, REQUEST_FAILURE = 80, 81, 82
OPEN, OPEN_CONFIRMATION, OPEN_FAILURE, WINDOW_ADJUST, DATA, EXTENDED_DATA, EOF, CLOSE = range(90, 98)
REQUEST, SUCCESS, FAILURE, PING = 98, 99, 100, 192
#: Message types without a defined meaning.
_UNKNOWN = (0, 8, 19, 29, 49, 79, 89, 101, 127, 128, 191, 193, 255)
_LISTS = (
    (b"curve25519-sha256", b"ext-info-c", b"kex-strict-c-v00@openssh.com"),
    (b"ssh-ed25519",),
    (b"aes128-gcm@openssh.com",),
    (b"aes128-gcm@openssh.com",),
    (b"hmac-sha2-256-etm@openssh.com",),
    (b"hmac-sha2-256-etm@openssh.com",),
    (b"none",),
    (b"none",),
    (),
    (),
)
_GLOBALS = (b"keepalive@openssh.com", b"tcpip-forward", b"cancel-tcpip-forward", b"streamlocal-forward@openssh.com")
_CHANNELS = (
    b"session",
    b"direct-tcpip",
    b"x11",
    b"forwarded-tcpip",
    b"auth-agent@openssh.com",
    b"tun@openssh.com",
    b"",
)
_REQUESTS = (
    b"shell",
    b"x11-req",
    b"auth-agent-req@openssh.com",
    b"xon-xoff",
    b"eow@openssh.com",
    b"keepalive@openssh.com",
)


@dataclass
class PacketMaker:
    """Makes messages, `(type, payload)`, from a seed."""

    seed: int

    def __post_init__(self) -> None:
        """Begin."""
        self.random = Random(self.seed)
        self._lines = LineMaker(self.seed)

    def before_login(self) -> tuple[int, bytes]:
        """Return a message that belongs before the key exchange, or one that belongs after it."""
        random = self.random
        return random.choice(
            (
                (KEXINIT, self.kexinit()),
                (KEXINIT, self.kexinit()),
                (KEX_INIT, String(self.random.randbytes(32))),
                (KEX_INIT, String(random.choice((b"", b"\0" * 32, b"\1" + b"\0" * 31, b"x" * 31, b"x" * 30000)))),
                (NEWKEYS, b""),
                (IGNORE, String(self.random.randbytes(random.randrange(200)))),
                (DEBUG, Boolean(value=True) + String(b"fuzz\x1b[2J\n") + String(b"")),
                (UNIMPLEMENTED, UInt32(random.choice(ABSURD))),
                (DISCONNECT, UInt32(random.choice(ABSURD)) + String(b"bye\xff") + String(b"")),
                (SERVICE_REQUEST, String(random.choice((b"ssh-userauth", b"ssh-connection", b"", b"\xff")))),
                self.login(),
                self.after_login(0),
            )
        )

    def kexinit(self) -> bytes:
        """Return a valid KEXINIT, or one with absurd lists."""
        random = self.random
        lists = list(_LISTS)
        if random.random() < 0.3:
            absurd = random.choice(((), (b"",), (b"a" * 200,) * 100, (b"\xff\xfe",), (b",,,",), (b"none",)))
            lists[random.randrange(len(lists))] = absurd
        return (
            self.random.randbytes(16)
            + b"".join(NameList(each) for each in lists)
            + Boolean(random.random() < 0.2)
            + UInt32(0)
        )

    def login(self) -> tuple[int, bytes]:
        """Return a message that belongs to a login."""
        random = self.random
        name = random.choice(
            (*(b"admin", b"nobody", b"admin+json") * 8, b"", b"\xff", b"a" * 5000, b"admin\0", b"a" * 1000)
        )
        service = random.choice((b"ssh-connection",) * 30 + (b"", b"ssh-userauth"))
        key = String(b"ssh-ed25519") + String(String(b"ssh-ed25519") + String(self.random.randbytes(32)))
        method = random.choice(
            (
                String(b"none"),
                String(b"password") + Boolean(value=False) + String(self.random.randbytes(random.choice((0, 8, 3000)))),
                String(b"password") + Boolean(value=True) + String(b"old") + String(b"new"),
                String(b"publickey") + Boolean(value=False) + key,
                String(b"publickey") + Boolean(value=True) + key + String(self.random.randbytes(64)),
                String(b"keyboard-interactive") + String(b"") + String(b""),
                String(b"hostbased") + String(b"ssh-rsa") + String(b"") + String(b"h") + String(b"u") + String(b""),
                String(b"gssapi-with-mic") + UInt32(2**31),
            )
        )
        others = (USERAUTH_FAILURE, USERAUTH_SUCCESS, USERAUTH_BANNER, 60, 61, 66)
        if random.random() < 0.1:
            return random.choice(others), String(b"x") + UInt32(1)
        return USERAUTH_REQUEST, String(name) + String(service) + method

    def after_login(self, newest: int) -> tuple[int, bytes]:
        """Return a message for channels or the whole connection; most are for the `newest` channel."""
        random = self.random
        number = UInt32(random.choice((newest,) * 30 + (newest + 1, max(0, newest - 1), random.choice(ABSURD))))
        absurd = UInt32(random.choice(ABSURD))
        if random.random() < 0.25:
            return OPEN, self.opening()
        if random.random() < 0.5:
            return REQUEST, number + self._request()
        if random.random() < 0.7:
            line = self._lines.line().encode("utf-8", "replace") + b"\r"
            return random.choice(
                (
                    (DATA, number + String(line)),
                    (DATA, number + String(random.randbytes(random.randrange(300)))),
                    (WINDOW_ADJUST, number + UInt32(random.randrange(2**20))),
                    (GLOBAL_REQUEST, String(random.choice(_GLOBALS)) + Boolean(value=True) + String(b"") + absurd),
                    (IGNORE, String(b"x" * 1000)),
                    (PING, String(b"ping")),
                )
            )
        return random.choice(
            (
                (EXTENDED_DATA, number + absurd + String(b"x")),
                (WINDOW_ADJUST, number + absurd),
                (EOF, number),
                (CLOSE, number),
                (SUCCESS, number),
                (FAILURE, number),
                (OPEN_CONFIRMATION, number + absurd * 3),
                (OPEN_FAILURE, number + absurd + String(b"no") + String(b"")),
                (REQUEST_SUCCESS, b""),
                (REQUEST_FAILURE, b""),
                (EXT_INFO, absurd + String(b"server-sig-algs") + String(b"")),
            )
        )

    def opening(self) -> bytes:
        """Return the payload of a channel request, mostly for a session."""
        random = self.random
        kind = b"session" if random.random() < 0.7 else random.choice(_CHANNELS)
        window, most = UInt32(random.choice((2**21, *ABSURD))), UInt32(random.choice((32768,) * 40 + ABSURD))
        return String(kind) + UInt32(random.choice((0, 1, 2**32 - 1))) + window + most

    def _request(self) -> bytes:
        random = self.random
        sizes = b"".join(UInt32(random.choice(ABSURD)) for _ in range(4))
        modes = random.choice((b"", b"\0", b"\x01", self.random.randbytes(50), b"\x81\0\0\x96\0\0"))
        term = random.choice((b"xterm", b"dumb", b"", b"\xff", b"x" * 5000))
        line = self._lines.line().encode("utf-8", "replace")
        words = random.choice(
            (
                String(b"pty-req") + Boolean(value=True) + String(term) + sizes + String(modes),
                String(b"exec") + Boolean(value=True) + String(line),
                String(b"exec") + Boolean(value=True) + String(b"\xff\xfe" + line),
                String(b"window-change") + Boolean(value=False) + sizes,
                String(b"signal") + Boolean(value=False) + String(random.choice((b"INT", b"KILL", b"", b"\xff"))),
                String(b"break") + Boolean(value=True) + sizes[:4],
                String(b"env") + Boolean(value=True) + String(b"LC_ALL\xff") + String(self.random.randbytes(20)),
                String(b"subsystem") + Boolean(value=True) + String(b"sftp"),
                String(b"exit-status") + Boolean(value=False) + sizes[:4],
                String(random.choice(_REQUESTS)) + Boolean(value=True),
                String(b"\xff" * 10) + Boolean(value=True),
            )
        )
        return bytes(words)

    def mutated(self, kind: int, payload: bytes, often: float) -> tuple[int, bytes]:
        """Return the message after this number of mutations."""
        random = self.random
        if random.random() >= often:
            return kind, payload
        at = random.randrange(len(payload) + 1)
        flipped = bytearray(payload)
        for _ in range(random.choice((1, 1, 3))):
            if flipped:
                flipped[random.randrange(len(flipped))] ^= 1 << random.randrange(8)
        return random.choice(
            (
                (kind, bytes(flipped)),
                (kind, bytes(flipped)),
                (kind, payload[:at]),
                (kind, payload + self.random.randbytes(random.randrange(100))),
                (kind, payload[:at] + UInt32(random.choice(ABSURD)) + payload[at + 4 :]),
                (random.choice(_UNKNOWN), payload),
                (random.randrange(256), payload),
            )
        )

    def framed(self, kind: int, payload: bytes) -> bytes:
        """Return the message as unencrypted wire bytes, with a valid or an invalid frame."""
        random = self.random
        body = Byte(kind) + payload
        padding = -(5 + len(body)) % 8 + 8
        right = UInt32(1 + len(body) + padding) + Byte(padding) + body + self.random.randbytes(padding)
        if random.random() < 0.85:
            return right
        return random.choice(
            (
                UInt32(random.choice(ABSURD)) + right[4:],
                right[:4] + Byte(random.randrange(256)) + right[5:],
                UInt32(random.randrange(16)) + right[4:],
                right[: random.randrange(len(right))],
                UInt32(1 + padding) + Byte(padding) + self.random.randbytes(padding),
                self.random.randbytes(random.randrange(1, 300)),
            )
        )
