"""The SSH server: listens, configures asyncssh, and lets commands end before it stops."""

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
from server.commands.shared_services import Services
from server.log import about
from server.model.access import UserKey
from server.model.refusals import Refusal
from server.model.shutdown import STOPPING
from server.node import metrics
from server.node.metrics import Reading, single
from server.transport import algorithms
from server.transport.asyncssh_overrides.connection import ServerConnection
from server.transport.connection import Connection
from server.transport.hostkey import HostKeys
from server.transport.logins import Logins
from server.transport.pre_auth import PreAuthListener, allow_descriptors, listening_sockets
from server.transport.server_state import ServerState

_BACKLOG = 1024
_MEGABYTE = 1024 * 1024
#: The most unread bytes that a client may send on a channel.
_WINDOW_BYTES = 256 * 1024
#: With the journal's last batch, the sum of these is below the promised 5 seconds.
_DRAIN_SECONDS = 2.5
_INTERRUPT_SECONDS = 0.5
_LEAVE_SECONDS = 0.7
_CLOSE_SECONDS = 0.5
_LOOK_SECONDS = 0.02

_log = logging.getLogger("ecss-console.transport")


class Listener:
    """The listening server. Call `start` once and `stop` once."""

    def __init__(self, services: Services, logins: Logins, authorities: tuple[UserKey, ...]) -> None:
        """Take the shared parts, and the authorities that are trusted to sign user certificates."""
        self._current = services.current
        self._state = ServerState(
            services=services,
            logins=logins,
            admission=Admission(services.current.config.limits),
            refusals=Refusals(services.journal, services.node_name),
            authorities=authorities,
        )
        self._acceptors: list[asyncssh.SSHAcceptor] = []

    async def start(self, keys: HostKeys, sockets: Sequence[socket.socket] = ()) -> list[str]:
        """Listen on `sockets`, or else on the configured address; return the addresses as `HOST port N`.

        Raises OSError.
        """
        self._allow_descriptors()
        host = self._current.config.listen.host
        self._state.services.node.fingerprints = keys.fingerprints
        for listening in sockets or await listening_sockets(host, self._current.config.listen.port):
            self._acceptors.append(await self._serve(PreAuthListener(listening, self._state), keys))
        if not sockets:
            return [f"{host} port {self._acceptors[0].get_port()}"]
        return ["{} port {}".format(*place) for acceptor in self._acceptors for place in acceptor.get_addresses()]

    def use(self, keys: HostKeys, authorities: tuple[UserKey, ...]) -> None:
        """Use these keys and the current configuration for new connections."""
        self._state.authorities = authorities
        self._state.services.node.fingerprints = keys.fingerprints
        self._state.admission.use(self._state.limits)
        self._allow_descriptors()
        for acceptor in self._acceptors:
            acceptor.update(server_host_keys=keys.announced, **self._changeable())

    def _allow_descriptors(self) -> None:
        most = self._state.limits.max_connections
        if (possible := allow_descriptors(most)) < most:
            _log.warning(
                "the limit of open files allows %d connections, not %d (limits.max_connections)", possible, most
            )

    def _changeable(self) -> dict[str, Any]:
        """Return asyncssh's options from the configuration; they apply to new connections."""
        config = self._current.config
        return {
            "keepalive_interval": config.keepalive.interval_seconds,
            "keepalive_count_max": config.keepalive.count,
            "kex_algs": algorithms.KEX[config.ssh.policy],
            "mac_algs": algorithms.MACS[config.ssh.policy],
            "rekey_bytes": config.ssh.rekey_megabytes * _MEGABYTE,
        }

    async def _serve(self, listening: PreAuthListener, keys: HostKeys) -> asyncssh.SSHAcceptor:
        """Serve SSH to the admitted connections."""
        loop = asyncio.get_running_loop()
        options = await asyncssh.SSHServerConnectionOptions.construct(
            server_factory=lambda: Connection(self._state),
            server_host_keys=keys.announced,
            send_server_host_keys=True,
            server_version="ecss-console",
            encoding=None,
            line_editor=False,
            login_timeout=0,  # `Connection` limits the time itself
            encryption_algs=algorithms.CIPHERS,
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
            lambda: ServerConnection(loop, options, self._state.budget), sock=listening, backlog=_BACKLOG
        )
        return asyncssh.SSHAcceptor(server, options)

    @property
    def refused(self) -> Counter[Refusal]:
        """The number of refusals since the start, by reason."""
        return self._state.refusals.counted

    @property
    def why_closed(self) -> str:
        """The reason why no client can log in now; empty when clients can."""
        if self._state.shutdown is not None:
            return self._state.shutdown.reason
        if not self._acceptors:
            return "the console is starting"
        most = self._state.limits.max_connections
        full = self._state.admission.connections >= most
        return f"the connection limit is reached: {most} connections are open (limits.max_connections)" if full else ""

    def readings(self) -> Iterator[Reading]:
        """Yield the numbers of connections, sessions and refusals."""
        admission = self._state.admission
        states = [(("login",), admission.startups), (("open",), admission.connections - admission.startups)]
        yield Reading(metrics.CONNECTIONS, states)
        yield single(metrics.SESSIONS, len(self._state.channels))
        yield Reading(metrics.REFUSALS, [((reason.value,), self.refused[reason]) for reason in Refusal])

    def held(self) -> tuple[int, int]:
        """Return how many connections and how many sessions are open."""
        return len(self._state.connections), len(self._state.channels)

    async def stop(self) -> None:
        """Refuse logins, let commands end, notify the sessions, and close, in less than 5 seconds."""
        self._state.shutdown = STOPPING
        for acceptor in self._acceptors:
            acceptor.close()
        sessions = len(self._state.channels)
        await self._end_sessions(_DRAIN_SECONDS, now=False)
        interrupted = len(self._state.channels)
        await self._end_sessions(_INTERRUPT_SECONDS, now=True)
        # let clients disconnect by themselves: a disconnected ssh exits with 255, whatever its command's status
        await self._gone(lambda: any(connection.logged_in for connection in self._state.connections), _LEAVE_SECONDS)
        connections = [connection.ssh for connection in self._state.connections]
        for connection in connections:
            connection.disconnect(asyncssh.DISC_BY_APPLICATION, STOPPING.sentence)
        if connections:
            await asyncio.wait(
                [asyncio.ensure_future(connection.wait_closed()) for connection in connections],
                timeout=_CLOSE_SECONDS,
            )
        cut = [*self._state.connections]
        for each in cut:
            each.ssh.abort()
        self._state.refusals.close()
        extra = about("drained", sessions=sessions, interrupted=interrupted, cut=len(cut))
        message = "drained: %d sessions have ended, %d of them interrupted; %d connections cut"
        _log.info(message, sessions, interrupted, len(cut), extra=extra)

    async def _end_sessions(self, seconds: float, *, now: bool) -> None:
        for channel in self._state.channels:
            channel.stop(STOPPING, now=now)
        await self._gone(lambda: bool(self._state.channels), seconds)

    async def _gone(self, there: Callable[[], bool], seconds: float) -> None:
        """Wait until `there` turns false, but no longer than `seconds`."""
        until = time.monotonic() + seconds
        while there() and time.monotonic() < until:  # noqa: ASYNC110  many objects hold the state
            await asyncio.sleep(_LOOK_SECONDS)
