"""Who may do what: users, their roles, and the permissions that commands ask for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

_USER_NAME = re.compile(r"[a-z][a-z0-9._-]{0,31}")


class Permission(Enum):
    """What a command asks for; exactly one stands in every declaration. The value is what help and audit say."""

    CONSOLE = "console"
    DOMAINS_READ = "domains.read"
    DOMAINS_CHANGE = "domains.change"
    INTEGRATIONS_READ = "integrations.read"
    INTEGRATIONS_CHANGE = "integrations.change"
    AUDIT_READ = "audit.read"
    #: Not asked for by a command: whether replies show API keys in full.
    KEYS_REVEAL = "keys.reveal"

    @property
    def changes(self) -> bool:
        """Whether a command under this permission changes something, and so leaves an audit row with the change."""
        return self.value.endswith(".change")


class Role(Enum):
    """What a user is; the value is what `user add --role` takes."""

    ADMIN = "admin"
    OPERATOR = "operator"
    VIEWER = "viewer"


#: Deny by default: what does not stand here is refused.
PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.ADMIN: frozenset(Permission),
    Role.OPERATOR: frozenset(
        {
            Permission.CONSOLE,
            Permission.DOMAINS_READ,
            Permission.INTEGRATIONS_READ,
            Permission.INTEGRATIONS_CHANGE,
            Permission.KEYS_REVEAL,
        }
    ),
    Role.VIEWER: frozenset({Permission.CONSOLE, Permission.DOMAINS_READ, Permission.INTEGRATIONS_READ}),
}


@dataclass(frozen=True, slots=True)
class User:
    """One user as the store keeps it. `public_keys` are `algorithm base64`; no `password_hash` means no password."""

    name: str
    role: Role
    password_hash: str | None
    public_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Operator:
    """Who is at the other end of one session: for the prompt, the gate and the audit.

    `source` is `address:port` of the client, `session_id` is unique on this node.
    """

    name: str
    role: Role
    source: str
    session_id: str

    def may(self, permission: Permission) -> bool:
        """Tell whether the operator's role has the permission."""
        return permission in PERMISSIONS[self.role]


def parse_user_name(text: str) -> str:
    """Return the user name; raises ValueError with what would be right (`+` introduces login options)."""
    if not _USER_NAME.fullmatch(text):
        message = "a user name is 1 to 32 of a-z 0-9 . _ - and begins with a letter"
        raise ValueError(message)
    return text
