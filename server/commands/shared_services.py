"""The parts of the server that all sessions and their handlers share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from server.audit.journal import Journal
from server.auth.authenticator import Authenticator
from server.auth.authorizer import Authorizer
from server.commands.documents import Documents
from server.config import Current
from server.cooperative import FewEach, Turns
from server.grammar.tree import Directory
from server.model.nodes import Member
from server.model.sessions import Sessions
from server.node.status import Node
from server.storage.store import Store

#: The most sessions of one user that wait for a password check. Each check takes up to a second.
_MOST_PASSWORDS_WAITING = 8


class Cluster(Protocol):
    """The nodes that share the store."""

    async def members(self) -> Sequence[Member]:
        """Return all known nodes with the own one, sorted by name. Raises TemporaryError while they are not known."""

    async def ask(self, nodes: Collection[str], question: str) -> Mapping[str, str]:
        """Send a question to other nodes, and return the answers that come within a second, by node.

        `question` and answers are those of `node_messages`. Raises TemporaryError when nothing can be sent. Safe to
        cancel.
        """

    async def unconfirmed(self, change_number: int) -> Sequence[str]:
        """Wait up to a second until all other live nodes have applied a change; return the names of the others.

        The change is stored, so only a cancellation may end the wait with an error.
        """


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of the server that handlers use. One object serves all sessions.

    Read `current.config` at each use, because a reload replaces it. `turns`, `documents` and `passwords` share the
    event loop, the memory and the password checks fairly between users.
    """

    store: Store
    journal: Journal
    root: Directory
    authenticator: Authenticator
    authorizer: Authorizer
    sessions: Sessions
    current: Current
    node: Node
    cluster: Cluster
    turns: Turns = field(default_factory=Turns)
    documents: Documents = field(default_factory=Documents)
    passwords: FewEach = field(default_factory=lambda: FewEach(1, _MOST_PASSWORDS_WAITING))

    @property
    def node_name(self) -> str:
        """The name of this node: `ds1@ecss1`."""
        return self.current.config.node.name

    @property
    def nodes(self) -> str:
        """The name and version of this node, as in the footer: `ds1@ecss1 v.3.14.7.585`."""
        return f"{self.node_name} v.{self.current.config.node.version}"

    @property
    def masks_keys(self) -> bool:
        """Whether replies mask API keys, except the reply that creates a key."""
        return self.current.config.integrations.show_keys == "masked"
