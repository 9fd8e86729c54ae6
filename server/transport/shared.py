"""What all connections share: limits, counters, and the clients that are connected."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from server.audit.refusals import Refusals
from server.auth.admission import Admission
from server.commands.services import Services
from server.config import Current, Limits
from server.model.access import UserKey
from server.transport.channel import ConsoleChannel
from server.transport.gate import Doorway
from server.transport.logins import Logins
from server.transport.packet_budget import PacketBudget
from server.transport.unsent import UnsentOutput

if TYPE_CHECKING:
    from server.transport.connection import Connection


@dataclass
class Shared:
    """What all connections share. Certificates by one of the `authorities` let in the users that they name."""

    console: Services
    logins: Logins
    current: Current
    admission: Admission
    refusals: Refusals
    doorways: dict[int, Doorway] = field(default_factory=dict)
    authorities: tuple[UserKey, ...] = ()
    clients: set[Connection] = field(default_factory=set)
    stopping: bool = False
    #: Open sessions by user, on all of the user's connections.
    sessions: Counter[str] = field(default_factory=Counter)
    budget: PacketBudget = field(default_factory=PacketBudget)
    unsent: WeakValueDictionary[str, UnsentOutput] = field(default_factory=WeakValueDictionary)

    @property
    def limits(self) -> Limits:
        """The limits as they are now."""
        return self.current.config.limits

    @property
    def channels(self) -> list[ConsoleChannel]:
        """The channels that have a session."""
        return [channel for client in self.clients for channel in client.channels]
