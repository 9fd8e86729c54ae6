"""Access rights: users, their roles, and the permissions that commands require."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from server.addresses import lets_in
from server.model.domains import folded
from server.model.names import refusal

_MOST_CHARACTERS = 32
_USER_NAME = re.compile(rf"[a-z][a-z0-9._-]{{0,{_MOST_CHARACTERS - 1}}}")


class Permission(Enum):
    """The permission that a command requires. Every declaration has one. Help and audit show the value."""

    CONSOLE = "console"
    PASSWORD_CHANGE = "password.change"  # noqa: S105  a permission, not a password
    DOMAINS_READ = "domains.read"
    DOMAINS_CHANGE = "domains.change"
    INTEGRATIONS_READ = "integrations.read"
    INTEGRATIONS_CHANGE = "integrations.change"
    AUDIT_READ = "audit.read"
    #: Required by options and replies: shows API keys in full.
    KEYS_REVEAL = "keys.reveal"
    USERS_READ = "users.read"
    USERS_CHANGE = "users.change"
    SESSIONS_READ = "sessions.read"
    SESSIONS_KILL = "sessions.kill"
    NODE_READ = "node.read"

    @property
    def changes(self) -> bool:
        """Whether commands with this permission change the store; the change then has an audit record."""
        return self.value.endswith(".change")

    @property
    def checks(self) -> bool:
        """Whether commands with this permission take `--check`: all that change something do."""
        return self.changes or self is Permission.SESSIONS_KILL


class Role(StrEnum):
    """The role of a user; the value is the word of `user add --role`."""

    ADMIN = "admin"
    OPERATOR = "operator"
    VIEWER = "viewer"


_EVERYBODY = frozenset({Permission.CONSOLE, Permission.PASSWORD_CHANGE, Permission.DOMAINS_READ})
#: Permissions that are not listed here are denied.
PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.ADMIN: frozenset(Permission),
    Role.OPERATOR: _EVERYBODY | {Permission.INTEGRATIONS_READ, Permission.INTEGRATIONS_CHANGE, Permission.KEYS_REVEAL},
    Role.VIEWER: _EVERYBODY | {Permission.INTEGRATIONS_READ},
}


@dataclass(frozen=True, slots=True)
class UserKey:
    """A public key of a user: `public_key` is `algorithm base64`, `expires_at` is UTC in ISO 8601.

    The key works from the networks in `sources`, or from everywhere if empty; `!` before one excludes it.
    """

    public_key: str
    comment: str = ""
    sources: tuple[str, ...] = ()
    expires_at: str | None = None

    def __str__(self) -> str:
        return self.public_key

    def opens(self, address: str, now: str) -> bool:
        """Tell whether the key is valid for this address at this time (source: sshd(8), `from=`)."""
        if self.expires_at is not None and self.expires_at <= now:
            return False
        return not self.sources or lets_in(self.sources, address)


@dataclass(frozen=True, slots=True)
class User:
    """A user as it is stored. No `password_hash` means no password; times are UTC in ISO 8601.

    `domains` are those granted to an operator or viewer: declared names by folded names. An admin needs none.
    """

    name: str
    role: Role
    password_hash: str | None
    keys: tuple[UserKey, ...]
    locked: bool = False
    expires_at: str | None = None
    must_change_password: bool = False
    domains: Mapping[str, str] = field(default_factory=dict)
    added_at: str = ""

    def shut_out(self, now: str) -> ShutOut | None:
        """Return why the user may not log in at this time; None when the user may."""
        return shut_out(self.expires_at, now, locked=self.locked)


class ShutOut(StrEnum):
    """Why a user may not log in with any credential; commands show the value."""

    LOCKED = "locked"
    EXPIRED = "expired"


def shut_out(expires_at: str | None, now: str, *, locked: bool) -> ShutOut | None:
    """Return why a user with these properties may not log in; None when the user may."""
    if locked:
        return ShutOut.LOCKED
    if expires_at is not None and expires_at <= now:
        return ShutOut.EXPIRED
    return None


@dataclass(frozen=True, slots=True)
class Operator:
    """The user of one session, as the prompt, the authorization and the audit need it.

    `source` is `address:port` of the client, `session_id` is unique on this node, `domains` are those of the `User`.
    `added_at` tells the user from an earlier or later one with the same name.
    """

    name: str
    role: Role
    source: str
    session_id: str
    domains: Mapping[str, str] = field(default_factory=dict)
    added_at: str = ""

    def may(self, permission: Permission) -> bool:
        """Tell whether the operator's role has the permission."""
        return permission in PERMISSIONS[self.role]

    def reaches(self, domain: str) -> bool:
        """Tell whether a domain is granted, in any case, whether it exists or not; an admin has all."""
        return self.role is Role.ADMIN or folded(domain) in self.domains


def parse_user_name(text: str) -> str:
    """Return the user name. Raises ValueError with the rule; `+` is excluded, as it begins login options."""
    if not _USER_NAME.fullmatch(text):
        rule = "a user name is 1 to 32 of a-z 0-9 . _ - and begins with a letter"
        raise refusal(rule, text, r"a-z0-9._-", _MOST_CHARACTERS)
    return text


def shown_time(at: str | None) -> str:
    """Return a stored time for display: `2030-12-31 00:00:00Z`, or `never`."""
    return f"{at[:19].replace('T', ' ')}Z" if at else "never"
