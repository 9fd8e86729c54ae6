"""One declaration per command: an async function whose signature is its grammar.

    @command("/domain/{domain}/integrations/remove", permission=Permission.INTEGRATIONS_CHANGE, examples=(…))
    async def remove(context: Context, domain: Annotated[str, DOMAIN], client_id: Annotated[…]) -> Lines:
        \"\"\"Remove an integration. Its key stops working at once.\"\"\"

A parameter named in the path is bound there; other positional parameters are arguments; keyword-only ones are
options (`bool` is a flag). The docstring is the help: its first line the summary, the rest the details. `examples` are
lines as typed in the root directory where `biysk.local` has the integrations `tester` and `servint`; `make docs` runs
them and keeps what they print. A command without help or example, or a parameter without a kind, is an error at import.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, Protocol, get_type_hints

from server.model.access import Permission
from server.model.nodes import chosen_beginnings, parse_node_choice

#: Looks up names: (completion context, arguments so far, beginning of the word) -> sorted names with that beginning.
Candidates = Callable[[Any, Mapping[str, Any], str], Awaitable[Sequence[str]]]
Handler = Callable[..., Awaitable[Any]]

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class PlaceNames(Protocol):
    """The stored names of a place in the tree, whose directories `ls` lists and `cd` enters.

    The context is that of the command which asks.
    """

    async def every(self, context: Any) -> Sequence[str]:  # noqa: ANN401  the grammar knows no contexts
        """Return the names that the operator may see."""

    async def declared(self, context: Any, text: str) -> str:  # noqa: ANN401
        """Return a name as it was declared. Raises CommandError for an unknown one."""


class PathTo(Enum):
    """The possible targets of a word that is a path in the command tree."""

    DIRECTORY = "directory"
    ANYTHING = "directory or command"


@dataclass(frozen=True)
class Kind:
    """A kind of word. `parse` raises ValueError with the mistake; `expected` describes a valid word.

    `secret` values are masked in the audit, and no history keeps a line of a command that takes one. `path_to` words
    complete as paths in the command tree. `granted` words name a domain: the command runs only for users who have the
    grant. `ignores_case` words are equal in upper and lower case. An option's value that begins with a word which
    `begins` accepts goes on up to the next option, like a public key without quotes. A kind for places in the tree has
    their `place_names`.
    """

    metavar: str
    expected: str
    parse: Callable[[str], Any]
    candidates: Candidates | None = None
    secret: bool = False
    path_to: PathTo | None = None
    granted: bool = False
    ignores_case: bool = False
    begins: Callable[[str], bool] | None = None
    place_names: PlaceNames | None = None


@dataclass(frozen=True)
class Relation:
    """The relation of an option to others of its command: it `needs` one, or `excludes` one.

    With the option, the command also requires `permission`.
    """

    help: str
    needs: str | None = None
    excludes: str | None = None
    permission: Permission | None = None


@dataclass(frozen=True)
class Argument:
    """A positional word of a command, or a place in its path (`in_path`)."""

    name: str
    kind: Kind
    required: bool
    repeated: bool = False
    in_path: bool = False


@dataclass(frozen=True)
class Option:
    """An option `--name` of a command. Without a kind it is a flag."""

    name: str
    kind: Kind | None
    relation: Relation

    @property
    def word(self) -> str:
        """The option as it is typed: `--add-domain-user-privileges`."""
        return "--" + self.name.rstrip("_").replace("_", "-")


#: An option of every command that changes something. Handlers do not see it.
CHECK = Option("check", None, Relation("validate, say what would change, and change nothing"))


async def _choices_of_nodes(context: Any, _arguments: Mapping[str, Any], beginning: str) -> Sequence[str]:  # noqa: ANN401
    return chosen_beginnings([member.name for member in await context.services.cluster.members()], beginning)


#: An option of commands that can run on other nodes. Handlers do not see it.
ON = Option(
    "on",
    Kind(
        "<NODE[,NODE…]|all>",
        "names as node/list shows them, separated by commas, or all",
        parse_node_choice,
        _choices_of_nodes,
    ),
    Relation("run on these nodes, and show their replies in one table"),
)


@dataclass(frozen=True)
class Command:
    """The declaration of one command. `path` names the places: `/domain/<DOMAIN>/integrations/add`.

    With `on_nodes` it also runs for the operators of other nodes.
    """

    name: str
    directory: tuple[str, ...]
    also: tuple[str, ...]
    summary: str
    details: str
    permission: Permission
    arguments: tuple[Argument, ...]
    options: tuple[Option, ...]
    examples: tuple[str, ...]
    run: Handler
    places: Mapping[str, Argument] = field(default_factory=dict)
    on_nodes: bool = False

    @cached_property
    def path(self) -> str:
        """The absolute path, with metavars for its places."""
        return "/" + "/".join((*(self.segment(name) for name in self.directory), self.name))

    @property
    def takes_secret(self) -> bool:
        """Whether a word or an option is secret. Then no history keeps its lines, valid or not."""
        takers: tuple[Argument | Option, ...] = (*self.arguments, *self.options)
        return any(taker.kind is not None and taker.kind.secret for taker in takers)

    def segment(self, name: str) -> str:
        """Return the shown form of a directory's segment: the metavar of a place, else the name."""
        found = _PLACEHOLDER.fullmatch(name)
        return self.places[found[1]].kind.metavar if found else name

    def option(self, word: str) -> Option | None:
        """Return the option for a typed word, if the command has it."""
        return next((option for option in self.options if option.word == word), None)


