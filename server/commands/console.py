"""The commands of the root directory, which work everywhere: navigation, help, and small tools."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime
from time import monotonic
from typing import Annotated

from server.commands.context import Context
from server.commands.kinds import DIRECTORY, PATH, SECONDS, STATUS, TEXT
from server.errors import CommandError, TemporaryError
from server.grammar.declare import Command, Kind, Relation, command
from server.grammar.explain import page, usage
from server.grammar.filters import FILTERS
from server.grammar.tree import Directory, Found, find, locate, offered, shown, starts, walk
from server.model.access import Permission
from server.model.domains import folded
from server.model.names import with_foreign
from server.render.reply import ChangeDirectory, Column, Exit, Help, Lines, Overview, Section, Table
from server.storage import history

_CONSOLE = Permission.CONSOLE
_PROGRESS_SECONDS = 1.0
_LISTED = (Column("name", "Name"), Column("help", "What it is for"))
_SHAPE = "Commands form a tree that is walked like a file system"
_WALKING = (
    ("ls, ls domain", "list this directory, or another; directories end in /"),
    ("cd domain, cd ..", "change the directory, and go up; cd alone goes to the root"),
    ("domain/list", "run a command by its path, from the root or from here"),
    ("help PATH", "explain a directory, or a command with its examples"),
    ("Tab", "complete the word; a second Tab lists what can come next"),
    ("?", "list it at once, with a word of help each"),
    ("COMMAND --check", "show what a change would do, without doing it"),
    ("COMMAND | FILTER", ", ".join(each.usage for each in FILTERS)),
)


@command("/cd", permission=_CONSOLE, examples=("cd domain/biysk.local/integrations\ncd ..\npwd",))
async def cd(context: Context, path: Annotated[str, DIRECTORY] = "/") -> ChangeDirectory:
    """Change the current directory; without a path, to the root."""
    found = await _directory(context, path)
    return ChangeDirectory(found.location)


@command("/ls", permission=_CONSOLE, examples=("ls", "ls domain", "ls cocon --long"))
async def ls(
    context: Context,
    path: Annotated[str, DIRECTORY] = ".",
    *,
    long: Annotated[bool, Relation("explain each entry")] = False,
) -> Lines | Table:
    """List a directory: its directories with a trailing /, then its commands."""
    directory = (await _directory(context, path)).directory
    inside = {name: each.help for name, each in directory.directories.items() if offered(each, context.operator)}
    names = directory.place.kind.place_names if directory.place else None
    if directory.inside is not None and names is not None:
        inside |= dict.fromkeys(await names.every(context), directory.inside.help)
    commands = {
        name: each.summary for name, each in directory.commands.items() if context.operator.may(each.permission)
    }
    directories = sorted(inside.items(), key=lambda item: folded(item[0]))
    rows = [*((f"{name}/", text) for name, text in directories), *sorted(commands.items())]
    return Table(_LISTED, rows) if long else Lines([name for name, _ in rows])


@command("/pwd", permission=_CONSOLE, examples=("pwd",))
async def pwd(context: Context) -> Lines:
    """Print the current directory."""
    return Lines((shown(context.location),))


@command("/help", permission=_CONSOLE, examples=("help domain",), also=("man",))
async def help_(context: Context, path: Annotated[str, PATH] = "") -> Help | Overview:
    """Explain a command or a directory; without a path, the console."""
    if not path:
        return _overview(context)
    found = find(context.services.root, context.location, path)
    if found is None:
        message = f"there is no command or directory {path}"
        raise CommandError(with_foreign(message, path))
    if found.command is not None:
        return Help(page(found.command))
    # show a domain that is not granted as typed, because its declared spelling would reveal that it exists
    granted = [(text, place.kind.granted and context.operator.reaches(text)) for place, text in found.places]
    names = [await context.services.authorizer.declared(text) if reached else text for text, reached in granted]
    introduction = (f"Directory {shown(found.renamed(names).location)}", f"  {found.directory.help}")
    return Overview(introduction, (_inside(context, found.directory),))


@command("/history", permission=_CONSOLE, examples=("whoami\nhistory",))
async def history_(context: Context) -> Lines:
    """List the lines you typed, the oldest first.

    Lines of earlier interactive sessions come before those of this one.
    """
    with suppress(TemporaryError):  # lines that cannot be stored now follow the stored ones
        await context.services.journal.flush()
    lines = history.LastLines([*await context.services.journal.earlier_lines(context.operator), *context.request.typed])
    return Lines([f"{number:5}  {line}" for number, line in enumerate(lines, 1)])


@command("/whoami", permission=_CONSOLE, examples=("whoami",))
async def whoami(context: Context) -> Lines:
    """Print the name you are logged in with."""
    return Lines((context.operator.name,))


@command("/date", permission=_CONSOLE, examples=("date", "date --on all"), on_nodes=True)
async def date(context: Context) -> Lines:
    """Print the node's local time."""
    now = datetime.now().astimezone()
    return Lines((now.isoformat(timespec="seconds") if context.json else now.strftime("%d.%m.%Y %H:%M:%S %z"),))


