"""The commands, one module per noun.

Each module declares its `COMMANDS` and the help of its `DIRECTORIES`.
"""

from __future__ import annotations

from server.commands import audit, console, domains, exports, integrations, node, sessions, user_keys, users
from server.grammar.declare import Command
from server.grammar.tree import Directory, build_tree

COMMANDS: tuple[Command, ...] = (
    *console.COMMANDS,
    *domains.COMMANDS,
    *integrations.COMMANDS,
    *exports.COMMANDS,
    *users.COMMANDS,
    *user_keys.COMMANDS,
    *sessions.COMMANDS,
    *audit.COMMANDS,
    *node.COMMANDS,
)
#: The help text of each directory, by path.
DIRECTORIES: dict[str, str] = {
    "/cocon": "This console: its users, its sessions and its audit.",
    **console.DIRECTORIES,
    **domains.DIRECTORIES,
    **integrations.DIRECTORIES,
    **users.DIRECTORIES,
    **user_keys.DIRECTORIES,
    **sessions.DIRECTORIES,
    **audit.DIRECTORIES,
    **node.DIRECTORIES,
}
_ROOT = build_tree(COMMANDS, DIRECTORIES)  # at import, so that a missing or duplicate declaration fails at once


def command_tree() -> Directory:
    """Return the read-only tree of all commands."""
    return _ROOT
