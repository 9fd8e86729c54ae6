"""The tree of commands: directories contain commands, like files. The root's commands work everywhere.

Names are never abbreviated. A place (`<DOMAIN>`) takes any segment that is not a fixed name of its directory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from server.grammar.declare import Argument, Command, place_of
from server.model.access import Operator

#: A place in the tree as the operator sees it: `("domain", "biysk.local")` is `/domain/biysk.local`.
Location = tuple[str, ...]


@dataclass
class Directory:
    """One directory. `place` and `inside` are set when it has a place, as in `/domain/<DOMAIN>`."""

    help: str
    commands: dict[str, Command] = field(default_factory=dict)
    directories: dict[str, Directory] = field(default_factory=dict)
    place: Argument | None = None
    inside: Directory | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The target of a path: a command, or a directory. `places` are those on the way, with their words.

    `depths` are the indexes of these words in the location.
    """

    location: Location
    places: tuple[tuple[Argument, str], ...]
    directory: Directory
    command: Command | None = None
    depths: tuple[int, ...] = ()

    def renamed(self, words: Sequence[str]) -> Found:
        """Return a copy with other words for its places."""
        location = list(self.location)
        for depth, word in zip(self.depths, words, strict=True):
            location[depth] = word
        places = tuple((place, word) for (place, _), word in zip(self.places, words, strict=True))
        return replace(self, location=tuple(location), places=places)

    @property
    def bound(self) -> dict[str, str]:
        """The words of the places, by parameter name."""
        return {place.name: text for place, text in self.places}


def offered(directory: Directory, operator: Operator) -> bool:
    """Tell whether the operator may run a command in the directory, at any depth."""
    below = [*directory.directories.values(), *([directory.inside] if directory.inside else [])]
    return any(operator.may(each.permission) for each in directory.commands.values()) or any(
        offered(each, operator) for each in below
    )


def build_tree(commands: Sequence[Command], descriptions: Mapping[str, str]) -> Directory:
    """Build the tree and return its root. `descriptions` are those of the directories, by declared path.

    Raises TypeError when two declarations have the same path, or when directories and descriptions do not match.
    """
    _check_descriptions(commands, descriptions)
    root = Directory(descriptions["/"])
    for command in commands:
        directory = root
        for depth, segment in enumerate(command.directory, 1):
            directory = _descend(directory, segment, command, descriptions[shown(command.directory[:depth])])
        for name in (command.name, *command.also):
            if name in directory.commands or name in directory.directories:
                message = f"{command.path} is declared twice"
                raise TypeError(message)
            directory.commands[name] = command
    return root


def _check_descriptions(commands: Sequence[Command], descriptions: Mapping[str, str]) -> None:
    needed = {shown(each.directory[:depth]) for each in commands for depth in range(len(each.directory) + 1)}
    for path in sorted(needed ^ {path for path, text in descriptions.items() if text}):
        what = "a directory needs a description" if path in needed else "described, and no command is there"
        message = f"{path}: {what}"
        raise TypeError(message)


def _descend(directory: Directory, segment: str, command: Command, description: str) -> Directory:
    place = place_of(segment)
    if place is None:
        return directory.directories.setdefault(segment, Directory(description))
    if directory.inside is None:
        directory.place, directory.inside = command.places[place], Directory(description)
    return directory.inside


def locate(path: str, here: Location) -> tuple[Location, bool]:
    """Return the location of a path from here, and whether it must be a directory (`a/`, `..`, `/`)."""
    segments = path.split("/")
    location = [] if path.startswith("/") else list(here)
    for segment in segments:
        if segment == "..":
            del location[-1:]
        elif segment not in {"", "."}:
            location.append(segment)
    return tuple(location), segments[-1] in {"", ".", ".."}


def walk(root: Directory, location: Location) -> Found | None:
    """Follow a location from the root; None when it cannot exist.

    Does not check whether a domain is stored.
    """
    directory, places, depths, names = root, list[tuple[Argument, str]](), list[int](), list[str]()
    for index, segment in enumerate(location):
        if index == len(location) - 1 and segment in directory.commands:
            command = directory.commands[segment]
            return Found((*names, segment), tuple(places), directory, command, tuple(depths))
        if segment in directory.directories:
            directory = directory.directories[segment]
        elif directory.inside is not None and directory.place is not None:
            places.append((directory.place, segment))
            depths.append(index)
            directory = directory.inside
        else:
            return None
        names.append(segment)
    return Found(tuple(names), tuple(places), directory, depths=tuple(depths))


def starts(here: Location, path: str) -> tuple[Location, ...]:
    """Return the directories that a path may start from.

    An absolute path starts at the root, a path with dots here. Any other starts here, or else at the root: so scripts
    may omit the leading `/` anywhere, and the root's commands work everywhere (source: cocon-facts).
    """
    return (here,) if path.startswith(("/", ".")) or not here else (here, ())


def find(root: Directory, here: Location, path: str) -> Found | None:
    """Find the target of a line's first word, or of `help`: a command, else a directory."""
    directory = None
    for start in starts(here, path):
        location, is_directory = locate(path, start)
        found = walk(root, location)
        if found is not None and found.command is not None and not is_directory:
            return found
        if found is not None and found.command is None:
            directory = directory or found
    return directory


def commands_below(root: Directory) -> list[Command]:
    """Return every command once, sorted by path."""
    found: dict[str, Command] = {}
    todo = [root]
    while todo:
        directory = todo.pop()
        found.update({command.path: command for command in directory.commands.values()})
        todo.extend(directory.directories.values())
        if directory.inside is not None:
            todo.append(directory.inside)
    return [found[path] for path in sorted(found)]


def shown(location: Location) -> str:
    """Return a location in the form of the prompt and `pwd`: `/domain/biysk.local`, or `/` for the root."""
    return "/" + "/".join(location)
