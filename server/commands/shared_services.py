"""The parts of the server that all sessions and their handlers share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from server.audit.journal import Journal
from server.auth.authenticator import Authenticator
from server.auth.authorizer import Authorizer
from server.commands.documents import Documents
from server.config import Current
from server.cooperative import FewEach, Turns
from server.grammar.tree import Directory
from server.model.sessions import OpenSession
from server.node.status import Node
from server.storage.store import Store

#: The most sessions of one user that wait for a password check. Each check takes up to a second.
_MOST_PASSWORDS_WAITING = 8


class Sessions(Protocol):
    """The open logins on this node."""

    def every(self) -> Sequence[OpenSession]:
        """Return all logins, the oldest first."""

    def end(self, session_id: str, why: str) -> bool:
        """End a login, and show its client the reason. Returns False for an unknown id."""


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
