"""One connection to PostgreSQL that is opened when it is needed, and again after a loss.

asyncpg cancels a statement through a second connection, for which it waits without a limit. So no task that waits for
the server is ever cancelled, and asyncpg's own timeouts are not used. A statement that takes too long ends with its
connection.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import asyncpg

from server.config.postgresql_url import FILES, PostgresqlUrl
from server.encoding import decoded
from server.errors import StartError
from server.model.lines import one_line
from server.plain_files import MOST_KEY_BYTES, read_plain
from server.storage.owner import working_for
from server.storage.postgresql.errors import AWAY, is_lost, passes
from server.storage.postgresql.schema import SCHEMA
from server.storage.temporary import temporary
from server.storage.uncut import uncut

T = TypeVar("T")

#: The longest time for one statement, and for the login on one host.
STATEMENT_SECONDS = 6.0
_LOGIN_SECONDS = 2.0
_RETRY_SECONDS = 0.1
_CLOSE_SECONDS = 1.0
_CLOSED = "the store is closed"
_NO_FILE = "/nonexistent/pgpass"
_READ_ONLY = "no host takes changes: it is a replica, or default_transaction_read_only is on"
_SETTINGS = {
    "search_path": SCHEMA,
    "timezone": "UTC",
    "client_min_messages": "warning",
    "default_transaction_isolation": "read committed",
    "synchronous_commit": "on",
    "lock_timeout": "5000",
    # the limits of a role or database are for people: they would cut an upgrade, a copy and the listening connection
    "statement_timeout": "0",
    "idle_session_timeout": "0",
    # a node that froze inside a transaction must not stop the changes of all others
    "idle_in_transaction_session_timeout": "3000",
    # the server notices a lost client while it waits for a lock
    "client_connection_check_interval": "1000",
    "tcp_user_timeout": "5000",
    "jit": "off",
}


@dataclass(frozen=True, slots=True)
class Address:
    """A database, the file with the password, and the name that PostgreSQL's list of sessions shows."""

    url: PostgresqlUrl
    password_file: Path | None = None
    name: str = "ecss-console"

    def password(self) -> str | None:
        """Read the password. It is read at each login, so that it can be changed. Raises StartError.

        Root reads a file of root's as root, even while it works as the owner of the keys folder.
        """
        if self.password_file is None:
            return None
        try:
            text = decoded(self._read(self.password_file))
        except (OSError, ValueError) as error:
            what = getattr(error, "strerror", None) or error
            message = f"the password of the database cannot be read from {self.password_file}: {what}"
            raise StartError(message) from error
        return text.partition("\n")[0].removesuffix("\r")

    @staticmethod
    def _read(file: Path) -> bytes:
        try:
            return read_plain(file, MOST_KEY_BYTES)
        except PermissionError:
            with working_for(file):
                return read_plain(file, MOST_KEY_BYTES)


