"""One request carries a line from the terminal to its response, in a session without SSH."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import pytest

from server.audit.journal import Journal
from server.auth.authenticator import Authenticator
from server.auth.authorizer import Authorizer
from server.auth.passwords import PasswordChecker
from server.cluster.single import SingleNode
from server.commands import console as global_commands
from server.commands.context import Context
from server.commands.shared_services import Services
from server.config import Config, Current
from server.grammar.declare import Kind, command
from server.grammar.tree import build_tree
from server.model.access import Operator, Permission, Role, User
from server.model.shutdown import STOPPING, Shutdown
from server.node.status import Node
from server.render.reply import Lines
from server.shell.options import LoginOptions
from server.shell.session import Session
from server.shell.terminal import EndOfInputError, Room
from server.storage import users
from server.storage.opening import open_store
from server.transport.logins import Logins

_ADDED_AT = "2026-11-24T08:00:00Z"
_PARSED: list[str] = []


def _parse(text: str) -> str:
    _PARSED.append(text)
    return text


@command("/note", permission=Permission.CONSOLE, examples=("note x",))
async def _note(context: Context, word: Annotated[str, Kind("<WORD>", "any word", _parse)]) -> Lines:  # noqa: ARG001
    """Print the word."""
    return Lines((word,))


class Lined:
    """A terminal that types the given lines, then waits or leaves."""

    remembers = True

    def __init__(self, *lines: str, stays: bool = False) -> None:
        """Take the lines; with `stays` the prompt waits for ever after them."""
        self._lines = list(lines)
        self._stays = stays
        self.waits = asyncio.Event()
        self.shown: list[str] = []
        self.kept: list[str] = []

    @property
    def text(self) -> str:
        """Everything written to the terminal."""
        return "".join(self.shown)

    async def read_line(self, prompt: str) -> str:
        """Return the next line."""
        self.shown.append(prompt)
        if self._lines:
            return self._lines.pop(0)
        if self._stays:
            self.waits.set()
            await asyncio.Event().wait()
        raise EndOfInputError

    async def ask(self, question: str, *, hidden: bool) -> str:  # noqa: ARG002
        """Return the next line as an answer."""
        return await self.read_line(question)

    async def read_document(self, question: str, *, to_the_end: bool, room: Room) -> str:  # noqa: ARG002
        """Return the next line as a document."""
        return await self.read_line(question)

    def remember(self, line: str) -> None:
        """Keep a line."""
        self.kept.append(line)

    def write(self, text: str) -> None:
        """Show a text."""
        self.shown.append(text)

    def drop_typed_ahead(self) -> None:
        """Drop nothing."""

    def show_progress(self, text: str) -> None:
        """Take progress as the sign that a command runs."""
        self.shown.append(text)
        self.waits.set()

    async def drain(self) -> None:
        """Accept all output at once."""


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    config = Config.model_validate(
        {"storage": {"url": f"sqlite:///{tmp_path}/console.db"}, "keys": {"dir": str(tmp_path / "keys")}}
    )
    async with open_store(config) as store:
        async with store.transaction() as query:
            await users.insert(query, User("admin", Role.ADMIN, None, ()), _ADDED_AT)
        journal, passwords, current = Journal(store), PasswordChecker(), Current(config)
        node, logins = Node(), Logins(current)
        made = Services(
            store=store,
            journal=journal,
            root=build_tree([_note, *global_commands.COMMANDS], global_commands.DIRECTORIES),
            authenticator=Authenticator(store, journal, passwords, config.node.name),
            authorizer=Authorizer(store),
            sessions=logins,
            current=current,
            node=node,
            cluster=SingleNode(current, node, logins),
        )
        yield made
        passwords.close()
        made.turns.close()
        await journal.close()


def _session(services: Services, terminal: Lined) -> Session:
    operator = Operator("admin", Role.ADMIN, "127.0.0.1:1", "00000000", added_at=_ADDED_AT)
    return Session(services, operator, terminal, LoginOptions())


async def test_a_line_is_parsed_once_for_its_run_and_its_history(services: Services) -> None:
    """A second parse after the run once decided whether a line holds a secret."""
    _PARSED.clear()
    terminal = Lined("note passwords", "note --help passw", "# password hunter2", "# note", "note pass passw")
    assert await _session(services, terminal).run_shell() == 2
    assert _PARSED == ["passwords"]
    assert terminal.kept == ["note passwords", "note --help passw", "# note"]


@pytest.mark.parametrize(
    ("shutdown", "told"),
    [(STOPPING, f"\n{STOPPING.sentence}\n"), (Shutdown("the client sent signal HUP"), "")],
    ids=["a sentence", "none"],
)
async def test_a_session_at_its_prompt_ends_with_the_sentence_of_its_shutdown(
    services: Services, shutdown: Shutdown, told: str
) -> None:
    terminal = Lined(stays=True)
    session = _session(services, terminal)
    running = asyncio.create_task(session.run_shell())
    await terminal.waits.wait()
    session.stop(shutdown)
    assert await running == 75
    assert terminal.text == f"admin@ds1@ecss1:/$ {told}"


async def test_an_interrupted_command_tells_the_shutdown_once_and_its_record_has_it(services: Services) -> None:
    terminal = Lined("sleep 60", "whoami")
    session = _session(services, terminal)
    running = asyncio.create_task(session.run_shell())
    await terminal.waits.wait()
    session.stop(STOPPING)
    session.interrupt()
    assert await running == 75
    assert terminal.text.count(STOPPING.sentence) == 1
    assert f"Command error: temporary locked: {STOPPING.sentence}\n\n[exec at: " in terminal.text
    assert "whoami" not in terminal.kept
    await services.journal.flush()
    recorded = await services.store.read("SELECT command, status, detail FROM audit WHERE event = 'command'")
    assert [tuple(row) for row in recorded] == [("/sleep", 75, STOPPING.sentence)]
