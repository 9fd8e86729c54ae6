"""Usage lines, help pages and complaints, as data for the renderers and the generated docs."""

from __future__ import annotations

from dataclasses import dataclass

from server.grammar.declare import CHECK, Argument, Command, Option
from server.grammar.match import Incomplete, Invalid, Unknown
from server.model.names import foreign


@dataclass(frozen=True, slots=True)
class Page:
    """The help of one command. `words` and `options` are pairs of a word and its explanation."""

    path: str
    usage: str
    summary: str
    details: str
    words: tuple[tuple[str, str], ...]
    options: tuple[tuple[str, str], ...]
    permission: str


def usage(command: Command) -> str:
    """Return the syntax in the reference's notation.

    Example: `add <ClientId> [--widget] [--service [--numbers <Range>]]`. Only the help page shows `--check`,
    because every command that changes something takes it.
    """
    words = [command.name, *(_argument_usage(argument) for argument in command.arguments)]
    shown = [option for option in command.options if option is not CHECK and not option.relation.needs]
    words += [_option_usage(command, option) for option in shown]
    return " ".join(words)


def usage_hint(command: Command | None) -> str:
    """Return the `Usage: …` line of an argument error; the general syntax for a line without a command."""
    return f"Usage: {usage(command)}" if command else "Usage: PATH [ARGUMENT …] [--OPTION [VALUE] …]"


def page(command: Command) -> Page:
    """Return the help page of a command."""
    takers = (*command.places.values(), *command.arguments)
    return Page(
        path=command.path,
        usage=usage(command),
        summary=command.summary,
        details=command.details,
        words=tuple((taker.kind.metavar, taker.kind.expected) for taker in takers),
        options=tuple((_option_words(option), _option_help(option)) for option in command.options),
        permission=command.permission.value,
    )


def complaint(outcome: Incomplete | Invalid | Unknown) -> tuple[str, tuple[str, ...]]:
    """Return the message for a line that cannot run, and its hints, such as `Did you mean …?`."""
    if isinstance(outcome, Unknown):
        hidden = foreign(outcome.word)
        seen = (f"It has {hidden}, which no command has.",) if hidden else ()
        absent = (f"There is no {outcome.absent}.",) if outcome.absent else ()
        return outcome.word, (*seen, *absent, *([f"Did you mean {outcome.near}?"] if outcome.near else []))
    return outcome.message, (usage_hint(outcome.command),)


def _argument_usage(argument: Argument) -> str:
    word = argument.kind.metavar + ("…" if argument.repeated else "")
    return word if argument.required else f"[{word}]"


def _option_usage(command: Command, option: Option) -> str:
    inner = [_option_usage(command, other) for other in command.options if other.relation.needs == option.name]
    return f"[{' '.join((_option_words(option), *inner))}]"


def _option_words(option: Option) -> str:
    return f"{option.word} {option.kind.metavar}" if option.kind else option.word


def _option_help(option: Option) -> str:
    return f"{option.relation.help}: {option.kind.expected}" if option.kind else option.relation.help
