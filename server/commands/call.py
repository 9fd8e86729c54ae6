"""One run of one command: what a handler may use besides its arguments."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from server.audit.journal import Journal, utc_now
from server.auth.login import Doorkeeper
from server.auth.standing import Standings
from server.commands.documents import Documents, Room
from server.config import Current
from server.encoding import BYTE_ORDER_MARK, HAS_NUL
from server.errors import ArgumentError, CommandError
from server.grammar.declare import Argument, Command, Option
from server.grammar.tree import Directory, Location
from server.model.access import Operator, Permission
from server.model.events import Event, EventKind
from server.model.integrations import without_keys
from server.model.sessions import OpenSession
from server.node.measures import Stopwatch
from server.node.status import Node
from server.render.progress import progress_text
from server.storage.engine import Read
from server.storage.store import Store
from server.storage.turn import Rank
from server.storage.uncut import CommittedError
from server.storage.writer import Query
from server.turns import FewEach, Share, Turns

#: Asks the operator and returns the answer without its newline; None at the end of input.
Ask = Callable[[str], Awaitable[str | None]]
#: Reads a document for which there is room: what is piped into a single command, else one line. None at the end of
#: input; raises OperatorError where there is no room.
ReadDocument = Callable[[str, Room], Awaitable[str | None]]
#: Shows a line that tells how far long work is; the next one, or the reply, takes its place.
ShowProgress = Callable[[str], None]
#: Returns the operator as it stands now, or inside a change as its query reads it; raises PermissionDeniedError when
#: it may not run the command any more.
Gate = Callable[["Call", Read | None], Awaitable[Operator]]
_SURE = "Are you sure?: yes/no ?> "
#: The longest name, a domain of 253, stands in a record whole.
_MOST_AUDITED_CHARACTERS = 256
#: What a record tells of its outcome. An error may repeat a word of 64 K characters.
_MOST_DETAIL_CHARACTERS = 4_096
#: So many of a user's sessions wait for another one whose password is checked, each for up to a second.
_MOST_PASSWORDS_WAITING = 8
_AS_JSON = json.JSONEncoder(ensure_ascii=False).encode


class Sessions(Protocol):
    """The sessions that are open on this node."""

    def every(self) -> Sequence[OpenSession]:
        """Return them, the oldest first."""

    def end(self, session_id: str, why: str) -> bool:
        """End one and tell its client why; False when there is none of this id."""


class _CheckedError(Exception):
    """Rolls the transaction of a check back."""


@dataclass(frozen=True, slots=True)
class Console:
    """What all sessions share: the store, the journal, the command tree, who may do what, and the name of the node.

    What the configuration says is asked of `current` each time; `node` counts, and knows what runs here. `turns`,
    `documents` and `passwords` keep one user from taking what all need.
    """

    store: Store
    journal: Journal
    root: Directory
    doorkeeper: Doorkeeper
    standings: Standings
    sessions: Sessions
    node_name: str
    node_version: str
    current: Current
    node: Node
    turns: Turns = field(default_factory=Turns)
    documents: Documents = field(default_factory=Documents)
    passwords: FewEach = field(default_factory=lambda: FewEach(1, _MOST_PASSWORDS_WAITING))

    @property
    def masks_keys(self) -> bool:
        """Whether replies show API keys in full only once, when they are made."""
        return self.current.config.integrations.show_keys == "masked"

    @property
    def nodes(self) -> str:
        """The footer's identity of this node: `ds1@ecss1 v.3.14.7.585`."""
        return f"{self.node_name} v.{self.node_version}"


@dataclass(frozen=True, slots=True)
class Seeker:
    """Who asks what names there are, for completion."""

    console: Console
    operator: Operator

    @property
    def store(self) -> Store:
        """The store, for reading."""
        return self.console.store