def place_of(segment: str) -> str | None:
    """Return the parameter's name for a segment that is a place (`{domain}`), else None."""
    found = _PLACEHOLDER.fullmatch(segment)
    return found[1] if found else None


def command(
    path: str, *, permission: Permission, examples: Sequence[str], also: Sequence[str] = (), on_nodes: bool = False
) -> Callable[[Handler], Command]:
    """Declare a command at `path`.

    `also` are synonyms in the same directory. An example may have several lines. `on_nodes` adds the option `--on`:
    such a command asks no question, reads no document, and returns a table, a record or lines. Raises TypeError when
    help, an example or a kind is missing, when a relation names an unknown option, or when `on_nodes` is wrong.
    """

    def declare(handler: Handler) -> Command:
        *directory, name = path.strip("/").split("/")
        summary, _, details = (inspect.getdoc(handler) or "").partition("\n")
        if not summary.strip():
            message = f"{path}: a command needs help, write its docstring"
            raise TypeError(message)
        if not examples:
            message = f"{path}: a command needs an example"
            raise TypeError(message)
        hints = get_type_hints(handler, include_extras=True)
        parameters = list(inspect.signature(handler).parameters.values())[1:]
        placed = {found for segment in directory if (found := place_of(segment))}
        if on_nodes and (permission.changes or placed):
            message = f"{path}: on_nodes is not for changes of the store, which all nodes share, nor for places in it"
            raise TypeError(message)
        if unplaced := placed - {parameter.name for parameter in parameters}:
            message = f"{path}: no parameter is called {', '.join(sorted(unplaced))}, as the path says"
            raise TypeError(message)
        words = [parameter for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY]
        arguments = tuple(_argument(path, parameter, hints, placed) for parameter in words)
        options = tuple(
            _option(path, parameter, hints) for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY
        )
        _check_relations(path, options)
        return Command(
            name=name,
            directory=tuple(directory),
            also=tuple(also),
            summary=summary.strip(),
            details=details.strip(),
            permission=permission,
            arguments=tuple(argument for argument in arguments if not argument.in_path),
            options=(*options, *([CHECK] if permission.checks else []), *([ON] if on_nodes else [])),
            examples=tuple(examples),
            run=handler,
            places={argument.name: argument for argument in arguments if argument.in_path},
            on_nodes=on_nodes,
        )

    return declare


def _annotated(hint: object, wanted: type) -> Any:  # noqa: ANN401  the metadata of Annotated is untyped
    return next((item for item in getattr(hint, "__metadata__", ()) if isinstance(item, wanted)), None)


def _argument(path: str, parameter: inspect.Parameter, hints: dict[str, Any], placed: set[str]) -> Argument:
    kind = _annotated(hints.get(parameter.name), Kind)
    if kind is None:
        message = f"{path}: parameter {parameter.name} has no kind"
        raise TypeError(message)
    return Argument(
        name=parameter.name,
        kind=kind,
        required=parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL,
        repeated=parameter.kind is parameter.VAR_POSITIONAL,
        in_path=parameter.name in placed,
    )


def _option(path: str, parameter: inspect.Parameter, hints: dict[str, Any]) -> Option:
    relation = _annotated(hints.get(parameter.name), Relation)
    kind = _annotated(hints.get(parameter.name), Kind)
    if relation is None or parameter.default is parameter.empty:
        message = f"{path}: option {parameter.name} needs help and a default"
        raise TypeError(message)
    if kind is None and parameter.default is not False:
        message = f"{path}: option {parameter.name} has no kind and is no flag"
        raise TypeError(message)
    return Option(parameter.name, kind, relation)


def _check_relations(path: str, options: tuple[Option, ...]) -> None:
    names = {option.name for option in options}
    for option in options:
        for other in (option.relation.needs, option.relation.excludes):
            if other is not None and other not in names:
                message = f"{path}: option {option.name} refers to {other}, which is not there"
                raise TypeError(message)
