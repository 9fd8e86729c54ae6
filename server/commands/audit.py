"""The audit commands: `/cocon/audit/`."""

from __future__ import annotations

import textwrap
from contextlib import suppress
from typing import Annotated

from server.audit.inspection import Exported
from server.audit.verify import certificate, findings, inspect, parse_head
from server.commands.context import Context
from server.commands.domains import DOMAIN
from server.errors import CommandError, TemporaryError
from server.escaping import escaped
from server.grammar.declare import Kind, Relation, command
from server.model.access import Permission, parse_user_name, shown_time
from server.model.events import EventKind
from server.model.integrations import parse_client_id
from server.render.reply import Column, Lines, Table
from server.storage import events
from server.storage.engine import Row, Value

_MOST_LISTED = 10_000
_LINE_COLUMNS = 100
_CODES = ", ".join(kind.value for kind in EventKind)


def _count(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(_MOST_LISTED)) else 0
    if not 1 <= number <= _MOST_LISTED:
        message = f"{text} is not a count; use 1 to {_MOST_LISTED}"
        raise ValueError(message)
    return number


def _code(text: str) -> str:
    if text not in {kind.value for kind in EventKind}:
        message = f"unknown kind of event {text}; use one of {_CODES}"
        raise ValueError(message)
    return text


COUNT = Kind("<N>", f"how many, 1 to {_MOST_LISTED}", _count)
EVENT = Kind("<CODE>", f"kind of event: {_CODES}", _code)
CLIENT = Kind("<CLIENT_ID>", "client id of an integration, also of a removed one", parse_client_id)
USER = Kind("<USER>", "name of a user, also of a removed one", parse_user_name)
HEAD = Kind("<[NODE=]SEQ:MAC>", "a head as verify printed it, of this node unless another one is named", parse_head)


def _in_lines(arguments: str) -> str:
    """Break long arguments into lines. The record of a start or a reload holds the whole configuration."""
    lines = textwrap.wrap(arguments, _LINE_COLUMNS, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def _on_one_line(value: Value) -> str:
    return escaped(str(value))


_COLUMNS = (
    Column("seq", "Seq", lambda seq: "" if seq is None else str(seq)),
    Column("at", "At", escaped),
    Column("node", "Node", escaped),
    Column("event", "Event", escaped),
    Column("user_name", "User", escaped),
    Column("source", "Source", escaped),
    Column("session_id", "Session", escaped),
    Column("command", "Command", escaped),
    Column("arguments", "Arguments", _in_lines),
    Column("status", "Status"),
    Column("detail", "Detail", escaped),
    Column("duration_ms", "Duration, ms"),
)


#: The columns of --brief, which help to find out why a key has stopped working.
_BRIEF = {"seq": "Seq", "at": "At", "event": "Event", "user_name": "User", "source": "Source", "status": "Status"}
_BRIEF_COLUMNS = (
    *(Column(key, title, shown_time if key == "at" else _on_one_line) for key, title in _BRIEF.items()),
    Column("what", "What", escaped),
)


@command(
    "/cocon/audit/list",
    permission=Permission.AUDIT_READ,
    examples=(
        "cocon/audit/list --last 5 --event change | count",
        "cocon/audit/list --domain biysk.local --client tester --event change --last 2 --brief",
    ),
)
async def list_(
    context: Context,
    *,
    last: Annotated[int, COUNT, Relation("number of records, 50 by default")] = 50,
    user: Annotated[str, USER, Relation("only of this user")] = "",
    event: Annotated[str, EVENT, Relation("only of this kind")] = "",
    domain: Annotated[str, DOMAIN, Relation("only commands on this domain")] = "",
    client: Annotated[str, CLIENT, Relation("only commands on integrations of this client id")] = "",
    brief: Annotated[bool, Relation("fewer columns: time, event, user, source, status, and a sentence")] = False,
) -> Table:
    """List the newest records of the audit, the newest last."""
    with suppress(TemporaryError):  # the store accepts no writes now, but stored records can be shown
        await context.services.journal.flush()
    wanted = {"user_name": user, "event": event}
    chosen = {column: value for column, value in wanted.items() if value}
    about = {name: value for name, value in {"domain": domain, "client_id": client}.items() if value}
    await context.share.keep_many(last)
    found = await events.newest(context.store, chosen, about, last, context.share)
    if not brief:
        return Table(_COLUMNS, found)
    return Table(_BRIEF_COLUMNS, [_in_brief(row) async for row in context.share.in_turns(found)])


def _in_brief(row: Row) -> tuple[Value, ...]:
    record = dict(zip((column.key for column in _COLUMNS), row, strict=True))
    command, detail = (str(record[key]) for key in ("command", "detail"))
    asked = f"{command} {record['arguments']}".removesuffix(" {}")
    what = (f"{command}: {detail}" if record["status"] else detail) if detail else asked
    return (*(record[key] for key in _BRIEF), what)


@command(
    "/cocon/audit/verify",
    permission=Permission.AUDIT_READ,
    examples=("cocon/audit/verify",),
)
async def verify(
    context: Context,
    *,
    head: Annotated[
        Exported | None, HEAD, Relation("also check that the audit was not rolled back to before this head")
    ] = None,
) -> Lines:
    """Check that no record was changed, dropped, inserted or moved since the console wrote it.

    Prints the head of each node. Keep it elsewhere: nothing inside the store can show that the whole store was rolled
    back, but a later check with --head can.
    """
    with suppress(TemporaryError):
        await context.services.journal.flush()
    exported = None if head is None else head.of(context.services.node_name)
    inspection = await inspect(
        context.store, exported, context.share, lambda done, total: context.progress(done, total, "records")
    )
    if inspection.findings:
        message = "the audit is not as it was written"
        raise CommandError(message, *findings(inspection))
    return Lines(certificate(inspection))


DIRECTORIES = {"/cocon/audit": "The audit records, and the check that none was changed."}
COMMANDS = (list_, verify)
