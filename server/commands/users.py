"""Users, their passwords and their domains: `/cocon/user/`.

Changed rights apply at once, even in open sessions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from server.audit.journal import utc_now
from server.auth.passwords import check_new_password, same_password
from server.commands.context import Context
from server.commands.domains import DOMAIN
from server.commands.kinds import DATE, NEW_USER, PUBLIC_KEY, ROLE, USER
from server.cooperative import TooManyWaitError
from server.errors import ArgumentError, CommandError, TemporaryError
from server.grammar.declare import Relation, command
from server.model.access import Permission, Role, User, UserKey, shown_time
from server.render.reply import Column, Lines, Table
from server.services import users as service
from server.storage import users

_HERE = "/cocon/user/"
_EXAMPLE = "cocon/user/"
_CHANGE = Permission.USERS_CHANGE
#: Delays password guessing in an open session.
_WRONG_PASSWORD_SECONDS = 1.0


_COLUMNS = (
    Column("user", "User"),
    Column("role", "Role"),
    Column("state", "State"),
    Column("password", "Password", lambda has: "yes" if has else "no"),
    Column("keys", "Keys"),
    Column("expires_at", "Expires", shown_time),
    Column("domains", "Domains", lambda names: "all" if names is None else "\n".join(names)),
)


@asynccontextmanager
async def one_password(context: Context) -> AsyncIterator[None]:
    """Wait until no other password of the operator is being checked or hashed.

    So a wrong password delays all sessions of the operator. Raises TemporaryError when too many sessions wait.
    """
    try:
        async with context.services.passwords.turn(context.operator.name):
            yield
    except TooManyWaitError:
        message = f"other passwords of {context.operator.name} are being checked, try again later"
        raise TemporaryError(message) from None


async def asked_password(context: Context, name: str, *, before: str | None = None) -> str:
    """Ask for a new password twice, without echo, and return its hash. `--check` asks nothing.

    Raises CommandError for a weak password, for a different second one, and for the old password `before`.
    """
    if context.check:
        return ""
    password = await context.ask_secret(f"New password of {name}: ")
    try:
        check_new_password(password)
    except ValueError as wrong:
        message = f"{wrong}; nothing was changed"
        raise CommandError(message) from wrong
    if before is not None and same_password(password, before):
        message = "the new password is the old one; nothing was changed"
        raise CommandError(message)
    if await context.ask_secret("Once more: ") != password:
        message = "the two passwords differ; nothing was changed"
        raise CommandError(message)
    async with one_password(context):
        return await context.services.authenticator.hash_password(password, f"user {context.operator.name}")


@command(_HERE + "add", permission=_CHANGE, examples=(_EXAMPLE + "add crm --role operator --check",))
async def add(
    context: Context,
    user: Annotated[str, NEW_USER],
    *,
    role: Annotated[Role, ROLE, Relation("role; viewer without it")] = Role.VIEWER,
    key: Annotated[UserKey | None, PUBLIC_KEY, Relation("public key to log in with, instead of a password")] = None,
    expires: Annotated[str, DATE, Relation("time at which the user expires")] = "",
) -> Lines:
    """Add a user. Asks for a password unless a key is given.

    Operators and viewers have no domain until user/grant gives them one.
    """
    await service.plan_addition(context, user, role, key)
    password_hash = None if key else await asked_password(context, user)
    await service.add(context, User(user, role, password_hash, (key,) if key else (), expires_at=expires or None))
    return Lines((f"User {user} added",))


@command(_HERE + "list", permission=Permission.USERS_READ, examples=(_EXAMPLE + "list",))
async def list_(context: Context) -> Table:
    """List the users with role, state, credentials and granted domains."""
    return Table(_COLUMNS, [_row(each) for each in await users.every(context.store)])


@command(_HERE + "set", permission=_CHANGE, examples=(_EXAMPLE + "set eve --role operator --expires 2031-01-01Z",))
async def set_(
    context: Context,
    user: Annotated[str, USER],
    *,
    role: Annotated[Role | None, ROLE, Relation("new role")] = None,
    expires: Annotated[str | None, DATE, Relation("time at which the user expires")] = None,
    change_password: Annotated[bool, Relation("require a new password at the next login by password")] = False,
) -> Lines:
    """Change a user. Open sessions apply the change at their next line. Give at least one option."""
    if role is None and expires is None and not change_password:
        message = "nothing to change, give --role, --expires or --change-password"
        raise ArgumentError(message)
    await service.set_properties(context, user, role=role, expires=expires, change_password=change_password)
    return Lines((f"User {user} changed",))


@command(_HERE + "passwd", permission=_CHANGE, examples=(_EXAMPLE + "passwd eve --check",))
async def passwd(
    context: Context,
    user: Annotated[str, USER],
    *,
    change_at_login: Annotated[bool, Relation("require a new password at the next login")] = False,
) -> Lines:
    """Set a user's password. Asks for it twice, without echo."""
    await service.plan_password(context, user)
    password_hash = await asked_password(context, user)
    await service.set_password(context, user, password_hash, must_change=change_at_login)
    return Lines((f"Password of {user} changed",))