class Connection:
    """A connection for one purpose, such as `writer`. One task at a time may use it."""

    def __init__(self, address: Address, purpose: str) -> None:
        """Take the address; nothing is opened yet."""
        self._address = address
        self._purpose = purpose
        self._open: asyncpg.Connection | None = None
        self._host = 0
        self._opening: asyncio.Task[asyncpg.Connection] | None = None
        self._closed = False

    @property
    def current(self) -> asyncpg.Connection | None:
        """The open connection; None while there is none."""
        return None if self._open is None or self._open.is_closed() else self._open

    async def opened(self, deadline: float) -> asyncpg.Connection:
        """Return the connection; open it until `deadline`, on the loop's clock, when it is lost.

        A short absence of the database passes unnoticed. Raises the last error of the driver, or TimeoutError.
        """
        loop = asyncio.get_running_loop()
        failed: Exception | None = None  # says more than a login that the deadline has cut
        while (current := self.current) is None:
            if self._closed:
                raise temporary(_CLOSED)
            try:
                return await self._open_by(deadline)
            except Exception as error:  # noqa: BLE001  raised again below
                told = failed if failed is not None and isinstance(error, TimeoutError) else error
                if not passes(error) or loop.time() + _RETRY_SECONDS > deadline:
                    raise told from None
                failed = told
            await asyncio.sleep(_RETRY_SECONDS)
        return current

    async def run(self, work: Coroutine[Any, Any, T], seconds: float = STATEMENT_SECONDS) -> T:
        """Run a statement on the open connection to its end, even if the caller is cancelled.

        Raises TimeoutError after `seconds`; the connection is dropped then, as after each loss.
        """
        return await uncut(self.run_in_task(work, seconds))

    async def run_in_task(self, work: Coroutine[Any, Any, T], seconds: float = STATEMENT_SECONDS) -> T:
        """Do the same as `run`, in a task that is never cancelled."""
        running = asyncio.ensure_future(work)
        done, _ = await asyncio.wait({running}, timeout=seconds)
        if not done:
            self.drop()
            await asyncio.wait({running}, timeout=_CLOSE_SECONDS)
            running.add_done_callback(_retrieve)
            raise TimeoutError(AWAY)
        error = running.exception()
        if error is not None and is_lost(error):
            self.drop()
        return running.result()

    def follow(self, other: Connection) -> None:
        """Leave a host on which `other` is not: the writer finds the host that takes changes."""
        if self._host != other._host:
            self._host = other._host
            self.drop()

    def drop(self) -> None:
        """Close the connection at once, without a word to the server."""
        if self._open is not None:
            self._open.terminate()
            self._open = None

    async def close(self) -> None:
        """Close the connection for ever; safe to call twice."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait({self._opening})
        current, self._open = self.current, None
        if current is None:
            return
        closing = asyncio.ensure_future(current.close())
        await asyncio.wait({closing}, timeout=_CLOSE_SECONDS)
        if not closing.done():
            current.terminate()
            await asyncio.wait({closing}, timeout=_CLOSE_SECONDS)
        closing.add_done_callback(_retrieve)

    async def _open_by(self, deadline: float) -> asyncpg.Connection:
        """Wait for the login until the deadline; a login that takes longer goes on for the next caller."""
        if self._opening is None or self._opening.done():
            self._opening = asyncio.get_running_loop().create_task(self._log_in())
            self._opening.add_done_callback(_retrieve)  # the caller may have stopped waiting
        opening = self._opening
        await asyncio.wait({opening}, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        if not opening.done():
            raise TimeoutError(AWAY)
        if opening.cancelled():
            raise temporary(AWAY)
        return opening.result()

    async def _log_in(self) -> asyncpg.Connection:
        """Log in on the first host that takes writes; begin with the host that took them last."""
        hosts = self._address.url.hosts
        failed: Exception = ConnectionError(AWAY)
        for number in range(len(hosts)):
            index = (self._host + number) % len(hosts)
            try:
                self._open = await log_in(self._address, self._purpose, *hosts[index])
            except Exception as error:  # noqa: BLE001  the next host may answer; the last error is raised
                failed = error
                continue
            self._host = index
            return self._open
        raise failed


async def log_in(address: Address, purpose: str, host: str, port: int, **settings: str) -> asyncpg.Connection:
    """Open a connection to one host. Raises asyncpg's errors or OSError, and StartError for wrong settings.

    A host that can only be read, like a replica, is refused with TargetServerAttributeNotMatched.
    """
    url = address.url
    _check_files(url)
    query = "&".join(f"{name}={quote(value, safe='/')}" for name, value in url.parameters.items())
    connecting = asyncio.ensure_future(
        asyncpg.connect(
            f"postgresql://?{query}" if query else None,
            host=host,
            port=port,
            user=url.user,
            password=address.password(),
            passfile=_NO_FILE,  # without a configured password, asyncpg would look for ~/.pgpass
            database=url.database,
            target_session_attrs="read-write",
            server_settings={"application_name": f"{address.name} {purpose}"[:63], **_SETTINGS, **settings},
        )
    )
    try:
        await asyncio.wait({connecting}, timeout=_LOGIN_SECONDS)
    except asyncio.CancelledError:
        _give_up(connecting)
        raise
    if not connecting.done():
        _give_up(connecting)
        message = f"{host} port {port} does not answer"
        raise TimeoutError(message)
    try:
        return connecting.result()
    except asyncpg.exceptions.TargetServerAttributeNotMatched as error:
        raise asyncpg.exceptions.TargetServerAttributeNotMatched(_READ_ONLY) from error
    except asyncpg.exceptions.ClientConfigurationError as error:
        message = f"storage.url cannot be used: {one_line(error)}"
        raise StartError(message) from error


def _check_files(url: PostgresqlUrl) -> None:
    """Raise StartError for an unusable file of TLS: asyncpg's error would not name it."""
    files = url.parameters
    for name in (name for name in FILES if name in files):
        try:
            read_plain(files[name], MOST_KEY_BYTES * 16)
            if name in {"sslrootcert", "sslcrl"}:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(files[name])
        except OSError as error:  # also that of ssl
            message = f"{name} of storage.url cannot be used: {files[name]}: {error.strerror or error}"
            raise StartError(message) from error


def _give_up(connecting: asyncio.Future[asyncpg.Connection]) -> None:
    """Stop a login. During a login, asyncpg closes the socket and waits for nothing."""
    connecting.cancel()
    connecting.add_done_callback(_terminate)


def _terminate(connecting: asyncio.Future[asyncpg.Connection]) -> None:
    """Close a connection that was made in spite of the cancellation."""
    if _retrieve(connecting):
        connecting.result().terminate()


def _retrieve(done: asyncio.Future[Any]) -> bool:
    """Tell whether a future has a result. An error that nobody awaits is no defect to log."""
    return not done.cancelled() and done.exception() is None