@dataclass
class Call:
    """One run of one command by one operator. `here` is the session's directory, `typed` its lines so far.

    Without `ask` nothing can be asked, as under `| json`; without `show_progress` nobody waits who would see it. With
    `check` no change is kept; `plan` says what it would be. `json` tells that the reply becomes a document. `watch`
    measures the work, and stands still while the operator is asked.
    """

    console: Console
    operator: Operator
    here: Location
    command: Command
    arguments: Mapping[str, Any]
    rest: Sequence[Any]
    gate: Gate
    ask: Ask | None
    ask_hidden: Ask | None
    read_document: ReadDocument
    show_progress: ShowProgress | None
    share: Share
    typed: Sequence[str] = ()
    check: bool = False
    json: bool = False
    plan: list[str] = field(default_factory=list)
    watch: Stopwatch = field(default_factory=Stopwatch)
    recorded: bool = False

    @property
    def store(self) -> Store:
        """The store, for reading."""
        return self.console.store

    def will(self, what: str) -> None:
        """Say what this command is about to change, for `--check` and the audit: `add widget tester to biysk.local`."""
        self.plan.append(what)

    def progress(self, done: float, total: float, unit: str) -> None:
        """Tell a person who waits how far long work is; scripts are told nothing."""
        if self.show_progress is not None:
            self.show_progress(progress_text(done, total, unit))

    @asynccontextmanager
    async def change(self, rank: Rank = Rank.ORDINARY) -> AsyncIterator[Query]:
        """Give a `query` in one transaction that commits together with the audit record of this command.

        Changes of users go first, whatever the `rank`: an administrator locks a user out who keeps the store busy.
        With `check` it is rolled back, and the handler goes on as if it had not been.
        """
        rank = Rank.FIRST if self.command.permission is Permission.USERS_CHANGE else rank
        try:
            with suppress(_CheckedError):
                async with self.store.transaction(rank=rank) as query:
                    # while this waited for its turn, the operator may have lost what the gate saw
                    await self.pass_gate(query)
                    yield query
                    if self.check:
                        raise _CheckedError
                    await self.console.journal.record(query, self.event(EventKind.CHANGE, status=0))
                self.recorded = True
        except CommittedError:
            self.recorded = True
            raise

    async def pass_gate(self, read: Read | None = None) -> None:
        """Ask again whether the operator may: while a question waited, that may have been taken away."""
        self.operator = await self.gate(self, read)

    async def confirm(self, consequence: str) -> None:
        """Say what would happen and ask once; anything but `yes` raises CommandError. Nothing is asked for a check."""
        if self.check:
            return
        with self.watch.paused():
            answer = await self.ask(f"{consequence}\n{_SURE}") if self.ask else None
        await self.pass_gate()
        if answer != "yes":
            message = "not confirmed" if self.ask else "not confirmed: nothing is asked under json, give --force"
            raise CommandError(message)

    async def ask_secret(self, question: str) -> str:
        """Ask for something that is not echoed. Raises CommandError where nobody can be asked."""
        with self.watch.paused():
            answer = await self.ask_hidden(question) if self.ask_hidden else None
        await self.pass_gate()
        if answer is None:
            message = "no answer, nothing was changed" if self.ask_hidden else "nothing can be asked under json"
            raise CommandError(message)
        return answer

    async def document(self, question: str, room: Room) -> str:
        """Return a document from the rest of the input, without a byte order mark.

        Raises ArgumentError when there is none, or it is too long or not UTF-8.
        """
        with self.watch.paused():
            text = await self.read_document(question, room)
        await self.pass_gate()
        if not text or text.isspace():
            message = "no document was given: pipe one into the command, or type it on one line"
            raise ArgumentError(message)
        if "\0" in text:
            message = f"the document cannot be read: {HAS_NUL}"
            raise ArgumentError(message)
        return text.removeprefix(BYTE_ORDER_MARK)

    @property
    def lists_keys_in_full(self) -> bool:
        """Whether a list shows API keys in full to this operator; asked once a list."""
        return self.operator.may(Permission.KEYS_REVEAL) and not self.console.masks_keys

    def event(self, kind: EventKind, *, status: int, detail: str = "") -> Event:
        """Return the audit event of this command as it stands now.

        Of wrong words for a command that takes a secret nothing is kept: a part of the secret may be among them.
        """
        if self.command.takes_secret and status == ArgumentError.status:
            detail = "wrong arguments"
        return Event(
            kind=kind,
            at=utc_now(),
            node=self.console.node_name,
            user_name=self.operator.name,
            source=self.operator.source,
            session_id=self.operator.session_id,
            command=self.command.path,
            arguments=without_keys(_AS_JSON(self._audited_arguments())),
            status=status,
            detail=_shortened(
                detail or ("check only: " if self.check else "") + "; ".join(self.plan), _MOST_DETAIL_CHARACTERS
            ),
            duration_ms=self.watch.milliseconds,
        )

    def _audited_arguments(self) -> dict[str, Any]:
        command = self.command
        takers: tuple[Argument | Option, ...] = (*command.places.values(), *command.arguments, *command.options)
        audited = {
            taker.name: _audited(taker, self.arguments[taker.name]) for taker in takers if taker.name in self.arguments
        }
        if self.rest:
            audited["rest"] = _audited(command.arguments[-1], " ".join(str(word) for word in self.rest))
        return audited


def _audited(taker: Argument | Option, value: object) -> object:
    if taker.kind is None:
        return value
    if taker.kind.secret:
        return "***"
    return _shortened(",".join(value)) if isinstance(value, tuple) else _shortened(str(value))


def _shortened(text: str, most_characters: int = _MOST_AUDITED_CHARACTERS) -> str:
    """Keep a record small: ten thousand numbers are told by their first ones and their count of characters.

    What looks like a key goes first: cut in two it would look like none.
    """
    text = without_keys(text)
    if len(text) <= most_characters:
        return text
    return f"{text[:most_characters]}… ({len(text)} characters)"