@command("/sleep", permission=_CONSOLE, examples=("sleep 0.1",))
async def sleep(context: Context, seconds: Annotated[float, SECONDS]) -> Lines:
    """Wait; Ctrl-C ends the wait."""
    end = monotonic() + seconds
    while (left := end - monotonic()) > 0:
        await asyncio.sleep(min(left, _PROGRESS_SECONDS))
        context.progress(min(seconds, seconds - left + _PROGRESS_SECONDS), seconds, "s")
    return Lines()


@command("/echo", permission=_CONSOLE, examples=('echo "two  words" and more',))
async def echo(context: Context, *text: Annotated[str, TEXT]) -> Lines:  # noqa: ARG001  every handler takes a context
    """Print the words."""
    return Lines((" ".join(text),))


@command("/exit", permission=_CONSOLE, examples=("exit", "exit 3"), also=("quit", "logout"))
async def exit_(context: Context, status: Annotated[int, STATUS] = 0) -> Exit:  # noqa: ARG001
    """End the session, with an exit status."""
    return Exit(status)


async def _directory(context: Context, path: str) -> Found:
    """Return the directory at a path, with the declared names of its places. Raises CommandError."""
    refusal = CommandError(with_foreign(f"there is no directory {path}", path))
    for start in starts(context.location, path):
        location, _ = locate(path, start)
        found = walk(context.services.root, location)
        if found is None:
            continue
        if found.command is not None:
            refusal = CommandError(f"{path} is a command, not a directory")
            continue
        try:
            return found.renamed([await _declared(context, place.kind, text) for place, text in found.places])
        except CommandError as missing:
            refusal = missing
    raise refusal


async def _declared(context: Context, kind: Kind, text: str) -> str:
    return text if kind.place_names is None else await kind.place_names.declared(context, text)


def _overview(context: Context) -> Overview:
    """Return the help on the console, which fits one screen of 80x24."""
    root, found = context.services.root, walk(context.services.root, context.location)
    here = found.directory if found is not None else root
    named = [("everywhere", ", ".join(each.name for each in _offered_commands(context, root)))]
    if here is not root:
        inside = [name for name, _ in _offered_directories(context, here)]
        named.insert(0, ("here", ", ".join([*inside, *(each.name for each in _offered_commands(context, here))])))
    sections = (
        Section(_SHAPE, _WALKING),
        Section("Directories of the root", _offered_directories(context, root)),
        Section("Commands", tuple(named)),
    )
    return Overview((), sections)


def _inside(context: Context, directory: Directory) -> Section:
    commands = ((usage(each), each.summary) for each in _offered_commands(context, directory))
    return Section("Here", (*_offered_directories(context, directory), *commands))


def _offered_directories(context: Context, directory: Directory) -> tuple[tuple[str, str], ...]:
    named = sorted(directory.directories.items())
    inside = [(f"{name}/", each.help) for name, each in named if offered(each, context.operator)]
    if directory.place is not None and directory.inside is not None:
        inside.append((f"{directory.place.kind.metavar}/", directory.inside.help))
    return tuple(inside)


def _offered_commands(context: Context, directory: Directory) -> list[Command]:
    """Return the permitted commands of a directory, without synonyms."""
    visible = {each.path: each for each in directory.commands.values() if context.operator.may(each.permission)}
    return [each for _, each in sorted(visible.items())]


DIRECTORIES = {"/": "The start of every session. Its commands work in every directory."}
COMMANDS = (cd, ls, pwd, help_, history_, whoami, date, sleep, echo, exit_)
