"""Run one command on several nodes with `--on`, and merge their replies into one table."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from server.commands.asking import ask, no_such_nodes, unanswered
from server.commands.context import Context
from server.errors import InternalError, OperatorError, TemporaryError
from server.grammar.declare import ON, Command
from server.grammar.match import Words, sort_words
from server.model.nodes import Member, NodeChoice, NodeState
from server.render.merging import as_table, merged
from server.render.reply import Table
from server.shell.execution import log_incident, run_authorized
from server.shell.response import Result


async def run_on_nodes(context: Context, choice: NodeChoice) -> Result:
    """Run the command on the chosen nodes, at the same time; their replies become one table.

    A node that does not answer makes the result incomplete. An error of one node is a row when another node has
    succeeded; else the first error is raised.
    """
    await context.authorize()
    members = await context.services.cluster.members()
    own = context.services.node_name
    chosen = _chosen(choice, members, own)
    others = [member for member in chosen if member.name != own]
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(_asked(context, others)) if others else None
        replies = {member.name: await _own_reply(context) for member in chosen if member.name == own}
    answers = asking.result() if asking else {}
    error = answers if isinstance(answers, OperatorError) else None
    replies |= {} if isinstance(answers, OperatorError) else answers
    silent = [member.name for member in chosen if member.name not in replies]
    if silent and error is None:
        error = unanswered(silent)
    failures = [each for _, each in sorted(replies.items()) if isinstance(each, OperatorError)]
    labels = tuple(member.label for member in chosen if member.name in replies)
    if error is None and len(failures) == len(replies):
        failures[0].nodes = labels
        raise failures[0]
    return Result(await merged(replies, context.share), error, nodes=labels)


def _chosen(choice: NodeChoice, members: Sequence[Member], own: str) -> list[Member]:
    """Return the chosen nodes. `all` leaves out stopped nodes. Raises CommandError for unknown names."""
    if not choice.names:
        return [member for member in members if member.state is not NodeState.STOPPED or member.name == own]
    known = {member.name for member in members}
    if unknown := [name for name in choice.names if name not in known]:
        raise no_such_nodes(unknown, members)
    return [member for member in members if member.name in choice.names]


async def _own_reply(context: Context) -> Table | OperatorError:
    """Run the command here. A failure here must not hide the replies of other nodes."""
    try:
        return await as_table(await run_authorized(context), context.share)
    except OperatorError as error:
        return error
    except Exception:  # noqa: BLE001  a defect of the handler
        return InternalError(log_incident(f"{context.command.path} of {context.operator.name}"))


async def _asked(context: Context, others: Sequence[Member]) -> Mapping[str, Table | OperatorError] | OperatorError:
    try:
        return await ask(context, _words_without_on(context), others)
    except TemporaryError as error:
        names = unanswered([member.name for member in others])
        return TemporaryError(f"{names.message} ({error.message})")
    except OperatorError as error:
        return error


def _words_without_on(context: Context) -> list[str]:
    """Return the words of the line from the absolute path on, without `--on`, as another node can parse them."""
    command: Command = context.command
    words: Words = sort_words(command, context.request.line.words[1:])
    options = [_option_words(command, words, name) for name in words.values if name != ON.name]
    positional = ["--", *words.positional] if words.positional else []
    return [command.path, *(word for each in options for word in each), *positional]


def _option_words(command: Command, words: Words, name: str) -> list[str]:
    option = next(each for each in command.options if each.name == name)
    value = words.values[name]
    if isinstance(value, bool):
        return [option.word]
    return [f"{option.word}={value}", *words.more.get(name, ())]
