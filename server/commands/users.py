"""Users and their grants: `/cocon/user/`. Changes take effect at once, also in open sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from server.audit.journal import utc_now
from server.auth.passwords import check_new_password, same_password
from server.commands.call import Call
from server.commands.domains import DOMAIN
from server.commands.kinds import DATE, NEW_USER, PUBLIC_KEY, ROLE, USER
from server.errors import ArgumentError, CommandError, TemporaryError
from server.grammar.declare import Relation, command
from server.model.access import Permission, Role, User, UserKey, shown_time
from server.render.reply import Column, Lines, Table
from server.services import users as service
from server.storage import users
from server.turns import TooManyWaitError

_HERE = "/cocon/user/"
_EXAMPLE = "cocon/user/"
_CHANGE = Permission.USERS_CHANGE
#: Slows down guessing of passwords in an open session.
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
async def one_password(call: Call) -> AsyncIterator[None]:
    """Check or hash one password of an operator at a time, however many sessions the operator has.

    So a wrong password slows all of them down. Raises TemporaryError when too many wait.
    """
    try:
        async with call.console.passwords.turn(call.operator.name):
            yield
    except TooManyWaitError:
        message = f"other passwords of {call.operator.name} are being checked, try again later"
        raise TemporaryError(message) from None


async def asked_password(call: Call, name: str, *, before: str | None = None) -> str:
    """Ask for a new password twice, without echo, and return its hash. With `--check` nothing is asked.

    Raises CommandError for a password that is not allowed, or equals `before`.
    """
    if call.check:
        return ""
    password = await call.ask_secret(f"New password of {name}: ")
    try:
        check_new_password(password)
    except ValueError as wrong:
        message = f"{wrong}; nothing was changed"
        raise CommandError(message) from wrong
    if before is not None and same_password(password, before):
        message = "the new password is the old one; nothing was changed"
        raise CommandError(message)
    if await call.ask_secret("Once more: ") != password:
        message = "the two passwords differ; nothing was changed"
        raise CommandError(message)
    async with one_password(call):
        return await call.console.doorkeeper.hash_password(password, f"user {call.operator.name}")


@command(_HERE + "add", permission=_CHANGE, examples=(_EXAMPLE + "add crm --role operator --check",))
async def add(
    call: Call,
    user: Annotated[str, NEW_USER],
    *,
    role: Annotated[Role, ROLE, Relation("what the user may do; viewer without it")] = Role.VIEWER,
    key: Annotated[UserKey | None, PUBLIC_KEY, Relation("let the user in with this key, without a password")] = None,
    expires: Annotated[str, DATE, Relation("until when the user may log in")] = "",
) -> Lines:
    """Add a user; asks for a password unless a key is given.

    Operators and viewers reach no domain until user/grant gives them one.
    """
    await service.plan_addition(call, user, role, key)
    password_hash = None if key else await asked_password(call, user)
    await service.add(call, User(user, role, password_hash, (key,) if key else (), expires_at=expires or None))
    return Lines((f"User {user} added",))


@command(_HERE + "list", permission=Permission.USERS_READ, examples=(_EXAMPLE + "list",))
async def list_(call: Call) -> Table:
    """List the users: role, state, ways to log in, and the domains that are granted."""
    return Table(_COLUMNS, [_row(each) for each in await users.every(call.store)])


@command(_HERE + "set", permission=_CHANGE, examples=(_EXAMPLE + "set eve --role operator --expires 2031-01-01Z",))
async def set_(
    call: Call,
    user: Annotated[str, USER],
    *,
    role: Annotated[Role | None, ROLE, Relation("what the user may do from now on")] = None,
    expires: Annotated[str | None, DATE, Relation("until when the user may log in")] = None,
    change_password: Annotated[bool, Relation("ask for another password at the next login by password")] = False,
) -> Lines:
    """Change what a user is; sessions that are open follow at their next line. At least one option is given."""
    if role is None and expires is None and not change_password:
        message = "nothing to change, give --role, --expires or --change-password"
        raise ArgumentError(message)
    await service.set_properties(call, user, role=role, expires=expires, change_password=change_password)
    return Lines((f"User {user} changed",))


@command(_HERE + "passwd", permission=_CHANGE, examples=(_EXAMPLE + "passwd eve --check",))
async def passwd(
    call: Call,
    user: Annotated[str, USER],
    *,
    change_at_login: Annotated[bool, Relation("the user must set another at the next login")] = False,
) -> Lines:
    """Set a user's password, which is asked for twice and not echoed."""
    await service.plan_password(call, user)
    password_hash = await asked_password(call, user)
    await service.set_password(call, user, password_hash, must_change=change_at_login)
    return Lines((f"Password of {user} changed",))


