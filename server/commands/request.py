"""A request: one line to run, with its user, its session and its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Protocol

from server.commands.documents import Room
from server.commands.shared_services import Services
from server.cooperative import Share
from server.grammar.filters import wants_json
from server.grammar.match import Match, match
from server.grammar.secrets import holds_secret
from server.grammar.tokens import Line
from server.grammar.tree import Location
from server.model.access import Operator
from server.model.shutdown import Shutdown
from server.node.measures import Stopwatch


class Dialogue(Protocol):
    """The part of a session that a handler may use. `shutdown` is set when the session is ending."""

    shutdown: Shutdown | None

    async def ask(self, question: str, *, hidden: bool) -> str | None:
        """Ask the operator and return the answer, or None at the end of input.

        A `hidden` answer is not echoed.
        """

    async def read_document(self, question: str, room: Room) -> str | None:
        """Read the rest of a piped input, or one line in a shell. Returns None at the end of input.

        Raises OperatorError when `room` has no memory for it.
        """

    def show_progress(self, text: str) -> None:
        """Show one line of progress to a person. The next line or the reply replaces it."""


@dataclass(frozen=True)
class Request:
    """One line to run, and its origin.

    `location` is the session's current directory, and `typed` are its earlier lines. `share` limits the line's use of
    the event loop, threads and memory. With `json_session` every reply of the session is a JSON document. `watch`
    measures the work, and pauses during questions to the operator. `asked_by` is the node whose operator has typed the
    line, empty for this node.
    """

    services: Services
    operator: Operator
    location: Location
    text: str
    line: Line
    dialogue: Dialogue
    share: Share
    typed: Sequence[str]
    json_session: bool = False
    asked_by: str = ""
    started_at: datetime = field(default_factory=lambda: datetime.now().astimezone())
    watch: Stopwatch = field(default_factory=Stopwatch)

    @property
    def is_empty(self) -> bool:
        """Whether the line is blank or a comment. Such a line gets no response."""
        return not (self.line.words or self.line.filters or self.line.mistake)

    def with_origin(self, detail: str) -> str:
        """Return the detail of an audit record, with the other node that asked, if any."""
        return "; ".join(each for each in (f"asked by {self.asked_by}" if self.asked_by else "", detail) if each)

    @cached_property
    def json(self) -> bool:
        """Whether the reply is a JSON document."""
        return self.json_session or wants_json(self.line.filters)

    @cached_property
    def match(self) -> Match:
        """The parsed line. It is parsed only once."""
        return match(self.services.root, self.location, self.line)

    @property
    def holds_secret(self) -> bool:
        """Whether the line may hold a secret, so that no history may keep it."""
        try:
            outcome = self.match
        except Exception:  # noqa: BLE001  a defect of the parser, which the response reports
            return True
        return holds_secret(self.services.root, self.text, self.line, outcome)
