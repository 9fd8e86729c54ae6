"""The commands, one file per noun. A module lists its `COMMANDS`; importing it registers nothing."""

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


def command_tree() -> Directory:
    """Build the tree of all commands."""
    return build_tree(COMMANDS)