@command(_HERE + "remove", permission=_CHANGE, examples=(_EXAMPLE + "remove eve --force",))
async def remove(
    call: Call, user: Annotated[str, USER], *, force: Annotated[bool, Relation("do not ask")] = False
) -> Lines:
    """Remove a user with its keys, grants and history; its sessions end."""
    if not force:
        await service.require(call, user)
        await call.confirm(f"User {user} will be removed, and its sessions will end.")
    await service.remove(call, user)
    return Lines((f"User {user} removed",))


@command(_HERE + "lock", permission=_CHANGE, examples=(_EXAMPLE + "lock eve",))
async def lock(call: Call, user: Annotated[str, USER]) -> Lines:
    """Lock a user out, whatever the way to log in; its sessions end."""
    await service.lock(call, user)
    return Lines((f"User {user} locked",))


@command(_HERE + "unlock", permission=_CHANGE, examples=(_EXAMPLE + "unlock eve",))
async def unlock(call: Call, user: Annotated[str, USER]) -> Lines:
    """Let a locked user log in again."""
    await service.unlock(call, user)
    return Lines((f"User {user} unlocked",))


@command(_HERE + "grant", permission=_CHANGE, examples=(_EXAMPLE + "grant eve biysk.local",))
async def grant(call: Call, user: Annotated[str, USER], domain: Annotated[str, DOMAIN]) -> Lines:
    """Grant a domain to a user, to do there what its role may."""
    await service.grant(call, user, domain)
    return Lines((f"Domain {domain} granted to {user}",))


@command(_HERE + "revoke", permission=_CHANGE, examples=(_EXAMPLE + "revoke eve barnaul.local",))
async def revoke(call: Call, user: Annotated[str, USER], domain: Annotated[str, DOMAIN]) -> Lines:
    """Take a domain from a user; it is out of reach at once."""
    await service.revoke(call, user, domain)
    return Lines((f"Domain {domain} revoked from {user}",))


@command("/passwd", permission=Permission.PASSWORD_CHANGE, examples=("passwd --check",))
async def own_passwd(call: Call) -> Lines:
    """Change your own password.

    Asks for the one in force, then twice for the new one.
    """
    name = call.operator.name
    call.will(f"change the password of {name}")
    if call.check:
        async with service.changed_user(call, name):
            return Lines()
    password = await call.ask_secret("Your password: ")
    async with one_password(call):
        verdict = await call.console.doorkeeper.by_password(name, password, f"user {name}")
        if verdict.stored is None:
            await asyncio.sleep(_WRONG_PASSWORD_SECONDS)
            message = "that is not your password; nothing was changed"
            raise CommandError(message)
    password_hash = await asked_password(call, name, before=password)
    await service.exchange_password(call, name, verdict.stored, password_hash)
    return Lines(("Your password was changed",))


def _row(user: User) -> tuple[object, ...]:
    state = user.shut_out(utc_now()) or ("must change password" if user.must_change_password else "active")
    reached = None if user.role is Role.ADMIN else tuple(name for _, name in sorted(user.domains.items()))
    return (user.name, user.role.value, state, user.password_hash is not None, len(user.keys), user.expires_at, reached)


DIRECTORIES = {"/cocon/user": "The users: who may log in, as what, and to which domains."}
COMMANDS = (add, list_, set_, passwd, remove, lock, unlock, grant, revoke, own_passwd)
