"""The global commands: they move through the tree and tell of it, and work everywhere."""

from __future__ import annotations

import asyncio
from datetime import datetime
from time import monotonic
from typing import Annotated

from server.commands.call import Call
from server.commands.domains import admit_to_domain, no_such_domain
from server.commands.kinds import DIRECTORY, PATH, SECONDS, STATUS, TEXT
from server.errors import CommandError
from server.grammar.declare import command
from server.grammar.explain import page, usage
from server.grammar.filters import FILTERS
from server.grammar.tree import Directory, Found, find, locate, offered, shown, starts, walk
from server.model.access import Permission
from server.model.domains import folded
from server.render.reply import Help, Left, Lines, Moved, Overview, Section
from server.storage import domains, history

_CONSOLE = Permission.CONSOLE
_PROGRESS_SECONDS = 1.0
_INTRODUCTION = (
    "Commands form a tree that is walked like a file system: a directory groups, a command runs.",
    "A command is reached by its path from the root or from here, as in domain/list, or after cd as list.",
    "The commands under Everywhere work in every directory. Tab completes; COMMAND --help explains.",
    "Behind any command: | " + ", | ".join(each.usage for each in FILTERS) + ".",
)


@command("/cd", permission=_CONSOLE, examples=("cd domain/biysk.local/integrations\ncd ..\npwd",))
async def cd(call: Call, path: Annotated[str, DIRECTORY] = "/") -> Moved:
    """Change the current directory; without a path, to the root."""
    found = await _directory(call, path)
    return Moved(found.location)


@command("/ls", permission=_CONSOLE, examples=("ls", "ls domain"))
async def ls(call: Call, path: Annotated[str, DIRECTORY] = ".") -> Lines:
    """List a directory: its directories with a trailing /, then its commands."""
    directory = (await _directory(call, path)).directory
    names = [name for name, inside in directory.directories.items() if offered(inside, call.operator)]
    if directory.place is not None and call.operator.may(Permission.DOMAINS_READ):
        names += [each.name for each in await domains.every(call.store) if call.operator.reaches(each.name)]
    commands = (name for name, each in directory.commands.items() if call.operator.may(each.permission))
    return Lines((*(f"{name}/" for name in sorted(names)), *sorted(commands)))


@command("/pwd", permission=_CONSOLE, examples=("pwd",))
async def pwd(call: Call) -> Lines:
    """Print the current directory."""
    return Lines((shown(call.here),))


@command("/help", permission=_CONSOLE, examples=("help domain",), also=("man",))
async def help_(call: Call, path: Annotated[str, PATH] = "") -> Help | Overview:
    """Explain a command or a directory; without a path, the console."""
    if not path:
        return _overview(call, walk(call.console.root, call.here), _INTRODUCTION)
    found = find(call.console.root, call.here, path)
    if found is None:
        message = f"there is no command or directory {path}"
        raise CommandError(message)
    if found.command is not None:
        return Help(page(found.command))
    return _overview(call, found, (f"Directory {shown(found.location)}",))


@command("/history", permission=_CONSOLE, examples=("whoami\nhistory",))
async def history_(call: Call) -> Lines:
    """List what you typed, the oldest first: earlier interactive sessions, then this one."""
    earlier = await history.lines(call.store, call.operator.name)
    lines = [*earlier, *call.console.journal.lines_waiting(call.operator.name), *call.typed]
    return Lines([f"{number:5}  {line}" for number, line in enumerate(lines, 1)])


@command("/whoami", permission=_CONSOLE, examples=("whoami",))
async def whoami(call: Call) -> Lines:
    """Print the name you are logged in with."""
    return Lines((call.operator.name,))


@command("/date", permission=_CONSOLE, examples=("date",))
async def date(call: Call) -> Lines:
    """Print the node's local time."""
    now = datetime.now().astimezone()
    return Lines((now.isoformat(timespec="seconds") if call.json else now.strftime("%d.%m.%Y %H:%M:%S %z"),))


@command("/sleep", permission=_CONSOLE, examples=("sleep 0.1",))
async def sleep(call: Call, seconds: Annotated[float, SECONDS]) -> Lines:
    """Wait; Ctrl-C ends the wait."""
    end = monotonic() + seconds
    while (left := end - monotonic()) > 0:
        await asyncio.sleep(min(left, _PROGRESS_SECONDS))
        call.progress(min(seconds, seconds - left + _PROGRESS_SECONDS), seconds, "s")
    return Lines()


@command("/echo", permission=_CONSOLE, examples=('echo "two  words" and more',))
async def echo(call: Call, *text: Annotated[str, TEXT]) -> Lines:  # noqa: ARG001  every handler takes its call
    """Print the words."""
    return Lines((" ".join(text),))


@command("/exit", permission=_CONSOLE, examples=("exit", "exit 3"), also=("quit",))
async def exit_(call: Call, status: Annotated[int, STATUS] = 0) -> Left:  # noqa: ARG001
    """End the session, with an exit status."""
    return Left(status)


async def _directory(call: Call, path: str) -> Found:
    """Return the directory that a path leads to, with stored domains only, by their stored names."""
    refusal = CommandError(f"there is no directory {path}")
    for start in starts(call.here, path):
        location, _ = locate(path, start)
        found = walk(call.console.root, location)
        if found is None:
            continue
        if found.command is not None:
            refusal = CommandError(f"{path} is a command, not a directory")
            continue
        for _, text in found.places:
            admit_to_domain(call.operator, folded(text))
        stored = {text: await _stored_name(call, text) for _, text in found.places}
        missing = next((text for text, name in stored.items() if name is None), None)
        if missing is None:
            names = (stored.get(segment) or segment for segment in found.location)
            return Found(tuple(names), found.places, found.directory)
        refusal = no_such_domain(missing)
    raise refusal


async def _stored_name(call: Call, text: str) -> str | None:
    domain = await domains.find(call.store, folded(text))
    return domain.name if domain else None


def _overview(call: Call, found: Found | None, introduction: tuple[str, ...]) -> Overview:
    directory = found.directory if found is not None else call.console.root
    root = call.console.root
    sections = []
    if directory is not root:
        sections.append(Section("Here", _entries(call, directory)))
    else:
        sections.append(Section("Directories", _entries(call, directory, commands=False)))
    sections.append(Section("Everywhere", _entries(call, root, directories=False)))
    return Overview(introduction, tuple(sections))


def _entries(
    call: Call, directory: Directory, *, directories: bool = True, commands: bool = True
) -> tuple[tuple[str, str], ...]:
    entries = []
    if directories:
        inside = (name for name, each in directory.directories.items() if offered(each, call.operator))
        names = [*sorted(inside), *([directory.place.kind.metavar] if directory.place else [])]
        entries += [(f"{name}/", "directory") for name in names]
    if commands:
        visible = {each.path: each for each in directory.commands.values() if call.operator.may(each.permission)}
        entries += [(usage(each), each.summary) for _, each in sorted(visible.items())]
    return tuple(entries)


COMMANDS = (cd, ls, pwd, help_, history_, whoami, date, sleep, echo, exit_)
