"""Every declared command has help, permission, completion, and its place in the reference."""

from __future__ import annotations

import asyncio
import importlib
import json
import pkgutil
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
from console import ADMIN, PASSWORD, ConsoleServer

import server.commands
from server.commands import COMMANDS, DIRECTORIES, command_tree, node
from server.commands.domains import DOMAIN
from server.commands.kinds import CLIENT_ID, TEXT
from server.grammar.candidates import offer
from server.grammar.declare import CHECK, Command, Relation, command
from server.grammar.explain import page
from server.grammar.tree import build_tree
from server.model.access import PERMISSIONS, Permission, Role

REFERENCE = Path(__file__).parents[2] / "docs" / "commands.md"
every_command = pytest.mark.parametrize("declared", COMMANDS, ids=lambda declared: declared.path)


@every_command
def test_command_has_help_permission_and_a_place_in_the_reference(declared: Command) -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    assert f"## `{declared.path.removesuffix(declared.name)}`" in text
    assert f"    {page(declared).usage}\n" in text
    assert declared.summary in text
    assert declared.summary.endswith(".")
    assert isinstance(declared.permission, Permission)
    assert declared.permission in PERMISSIONS[Role.ADMIN]
    for taker in (*declared.places.values(), *declared.arguments):
        assert taker.kind.expected
        assert taker.kind.metavar.startswith("<")


@every_command
def test_command_is_completed_by_its_path_and_from_its_directory(declared: Command) -> None:
    root = command_tree()
    path = declared.path.replace("<DOMAIN>", "x")
    assert path in [candidate.text for candidate in offer(root, (), path, ADMIN).candidates]
    here = tuple(path.strip("/").split("/")[:-1])
    for name in (declared.name, *declared.also):
        assert name in [candidate.text for candidate in offer(root, here, name, ADMIN).candidates]
    for option in declared.options:
        assert option is CHECK or option.word in page(declared).usage
        assert option.word in [word.split()[0] for word, _ in page(declared).options]


@every_command
def test_arguments_that_name_stored_things_are_completed(declared: Command) -> None:
    for argument in (*declared.arguments, *declared.places.values()):
        names_stored = argument.kind.metavar in {"<DOMAIN>", "<CLIENT_ID>", "<ClientId>", "<USER>", "<SESSION>"}
        makes_new = declared.name in {"add", "adopt", "declare"} and not argument.in_path
        if names_stored and not makes_new:
            assert argument.kind.candidates is not None, argument.name


@pytest.mark.slow
@every_command
def test_help_page_over_ssh(shared_console: ConsoleServer, declared: Command) -> None:
    path = declared.path.replace("<DOMAIN>", "any.domain")
    printed = shared_console.run(f"{path} --help")
    assert " ".join(printed.split()).startswith(f"{declared.path} {declared.summary} ")
    assert f"\nUsage: {page(declared).usage}\n" in printed
    assert "\n[exec at: " in printed
    assert shared_console.run(f"help {path}").split("\n[exec")[0] == printed.split("\n[exec")[0]


def test_the_generated_reference_is_up_to_date() -> None:
    script = REFERENCE.parents[1] / "scripts" / "commands_page.py"
    assert subprocess.run([sys.executable, str(script), "--check"], check=False).returncode == 0


def test_every_declared_command_is_registered() -> None:
    """A command missing from its module's COMMANDS would silently not exist."""
    declared = {
        name: value
        for module in pkgutil.iter_modules(server.commands.__path__)
        for name, value in vars(importlib.import_module(f"server.commands.{module.name}")).items()
        if isinstance(value, Command)
    }
    assert declared
    assert [name for name, each in declared.items() if each not in COMMANDS] == []


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ("call, domian: Annotated[str, DOMAIN]", "no parameter is called domain, as the path says"),
        ("call, domain", "parameter domain has no kind"),
        ("call, domain: Annotated[str, DOMAIN], *, force=False", "option force needs help and a default"),
    ],
)
def test_a_wrong_declaration_fails_at_import(parameters: str, told: str) -> None:
    made: dict[str, Any] = {}
    source = f"async def count({parameters}):\n    'Count.'\n"
    exec(source, {"Annotated": Annotated, "DOMAIN": DOMAIN}, made)  # noqa: S102  as a file of commands would have it
    with pytest.raises(TypeError, match=told):
        command("/domain/{domain}/count", permission=Permission.DOMAINS_READ, examples=("count",))(made["count"])


KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIPEVPWG4+g4EdxKpPS7wj1frid73wG5yEVQcgUbVRUaX"
PRINT = "SHA256:NFuJ4z6VV8Diy/AkSx5MkAObPPRqXkgx9v1fAaZLfa0"
ANSWERS = {
    "/passwd": f"{PASSWORD}\nsecond\nsecond\n",
    "/domain/<DOMAIN>/integrations/import": f'[{{"client_id": "i", "type": "widget", "api_key": "{"i" * 64}"}}]',
}
#: Each command that changes something, as a run of all of them; a new one without a line here fails.
CHANGES = {
    "/domain/declare": ("domain/declare d", "declare domain d"),
    "/domain/<DOMAIN>/integrations/add": ("domain/d/integrations/add c", "add widget c to domain d, with a new key"),
    "/domain/<DOMAIN>/integrations/adopt": (
        f"domain/d/integrations/adopt a {'a' * 64}",
        "add widget a to domain d, with the key that it has",
    ),
    "/domain/<DOMAIN>/integrations/import": (
        "domain/d/integrations/import",
        "add 1 integration to domain d, with the keys that they have: i",
    ),
    "/domain/<DOMAIN>/integrations/set": (
        "domain/d/integrations/set c --service --numbers 1{0-1}",
        "change widget c of domain d into service c with 2 numbers from 10 on",
    ),
    "/domain/<DOMAIN>/integrations/replace": (
        "domain/d/integrations/replace c",
        "replace the key of integration c in domain d; the old one is dead then",
    ),
    "/domain/<DOMAIN>/integrations/remove": (
        "domain/d/integrations/remove c",
        "remove integration c from domain d, and with it the key",
    ),
    "/cocon/user/add": ("cocon/user/add eve", "add user eve as viewer"),
    "/cocon/user/set": (
        "cocon/user/set eve --role operator --change-password",
        "change user eve from viewer, expires never into operator, expires never, must change the password",
    ),
    "/cocon/user/passwd": ("cocon/user/passwd eve", "set the password of user eve"),
    "/cocon/user/key/add": (
        f"cocon/user/key/add eve ssh-ed25519 {KEY}",
        f"let user eve in with key {PRINT}",
    ),
    "/cocon/user/key/remove": (
        f"cocon/user/key/remove eve {PRINT}",
        f"let user eve in with key {PRINT} no more",
    ),
    "/cocon/user/lock": ("cocon/user/lock eve", "lock user eve out"),
    "/cocon/user/unlock": ("cocon/user/unlock eve", "let user eve log in again"),
    "/cocon/user/grant": ("cocon/user/grant eve d", "grant domain d to user eve"),
    "/cocon/user/revoke": ("cocon/user/revoke eve d", "revoke domain d from user eve"),
    "/cocon/user/remove": ("cocon/user/remove eve --force", "remove user eve"),
    "/passwd": ("passwd", "change the password of admin"),
    "/domain/remove": (
        "domain/remove d --force",
        "remove domain d and the keys of its integrations, 2 in all: a, i",
    ),
}


TABLES = ("domains", "integrations", "users", "user_keys", "grants")


def _changed(console: ConsoleServer, path: str) -> None:
    ran = console.ssh(CHANGES[path][0], text=ANSWERS.get(path, "first\nfirst\n"))
    assert ran.returncode == 0, ran.stdout.decode()


def _kept(console: ConsoleServer) -> list[tuple[object, ...]]:
    with sqlite3.connect(console.database) as database:
        rows = [row for table in TABLES for row in database.execute(f"SELECT * FROM {table}")]
    database.close()
    return rows


def test_check_previews_the_change_and_changes_nothing(console: ConsoleServer) -> None:
    for path, (line, what) in CHANGES.items():
        before = _kept(console)
        text = ANSWERS.get(path, "")
        printed = console.ssh(f"{line.removesuffix(' --force')} --check", text=text).stdout.decode()
        assert printed.startswith(f"Nothing was changed. Without --check this would:\n  {what}\n\n[exec at: ")
        assert _kept(console) == before
        _changed(console, path)
        assert _kept(console) != before
    refused = console.ssh("domain/d/integrations/add c --check")
    assert (refused.returncode, refused.stdout[:33]) == (1, b"Command error: there is no domain")
    assert console.ssh("domain/list --check").returncode == 2


