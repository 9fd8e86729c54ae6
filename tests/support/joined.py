"""Several nodes in one process: real services on one store, whose questions go from one to the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from server.audit.journal import Journal
from server.auth.authenticator import Authenticator
from server.auth.authorizer import Authorizer
from server.auth.passwords import PasswordChecker
from server.commands import command_tree
from server.commands.documents import Room
from server.commands.request import Request
from server.commands.shared_services import Services
from server.config import Config, Current
from server.grammar.tokens import tokenize
from server.model.access import Operator, Role, User
from server.model.nodes import Member, NodeState
from server.model.shutdown import Shutdown
from server.node.status import Node
from server.shell.dispatch import respond
from server.shell.remote import answer
from server.storage import users
from server.storage.store import Store
from server.transport.logins import Logins

ADDED_AT = "2026-11-24T08:00:00Z"
VERSION = "3.14.7.585"
SEEN_AT = datetime(2026, 11, 24, 8, tzinfo=UTC)


@dataclass
class Joined:
    """The cluster of one node: it passes questions to the other services, and keeps them in `asked`.

    `states` are those of nodes that are not up; `mute` nodes are up and do not answer; `answers` replace real ones.
    `late` are the nodes that confirm no change; with `never` the wait for them does not end.
    """

    services: dict[str, Services]
    states: dict[str, NodeState] = field(default_factory=dict)
    mute: set[str] = field(default_factory=set)
    answers: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    late: tuple[str, ...] = ()
    never: bool = False
    waited_for: list[int] = field(default_factory=list)
    waits: asyncio.Event = field(default_factory=asyncio.Event)

    async def members(self) -> Sequence[Member]:
        """Return all nodes."""
        states = dict.fromkeys(self.services, NodeState.UP) | self.states
        return [Member(name, VERSION, states[name], 0, f"{name}:8023", SEEN_AT) for name in sorted(states)]

    async def ask(self, nodes: Collection[str], question: str) -> Mapping[str, str]:
        """Let the other services answer."""
        self.asked += [(name, question) for name in nodes]
        heard = [name for name in nodes if name not in self.mute]
        return {name: self.answers.get(name) or await answer(self.services[name], question) for name in heard}

    async def unconfirmed(self, change_number: int) -> Sequence[str]:
        """Return the late nodes."""
        self.waited_for.append(change_number)
        self.waits.set()
        if self.never:
            await asyncio.Event().wait()
        return self.late


class Silent:
    """A dialogue without an operator."""

    shutdown: Shutdown | None = None

    async def ask(self, question: str, *, hidden: bool) -> None:
        """Return no answer."""

    async def read_document(self, question: str, room: Room) -> None:
        """Return no document."""

    def show_progress(self, text: str) -> None:
        """Show nothing."""


@asynccontextmanager
async def joined(store: Store, *names: str) -> AsyncIterator[Joined]:
    """Give the cluster of the first of these nodes; the store gets the users `admin`, `oleg` and `vera`."""
    async with store.transaction() as query:
        for name, role in (("admin", Role.ADMIN), ("oleg", Role.OPERATOR), ("vera", Role.VIEWER)):
            await users.insert(query, User(name, role, None, ()), ADDED_AT)
    cluster = Joined({})
    passwords = PasswordChecker()
    for name in names:
        current = Current(Config.model_validate({"node": {"name": name, "version": VERSION}}))
        journal = Journal(store)
        cluster.services[name] = Services(
            store=store,
            journal=journal,
            root=command_tree(),
            authenticator=Authenticator(store, journal, passwords, name),
            authorizer=Authorizer(store),
            sessions=Logins(current),
            current=current,
            node=Node(),
            cluster=cluster,
        )
    yield cluster
    passwords.close()
    for services in cluster.services.values():
        services.turns.close()
        await services.journal.close()


def operator(name: str = "admin", role: Role = Role.ADMIN) -> Operator:
    """Return a user that is logged in at the first node."""
    return Operator(name, role, "192.0.2.7:50000", "5e55104e", added_at=ADDED_AT)


def request(services: Services, line: str, by: Operator | None = None) -> Request:
    """Return a request that types a line in the root directory."""
    by = by or operator()
    return Request(services, by, (), line, tokenize(line), Silent(), services.turns.of(by.name), ())


async def said(cluster: Joined, line: str, by: Operator | None = None) -> tuple[int, str]:
    """Run a line at the first node; return its status and its whole output."""
    response = await respond(request(next(iter(cluster.services.values())), line, by))
    assert response is not None
    return response.status, "".join(response.pieces)


def with_root(cluster: Joined, node: str, **changes: object) -> None:
    """Give a node other services."""
    cluster.services[node] = replace(cluster.services[node], **changes)  # type: ignore[arg-type]