@command(_HERE + "remove", permission=_CHANGE, examples=(_EXAMPLE + "remove eve --force",))
async def remove(
    context: Context, user: Annotated[str, USER], *, force: Annotated[bool, Relation("do not ask")] = False
) -> Lines:
    """Remove a user with keys, grants and history, and end the user's sessions."""
    if not force:
        await service.require(context, user)
        await context.confirm(f"User {user} will be removed, and its sessions will end.")
    await service.remove(context, user)
    return Lines((f"User {user} removed",))


@command(_HERE + "lock", permission=_CHANGE, examples=(_EXAMPLE + "lock eve",))
async def lock(context: Context, user: Annotated[str, USER]) -> Lines:
    """Lock a user out, whatever the credentials, and end the user's sessions."""
    await service.lock(context, user)
    return Lines((f"User {user} locked",))


@command(_HERE + "unlock", permission=_CHANGE, examples=(_EXAMPLE + "unlock eve",))
async def unlock(context: Context, user: Annotated[str, USER]) -> Lines:
    """Let a locked user log in again."""
    await service.unlock(context, user)
    return Lines((f"User {user} unlocked",))


@command(_HERE + "grant", permission=_CHANGE, examples=(_EXAMPLE + "grant eve biysk.local",))
async def grant(context: Context, user: Annotated[str, USER], domain: Annotated[str, DOMAIN]) -> Lines:
    """Grant a domain to a user. The role limits the commands there."""
    await service.grant(context, user, domain)
    return Lines((f"Domain {domain} granted to {user}",))


@command(_HERE + "revoke", permission=_CHANGE, examples=(_EXAMPLE + "revoke eve barnaul.local",))
async def revoke(context: Context, user: Annotated[str, USER], domain: Annotated[str, DOMAIN]) -> Lines:
    """Revoke a domain from a user. It takes effect at once."""
    await service.revoke(context, user, domain)
    return Lines((f"Domain {domain} revoked from {user}",))


@command("/passwd", permission=Permission.PASSWORD_CHANGE, examples=("passwd --check",))
async def own_passwd(context: Context) -> Lines:
    """Change your own password.

    Asks for the present password, then twice for the new one.
    """
    name = context.operator.name
    context.will(f"change the password of {name}")
    if context.check:
        async with service.changed_user(context, name):
            return Lines()
    password = await context.ask_secret("Your password: ")
    async with one_password(context):
        result = await context.services.authenticator.by_password(name, password, f"user {name}")
        if result.stored is None:
            await asyncio.sleep(_WRONG_PASSWORD_SECONDS)
            message = "that is not your password; nothing was changed"
            raise CommandError(message)
    password_hash = await asked_password(context, name, before=password)
    await service.exchange_password(context, name, result.stored, password_hash)
    return Lines(("Your password was changed",))


def _row(user: User) -> tuple[object, ...]:
    state = user.shut_out(utc_now()) or ("must change password" if user.must_change_password else "active")
    reached = None if user.role is Role.ADMIN else tuple(name for _, name in sorted(user.domains.items()))
    return (user.name, user.role.value, state, user.password_hash is not None, len(user.keys), user.expires_at, reached)


DIRECTORIES = {"/cocon/user": "The users, their roles and their domains."}
COMMANDS = (add, list_, set_, passwd, remove, lock, unlock, grant, revoke, own_passwd)
