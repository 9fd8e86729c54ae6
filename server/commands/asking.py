"""Ask other nodes on behalf of an operator."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches

from server.commands.context import Context
from server.commands.node_messages import Question, read_answer
from server.errors import CommandError, OperatorError, TemporaryError
from server.model.names import first_named, with_foreign
from server.model.nodes import Member, NodeState
from server.render.reply import Table


def no_such_nodes(names: Sequence[str], members: Sequence[Member]) -> CommandError:
    """Return the error for names that no node has, with a similar name when one is near."""
    known = [member.name for member in members]
    near = [found for name in names[:1] for found in get_close_matches(name, known, n=1)]
    meant = tuple(f"Did you mean {name}?" for name in near)
    message = f"there is no node {first_named(names)}"
    return CommandError(with_foreign(message, names[0]), *meant)


def unanswered(names: Sequence[str]) -> TemporaryError:
    """Return the error for nodes that did not answer."""
    whose, which = ("its state", "it is") if len(names) == 1 else ("their states", "they are")
    message = f"{first_named(names)} did not answer; node/list shows {whose}, try again when {which} up"
    return TemporaryError(message)


async def ask(
    context: Context, words: Sequence[str], members: Collection[Member]
) -> Mapping[str, Table | OperatorError]:
    """Run a line on other nodes, and return their replies by name; only live nodes are asked.

    `words` begin with the absolute path of a command that is declared with `on_nodes`.
    """
    services, operator = context.services, context.operator
    live = [member.name for member in members if member.state is NodeState.UP]
    question = Question(
        words=tuple(words),
        user=operator.name,
        added_at=operator.added_at,
        source=operator.source,
        session_id=operator.session_id,
        node=services.node_name,
        json=context.json,
    ).text()
    answers: dict[str, Table | OperatorError] = {}
    for name, text in (await services.cluster.ask(live, question) if live else {}).items():
        await context.share.turn_for(text)
        answers[name] = read_answer(text)
    return answers