async def test_every_command_that_changes_leaves_one_audit_row_with_its_change(console: ConsoleServer) -> None:
    lines = {path: line for path, (line, _) in CHANGES.items()}
    assert set(lines) == {each.path for each in COMMANDS if each.permission.changes}
    for path in lines:
        await asyncio.to_thread(_changed, console, path)
    with sqlite3.connect(console.database) as database:
        recorded = [
            path for (path,) in database.execute("SELECT command FROM audit WHERE event = 'change' ORDER BY id")
        ]
    database.close()
    assert recorded == list(lines)


def test_a_command_without_help_kind_or_relation_is_an_error_at_import() -> None:
    declare = command("/nonsense", permission=Permission.CONSOLE, examples=("nonsense",))

    async def without_help(call: object) -> None:
        pass

    async def without_kind(call: object, word: str) -> None:
        """Do nothing."""

    async def without_relation(call: object, *, flag: bool = False) -> None:
        """Do nothing."""

    async def unknown_relation(call: object, *, flag: Annotated[bool, Relation("x", needs="tea")] = False) -> None:
        """Do nothing."""

    async def value_without_kind(call: object, *, value: Annotated[str, Relation("x")] = "") -> None:
        """Do nothing."""

    async def good(call: object) -> None:
        """Do nothing."""

    with pytest.raises(TypeError, match="/nonsense: a command needs an example"):
        command("/nonsense", permission=Permission.CONSOLE, examples=())(good)
    for handler in (without_help, without_kind, without_relation, unknown_relation, value_without_kind):
        with pytest.raises(TypeError, match="/nonsense"):
            declare(handler)


def test_two_commands_cannot_claim_one_path() -> None:
    async def again(call: object, word: Annotated[str, TEXT], client_id: Annotated[str, CLIENT_ID] = "") -> None:
        """Do nothing."""

    with pytest.raises(TypeError, match="declared twice"):
        build_tree((*COMMANDS, command("/quit", permission=Permission.CONSOLE, examples=("quit",))(again)), DIRECTORIES)


@pytest.mark.parametrize("path", DIRECTORIES)
def test_a_directory_is_described_wherever_it_is_listed(shared_console: ConsoleServer, path: str) -> None:
    text = DIRECTORIES[path]
    shown = path.replace("{domain}", "described.local").replace("{node}", "ds1@ecss1")
    assert text.endswith(".")
    declared = re.sub(r"\{(\w+)\}", lambda place: f"<{place[1].upper()}>", path.rstrip("/"))
    assert f"`{declared}/`: {text}\n" in REFERENCE.read_text(encoding="utf-8")
    if "{domain}" in path and "described.local" not in shared_console.run("domain/list"):
        shared_console.run("domain/declare described.local")
    assert shared_console.run(f"help {shown}").startswith(f"Directory {shown}\n  {text}\n\nHere:\n")
    if path == "/":
        return
    above, _, name = shown.rpartition("/")
    listed = json.loads(shared_console.run(f"ls {above or '/'} --long | json"))["rows"]
    assert {"name": f"{name}/", "help": text} in listed
    offered = offer(command_tree(), (), f"{above}/", ADMIN)
    if path in {"/domain/{domain}", "/node/{node}"}:
        assert offered.lookup is not None
        assert offered.lookup.help == text
    else:
        assert text in [candidate.help for candidate in offered.candidates]


def test_a_directory_without_a_description_is_an_error_at_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(node.DIRECTORIES, "/node")
    with pytest.raises(TypeError, match="/node: a directory needs a description"):
        importlib.reload(server.commands)
    monkeypatch.setitem(node.DIRECTORIES, "/node", "Again.")
    monkeypatch.setitem(node.DIRECTORIES, "/nodes", "What runs here.")
    with pytest.raises(TypeError, match="/nodes: described, and no command is there"):
        importlib.reload(server.commands)
