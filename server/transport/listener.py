"""The SSH server: who may log in, with which algorithms, and how it ends without cutting anyone off."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import asyncssh

from server.audit.refusals import Refusals
from server.auth.admission import Admission
from server.commands.services import Services
from server.log import about
from server.model.access import UserKey
from server.model.refusals import Refusal
from server.model.shutdown import STOPPING
from server.node import metrics
from server.node.metrics import Reading, single
from server.transport import algorithms
from server.transport.asyncssh_overrides.connection import ServerConnection
from server.transport.connection import Connection
from server.transport.gate import Gate, allow_descriptors, listening_sockets
from server.transport.hostkey import HostKeys
from server.transport.logins import Logins
from server.transport.shared import Shared

_BACKLOG = 1024
_MEGABYTE = 1024 * 1024
#: What a client may send on a channel before it is read.
_WINDOW_BYTES = 256 * 1024
#: Together with the journal's last batch these stay below the promised 5 seconds.
_DRAIN_SECONDS = 2.5
_INTERRUPT_SECONDS = 0.5
_LEAVE_SECONDS = 0.7
_CLOSE_SECONDS = 0.5
_LOOK_SECONDS = 0.02

_log = logging.getLogger("ecss-console.transport")


class Listener:
    """The listening server; `start` it once, `stop` it once."""

    def __init__(self, console: Services, logins: Logins, authorities: tuple[UserKey, ...]) -> None:
        """Take what the sessions share, and who signs certificates of users."""
        self._current = console.current
        self._shared = Shared(
            console=console,
            logins=logins,
            current=console.current,
            admission=Admission(console.current.config.limits),
            refusals=Refusals(console.journal, console.node_name),
            authorities=authorities,
        )
        self._acceptors: list[asyncssh.SSHAcceptor] = []

    async def start(self, keys: HostKeys, sockets: Sequence[socket.socket] = ()) -> list[str]:
        """Listen on `sockets`, without any where it is configured; return where, as `HOST port N`. Raises OSError."""
        self._allow_descriptors()
        host = self._current.config.listen.host
        self._shared.console.node.fingerprints = keys.fingerprints
        for listening in sockets or await listening_sockets(host, self._current.config.listen.port):
            self._acceptors.append(await self._serve(self._gate(listening), keys))
        if not sockets:
            return [f"{host} port {self._acceptors[0].get_port()}"]
        return ["{} port {}".format(*place) for acceptor in self._acceptors for place in acceptor.get_addresses()]

    def use(self, keys: HostKeys, authorities: tuple[UserKey, ...]) -> None:
        """Take other keys, and what `current` says by now, for the clients that connect from now on."""
        self._shared.authorities = authorities
        self._shared.console.node.fingerprints = keys.fingerprints
        self._shared.admission.use(self._shared.limits)
        self._allow_descriptors()
        for acceptor in self._acceptors:
            acceptor.update(server_host_keys=keys.announced, **self._changeable())

    def _allow_descriptors(self) -> None:
        most = self._shared.limits.max_connections
        if (possible := allow_descriptors(most)) < most:
            _log.warning(
                "the limit of open files allows %d connections, not %d (limits.max_connections)", possible, most
            )

    def _gate(self, listening: socket.socket) -> Gate:
        return Gate(listening, self._may_begin, self._shared.doorways, lambda: self._shared.limits.max_login_bytes)

    def _changeable(self) -> dict[str, Any]:
        """Return what asyncssh is told of the configuration; it counts for connections to come."""
        config = self._current.config
        return {
            "keepalive_interval": config.keepalive.interval_seconds,
            "keepalive_count_max": config.keepalive.count,
            "kex_algs": algorithms.KEX[config.ssh.policy],
            "rekey_bytes": config.ssh.rekey_megabytes * _MEGABYTE,
        }

    async def _serve(self, gate: Gate, keys: HostKeys) -> asyncssh.SSHAcceptor:
        """Serve SSH to the connections that the gate admits."""
        loop = asyncio.get_running_loop()
        options = await asyncssh.SSHServerConnectionOptions.construct(
            server_factory=lambda: Connection(self._shared),
            server_host_keys=keys.announced,
            send_server_host_keys=True,
            server_version="ecss-console",
            encoding=None,
            line_editor=False,
            login_timeout=0,  # a Connection keeps the time itself
            encryption_algs=algorithms.CIPHERS,
            mac_algs=algorithms.MACS,
            signature_algs=algorithms.SIGNATURES,
            compression_algs=("none",),
            gss_host=None,
            host_based_auth=False,
            agent_forwarding=False,
            x11_forwarding=False,
            allow_scp=False,
            window=_WINDOW_BYTES,
            **self._changeable(),
        )
        server = await loop.create_server(
            lambda: ServerConnection(loop, options, self._shared.budget), sock=gate, backlog=_BACKLOG
        )
        return asyncssh.SSHAcceptor(server, options)

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

    @property
    def why_closed(self) -> str:
        """Why nobody can log in now; empty when somebody can."""
        if self._shared.stopping:
            return STOPPING.reason
        if not self._acceptors:
            return "the console is starting"
        most = self._shared.limits.max_connections
        full = self._shared.admission.connections >= most
        return f"all places are taken: {most} connections are open (limits.max_connections)" if full else ""

    def readings(self) -> Iterator[Reading]:
        """Yield who is connected, and who was refused."""
        admission = self._shared.admission
        states = [(("login",), admission.startups), (("open",), admission.connections - admission.startups)]
        yield Reading(metrics.CONNECTIONS, states)
        yield single(metrics.SESSIONS, len(self._shared.channels))
        yield Reading(metrics.REFUSALS, [((reason.value,), self.refused[reason]) for reason in Refusal])

    def held(self) -> tuple[int, int]:
        """Return how many connections and how many sessions are open."""
        return len(self._shared.clients), len(self._shared.channels)

    async def stop(self) -> None:
        """Let nobody in, let what runs end, tell the sessions, close; takes less than 5 seconds."""
        self._shared.stopping = True
        for acceptor in self._acceptors:
            acceptor.close()
        sessions = len(self._shared.channels)
        await self._end_sessions(_DRAIN_SECONDS, now=False)
        interrupted = len(self._shared.channels)
        await self._end_sessions(_INTERRUPT_SECONDS, now=True)
        # one that is disconnected takes its status for 255, however the command ended: let it leave by itself
        await self._gone(lambda: any(client.logged_in for client in self._shared.clients), _LEAVE_SECONDS)
        connections = [client.ssh for client in self._shared.clients]
        for connection in connections:
            connection.disconnect(asyncssh.DISC_BY_APPLICATION, STOPPING.sentence)
        if connections:
            await asyncio.wait(
                [asyncio.ensure_future(connection.wait_closed()) for connection in connections],
                timeout=_CLOSE_SECONDS,
            )
        cut = [*self._shared.clients]
        for client in cut:
            client.ssh.abort()
        self._shared.refusals.close()
        told = about("drained", sessions=sessions, interrupted=interrupted, cut=len(cut))
        message = "drained: %d sessions have ended, %d of them interrupted; %d connections cut"
        _log.info(message, sessions, interrupted, len(cut), extra=told)

    async def _end_sessions(self, seconds: float, *, now: bool) -> None:
        for channel in self._shared.channels:
            channel.stop(STOPPING, now=now)
        await self._gone(lambda: bool(self._shared.channels), seconds)

    async def _gone(self, there: Callable[[], bool], seconds: float) -> None:
        """Wait until nobody is `there` any more, but no longer than `seconds`."""
        until = time.monotonic() + seconds
        while there() and time.monotonic() < until:  # noqa: ASYNC110  it is the state of many that is waited for
            await asyncio.sleep(_LOOK_SECONDS)
