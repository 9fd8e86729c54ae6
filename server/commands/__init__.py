"""The commands, one file per noun. Each module lists its `COMMANDS` and describes their `DIRECTORIES`."""

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
#: The description of each directory, by path.
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
_ROOT = build_tree(COMMANDS, DIRECTORIES)  # built here, so that a missing or double declaration is an error at import


def command_tree() -> Directory:
    """Return the tree of all commands, which is read-only."""
    return _ROOT
