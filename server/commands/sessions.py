"""List and end open sessions: `/cocon/session/`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from server.commands.context import CompletionContext, Context
from server.errors import CommandError
from server.grammar.declare import Kind, command
from server.model.access import Permission, Role
from server.model.names import with_foreign
from server.model.sessions import OpenSession
from server.render.reply import Column, Lines, Table
from server.storage import users

_HERE = "/cocon/session/"
_EXAMPLE = "cocon/session/"
_COLUMNS = (
    Column("session", "Session"),
    Column("user", "User"),
    Column("role", "Role"),
    Column("source", "From"),
    Column("since", "Since", lambda since: since.strftime("%d.%m.%Y %H:%M:%S")),
    Column("idle_seconds", "Idle", lambda idle: "runs" if idle is None else f"{idle} s"),
    Column("shells", "Shells"),
)


async def _open_sessions(context: CompletionContext, _arguments: Mapping[str, Any], beginning: str) -> list[str]:
    return [each.session_id for each in context.services.sessions.every() if each.session_id.startswith(beginning)]


SESSION = Kind("<SESSION>", "id of an open session, as session/list shows it", str, _open_sessions)


@command(_HERE + "list", permission=Permission.SESSIONS_READ, examples=(_EXAMPLE + "list",), on_nodes=True)
async def list_(context: Context) -> Table:
    """List the logins that are open on this node, the oldest first; with --on, those on other nodes."""
    roles = {each.name: each.role for each in await users.every(context.store)}
    return Table(
        _COLUMNS, [_row(each, roles.get(each.user_name, each.role)) for each in context.services.sessions.every()]
    )


@command(
    _HERE + "kill",
    permission=Permission.SESSIONS_KILL,
    examples=(_EXAMPLE + "kill 00000000",),
    on_nodes=True,
)
async def kill(context: Context, session: Annotated[str, SESSION]) -> Lines:
    """End a session on this node: interrupt its commands, tell its client and disconnect it.

    With --on all, the session ends on whichever node it is.
    """
    context.will(f"end session {session}")
    sessions = context.services.sessions
    if context.check:
        found = any(each.session_id == session for each in sessions.every())
    else:
        found = sessions.end(session, f"ended by {context.operator.name}")
    if not found:
        message = with_foreign(f"there is no session {session}", session)
        raise CommandError(message)
    return Lines((f"Session {session} ended",))


def _row(session: OpenSession, role: Role) -> tuple[object, ...]:
    idle = None if session.idle_seconds is None else int(session.idle_seconds)
    return (session.session_id, session.user_name, role.value, session.source, session.since, idle, session.shells)


DIRECTORIES = {"/cocon/session": "The logins that are open on this node."}
COMMANDS = (list_, kill)
