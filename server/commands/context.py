"""The context that a command's handler receives with its arguments."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from server.audit.journal import utc_now
from server.commands.authorize import authorize
from server.commands.documents import Room
from server.commands.request import Request
from server.commands.shared_services import Services
from server.cooperative import Share
from server.encoding import BYTE_ORDER_MARK, HAS_NUL
from server.errors import ArgumentError, CommandError
from server.grammar.declare import CHECK, Argument, Command, Option
from server.grammar.tree import Location
from server.model.access import Operator, Permission
from server.model.events import Event, EventKind
from server.model.integrations import without_keys
from server.render.progress import progress_text
from server.storage.engine import Read
from server.storage.store import Store
from server.storage.turn import Rank
from server.storage.uncut import CommittedError
from server.storage.writer import Query

_SURE = "Are you sure?: yes/no ?> "
#: The longest name, a domain of 253 characters, fits into a record.
_MOST_AUDITED_CHARACTERS = 256
#: The limit of the detail in a record, because an error message may repeat a word of 64 K characters.
_MOST_DETAIL_CHARACTERS = 4_096
_AS_JSON = json.JSONEncoder(ensure_ascii=False).encode


class _CheckedError(Exception):
    """Rolls back the transaction of `--check`."""


@dataclass(frozen=True, slots=True)
class CompletionContext:
    """The operator who completes a word, and the services that know the stored names."""

    services: Services
    operator: Operator

    @property
    def store(self) -> Store:
        """The store, for reading."""
        return self.services.store


@dataclass
class Context:
    """One run of one command. `operator` has the rights that the last call of `authorize` found.

    `plan` describes the changes, for `--check` and for the audit. `recorded` is True when the audit has a record of
    this command. `unconfirmed` are the nodes that have not confirmed its change.
    """

    request: Request
    command: Command
    arguments: Mapping[str, Any]
    rest: Sequence[Any]
    operator: Operator
    plan: list[str] = field(default_factory=list)
    recorded: bool = False
    unconfirmed: tuple[str, ...] = ()

    @property
    def services(self) -> Services:
        """The services that all sessions share."""
        return self.request.services

    @property
    def store(self) -> Store:
        """The store, for reading."""
        return self.request.services.store

    @property
    def share(self) -> Share:
        """The line's share of the event loop, threads and memory."""
        return self.request.share

    @property
    def location(self) -> Location:
        """The session's current directory."""
        return self.request.location

    @property
    def json(self) -> bool:
        """Whether the reply is a JSON document. If so, the command cannot ask questions."""
        return self.request.json

    @property
    def check(self) -> bool:
        """Whether `--check` was given, so that the change is rolled back."""
        return CHECK in self.command.options and bool(self.arguments.get(CHECK.name))

    def will(self, change: str) -> None:
        """Add a change to the plan, before making it: `add widget tester to biysk.local`."""
        self.plan.append(change)

    def progress(self, done: float, total: float, unit: str) -> None:
        """Show the progress of long work to a person. Scripts see nothing."""
        if not self.json:
            self.request.dialogue.show_progress(progress_text(done, total, unit))

    @asynccontextmanager
    async def change(self, rank: Rank = Rank.ORDINARY) -> AsyncIterator[Query]:
        """Open a transaction and give its `query`. It commits together with the audit record of this command.

        Changes to users come first, whatever the `rank`, so that an administrator can lock out a user who keeps the
        store busy. With `check` the transaction is rolled back, but the handler continues after the block.
        """
        rank = Rank.FIRST if self.command.permission is Permission.USERS_CHANGE else rank
        try:
            with suppress(_CheckedError):
                async with self.store.transaction(rank=rank) as query:
                    # the operator may have lost the permission during the wait for the transaction
                    await self.authorize(query)
                    yield query
                    if self.check:
                        raise _CheckedError
                    await self.services.journal.record(query, self.event(EventKind.CHANGE, status=0))
                self.recorded = True
                await self._confirmed(query.change_number)
        except CommittedError:
            self.recorded = True
            raise

    async def _confirmed(self, change_number: int) -> None:
        """Wait until the other nodes have applied a stored change, and keep the names of those that have not."""
        if change_number:
            late = await self.services.cluster.unconfirmed(change_number)
            self.unconfirmed = tuple(sorted({*self.unconfirmed, *late}))

    async def record(self, query: Query, facts: Mapping[str, object]) -> None:
        """Do nothing, because `change` records the command's arguments, which contain the facts."""

    async def authorize(self, read: Read | None = None) -> None:
        """Check the operator's rights again: they may change during a question. Raises PermissionDeniedError."""
        authorizer = self.services.authorizer
        self.operator = await authorize(authorizer, self.operator, self.command, self.arguments, read)

    async def confirm(self, consequence: str) -> None:
        """Show the consequence and ask once.

        Raises CommandError for any answer but `yes`. `--check` asks nothing.
        """
        if self.check:
            return
        answer = await self._ask(f"{consequence}\n{_SURE}", hidden=False)
        if answer != "yes":
            message = "not confirmed: nothing is asked under json, give --force" if self.json else "not confirmed"
            raise CommandError(message)

    async def ask_secret(self, question: str) -> str:
        """Ask for a secret, without echo, and return it. Raises CommandError without an answer."""
        answer = await self._ask(question, hidden=True)
        if answer is None:
            message = "nothing can be asked under json" if self.json else "no answer, nothing was changed"
            raise CommandError(message)
        return answer

    async def _ask(self, question: str, *, hidden: bool) -> str | None:
        with self.request.watch.paused():
            answer = None if self.json else await self.request.dialogue.ask(question, hidden=hidden)
        await self.authorize()
        return answer

    async def document(self, question: str, room: Room) -> str:
        """Read a document from the rest of the input, and return it without its byte order mark.

        Raises ArgumentError when the document is missing, too long or not UTF-8.
        """
        with self.request.watch.paused():
            text = await self.request.dialogue.read_document(question, room)
        await self.authorize()
        if not text or text.isspace():
            message = "no document was given: pipe one into the command, or type it on one line"
            raise ArgumentError(message)
        if "\0" in text:
            message = f"the document cannot be read: {HAS_NUL}"
            raise ArgumentError(message)
        return text.removeprefix(BYTE_ORDER_MARK)

    @property
    def lists_keys_in_full(self) -> bool:
        """Whether a list shows API keys in full to this operator."""
        return self.operator.may(Permission.KEYS_REVEAL) and not self.services.masks_keys

    def event(self, kind: EventKind, *, status: int, detail: str = "") -> Event:
        """Return the audit event of this command in its present state.

        An argument error of a command that takes a secret has no detail, because its message may repeat the secret.
        """
        if self.command.takes_secret and status == ArgumentError.status:
            detail = "wrong arguments"
        return Event(
            kind=kind,
            at=utc_now(),
            node=self.services.node_name,
            user_name=self.operator.name,
            source=self.operator.source,
            session_id=self.operator.session_id,
            command=self.command.path,
            arguments=without_keys(_AS_JSON(self._audited_arguments())),
            status=status,
            detail=_shortened(
                self.request.with_origin(detail or ("check only: " if self.check else "") + "; ".join(self.plan)),
                _MOST_DETAIL_CHARACTERS,
            ),
            duration_ms=self.request.watch.milliseconds,
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
    """Shorten text for a record, and append its length: ten thousand numbers become the first few.

    It masks keys first, because half a key would not be recognised.
    """
    text = without_keys(text)
    if len(text) <= most_characters:
        return text
    return f"{text[:most_characters]}… ({len(text)} characters)"
