"""The SSH server: who may log in, with which algorithms, and how it ends without cutting anyone off."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from collections.abc import Sequence

import asyncssh

from server.audit.refusals import Refusals
from server.auth.admission import Admission
from server.commands.call import Console
from server.config import Config
from server.model.access import UserKey
from server.model.refusals import Refusal
from server.transport import algorithms
from server.transport.channel import Looks
from server.transport.connection import Connection, Shared
from server.transport.gate import Gate, allow_descriptors, listening_sockets
from server.transport.hostkey import HostKeys
from server.transport.logins import Logins

_BACKLOG = 1024
_MEGABYTE = 1024 * 1024
_STOPPING = "\nThe console is stopping; log in again later.\n"
#: Together with the journal's last batch these stay below the promised 5 seconds.
_DRAIN_SECONDS = 2.5
_INTERRUPT_SECONDS = 0.5
_CLOSE_SECONDS = 0.7

_log = logging.getLogger("ecss-console.limits")


class Listener:
    """The listening server; `start` it once, `stop` it once."""

    def __init__(self, console: Console, logins: Logins, config: Config, authorities: tuple[UserKey, ...]) -> None:
        """Take what the sessions share, and who signs certificates of users."""
        looks = Looks(config.greeting.motd, config.prompt.colour)
        self._config = config
        self._shared = Shared(
            console=console,
            logins=logins,
            banner=config.greeting.banner,
            looks=looks,
            limits=config.limits,
            admission=Admission(config.limits),
            refusals=Refusals(console.journal, config.node.name),
            authorities=authorities,
        )
        self._acceptors: list[asyncssh.SSHAcceptor] = []

    async def start(self, keys: HostKeys, sockets: Sequence[socket.socket] = ()) -> list[str]:
        """Listen on `sockets`, without any where it is configured; return where, as `HOST port N`. Raises OSError."""
        logging.getLogger("asyncssh").setLevel(logging.WARNING)
        most = self._config.limits.max_connections
        if (possible := allow_descriptors(most)) < most:
            _log.warning(
                "the limit of open files allows %d connections, not %d (limits.max_connections)", possible, most
            )
        host = self._config.listen.host
        for listening in sockets or await listening_sockets(host, self._config.listen.port):
            self._acceptors.append(await self._serve(self._gate(listening), keys))
        if not sockets:
            return [f"{host} port {self._acceptors[0].get_port()}"]
        return ["{} port {}".format(*place) for acceptor in self._acceptors for place in acceptor.get_addresses()]

    def use(self, keys: HostKeys) -> None:
        """Show other host keys to the clients that connect from now on."""
        for acceptor in self._acceptors:
            acceptor.update(server_host_keys=keys.announced)

    def _gate(self, listening: socket.socket) -> Gate:
        return Gate(listening, self._may_begin, self._shared.doorways, self._config.limits.max_login_bytes)

    async def _serve(self, gate: Gate, keys: HostKeys) -> asyncssh.SSHAcceptor:
        """Serve SSH to whom the gate lets in."""
        config = self._config
        return await asyncssh.create_server(
            lambda: Connection(self._shared),
            sock=gate,
            server_host_keys=keys.announced,
            send_server_host_keys=True,
            server_version="ecss-console",
            encoding=None,
            line_editor=False,
            login_timeout=0,  # a Connection keeps the time itself
            keepalive_interval=config.keepalive.interval_seconds,
            keepalive_count_max=config.keepalive.count,
            kex_algs=algorithms.KEX[config.ssh.policy],
            encryption_algs=algorithms.CIPHERS,
            mac_algs=algorithms.MACS,
            rekey_bytes=config.ssh.rekey_megabytes * _MEGABYTE,
            signature_algs=algorithms.SIGNATURES,
            compression_algs=("none",),
            gss_host=None,
            host_based_auth=False,
            agent_forwarding=False,
            x11_forwarding=False,
            allow_scp=False,
            backlog=_BACKLOG,
        )

    def _may_begin(self, address: str) -> bool:
        """Decide about a connection that has just come, and take its place."""
        refusal = self._shared.admission.arrive(address, time.monotonic())
        if refusal is not None:
            self._shared.refusals.refuse(refusal, address)
        return refusal is None

    @property
    def refused(self) -> Counter[Refusal]:
        """How many were refused since the start, by reason."""
        return self._shared.refusals.counted

    def held(self) -> tuple[int, int]:
        """Return how many connections and how many sessions are open."""
        return len(self._shared.clients), len(self._shared.channels)

    async def stop(self) -> None:
        """Let nobody in, let what runs end, tell the sessions, close; takes less than 5 seconds."""
        self._shared.stopping = True
        for acceptor in self._acceptors:
            acceptor.close()
        await self._end_sessions(_DRAIN_SECONDS, now=False)
        await self._end_sessions(_INTERRUPT_SECONDS, now=True)
        connections = [client.ssh for client in self._shared.clients]
        for connection in connections:
            connection.close()
        if connections:
            await asyncio.wait(
                [asyncio.ensure_future(connection.wait_closed()) for connection in connections],
                timeout=_CLOSE_SECONDS,
            )
        for client in [*self._shared.clients]:
            client.ssh.abort()
        self._shared.refusals.close()

    async def _end_sessions(self, seconds: float, *, now: bool) -> None:
        for channel in self._shared.channels:
            channel.stop(_STOPPING, now=now)
        waited = 0.0
        while self._shared.channels and waited < seconds:
            await asyncio.sleep(0.02)
            waited += 0.02
