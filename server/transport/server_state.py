"""The state that all connections of the server share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from server.audit.refusals import Refusals
from server.auth.admission import Admission
from server.commands.shared_services import Services
from server.config import Current, Limits
from server.model.access import UserKey
from server.model.shutdown import Shutdown
from server.transport.channel import ConsoleChannel
from server.transport.logins import Logins
from server.transport.packet_budget import PacketBudget
from server.transport.pre_auth import PreAuthSocket
from server.transport.unsent import UnsentOutput

if TYPE_CHECKING:
    from server.transport.connection import Connection


@dataclass
class ServerState:
    """Limits, counters and open connections. The `authorities` are trusted to sign user certificates."""

    services: Services
    logins: Logins
    admission: Admission
    refusals: Refusals
    pre_auth: dict[int, PreAuthSocket] = field(default_factory=dict)
    authorities: tuple[UserKey, ...] = ()
    connections: set[Connection] = field(default_factory=set)
    #: The reason why the server stops; None while it serves.
    shutdown: Shutdown | None = None
    #: Open sessions by user, on all connections of the user.
    sessions: Counter[str] = field(default_factory=Counter)
    budget: PacketBudget = field(default_factory=PacketBudget)
    unsent: WeakValueDictionary[str, UnsentOutput] = field(default_factory=WeakValueDictionary)

    @property
    def current(self) -> Current:
        """The configuration in force."""
        return self.services.current

    @property
    def limits(self) -> Limits:
        """The limits in force."""
        return self.current.config.limits

    @property
    def most_login_bytes(self) -> int:
        """The number of bytes a client may send before the login."""
        return self.limits.max_login_bytes

    @property
    def channels(self) -> list[ConsoleChannel]:
        """The channels that have a session."""
        return [channel for connection in self.connections for channel in connection.channels]

    def admit(self, address: str) -> bool:
        """Count a new connection from the address, or refuse it."""
        refusal = self.admission.arrive(address, monotonic())
        if refusal is not None:
            self.refusals.refuse(refusal, address)
        return refusal is None
