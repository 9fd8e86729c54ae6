"""Change users: their passwords, public keys, roles and granted domains.

After every change, at least one administrator can log in. A refused change raises CommandError and changes nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from server.audit.journal import utc_now
from server.auth.keys import fingerprint
from server.errors import CommandError
from server.model.access import Role, User, UserKey, shown_time
from server.model.names import with_foreign
from server.services.change import Actor
from server.services.domains import no_such_domain
from server.storage import domains, users
from server.storage.writer import Query


class LastAdministratorError(CommandError):
    """A change would leave no administrator who can log in."""

    def __init__(self, name: str, instead: str = "make") -> None:
        """Take the user's name, and the verb of the advice, such as `make another one first`."""
        super().__init__(f"{name} is the last administrator, {instead} another one first; nothing was changed")
        self.name = name


class UsersExistError(CommandError):
    """The store has users already, so `adding_first` does not apply."""

    def __init__(self) -> None:
        super().__init__("the store has users already; nothing was changed")


def no_such_user(name: str) -> CommandError:
    """Return the error for an unknown user."""
    return CommandError(f"there is no user {name}")


async def require(actor: Actor, name: str) -> None:
    """Raise CommandError for an unknown user. Call it before asking the operator a question."""
    if await users.find(actor.store.read, name) is None:
        raise no_such_user(name)


@asynccontextmanager
async def changed_user(actor: Actor, name: str) -> AsyncIterator[tuple[Query, User]]:
    """Open a transaction that changes a user, and give the stored user.

    Raises CommandError for an unknown one. At the end of the block, raises LastAdministratorError unless an
    administrator can log in now, and one can log in at any later time.
    """
    async with actor.change() as query:
        known = await users.find(query, name)
        if known is None:
            raise no_such_user(name)
        async with users.keeping_administrators(query, utc_now(), LastAdministratorError(name)):
            yield query, known


@asynccontextmanager
async def adding_first(actor: Actor, user: User) -> AsyncIterator[None]:
    """Add the first user. The block shows the password before the commit.

    If the password cannot be shown, the user must not be stored. Raises UsersExistError when there is a user.
    """
    async with actor.change() as query:
        if await users.any_there(query):
            raise UsersExistError
        await users.insert(query, user, utc_now())
        await actor.record(query, {"user": user.name})
        yield


async def plan_addition(actor: Actor, name: str, role: Role, key: UserKey | None) -> None:
    """Describe a user to add, and refuse a taken name. Call it before asking for a password."""
    with_key = f", let in with key {fingerprint(key.public_key)}" if key else ""
    actor.will(f"add user {name} as {role.value}{with_key}")
    if await users.find(actor.store.read, name) is not None:
        raise _exists_already(name)


async def add(actor: Actor, user: User) -> None:
    """Add a user with its keys."""
    async with actor.change() as query:
        if not await users.insert(query, user, utc_now()):
            raise _exists_already(user.name)
        keys = [fingerprint(key.public_key) for key in user.keys]
        await actor.record(query, {"user": user.name, "role": user.role.value, "keys": keys})


async def set_properties(
    actor: Actor, name: str, *, role: Role | None, expires: str | None, change_password: bool
) -> None:
    """Change a user's role or expiry time, or require a new password.

    None leaves a property as it is. An empty `expires` means never. `change_password=False` changes nothing.
    """
    async with changed_user(actor, name) as (query, known):
        after = replace(
            known,
            role=role or known.role,
            expires_at=known.expires_at if expires is None else expires or None,
            must_change_password=change_password or known.must_change_password,
        )
        actor.will(f"change user {name} from {_described(known)} into {_described(after)}")
        await users.set_properties(query, after)
        await actor.record(query, {"user": name})


async def plan_password(actor: Actor, name: str) -> None:
    """Describe the change of a password, and refuse an unknown user.

    Call it before asking for the password.
    """
    actor.will(f"set the password of user {name}")
    await require(actor, name)


async def set_password(actor: Actor, name: str, password_hash: str, *, must_change: bool = False) -> None:
    """Set a password. With `must_change` the user must choose another one at the next login."""
    async with changed_user(actor, name) as (query, _):
        await users.set_password(query, name, password_hash, must_change=must_change)
        await actor.record(query, {"user": name})


async def exchange_password(actor: Actor, name: str, before: str, after: str) -> None:
    """Replace the password hash `before` with `after`. Raises CommandError when it has changed meanwhile."""
    async with changed_user(actor, name) as (query, _):
        if not await users.exchange_password(query, name, before, after):
            message = "your password was changed meanwhile; nothing was changed now"
            raise CommandError(message)
        await actor.record(query, {"user": name})


async def remove(actor: Actor, name: str) -> None:
    """Remove a user with its keys, grants and history."""
    actor.will(f"remove user {name}")
    async with changed_user(actor, name) as (query, _):
        await users.delete(query, name)
        await actor.record(query, {"user": name})


async def lock(actor: Actor, name: str) -> None:
    """Lock a user: no credential logs the user in any more."""
    actor.will(f"lock user {name} out")
    await _set_locked(actor, name, locked=True)


async def unlock(actor: Actor, name: str) -> None:
    """Let a locked user log in again."""
    actor.will(f"let user {name} log in again")
    await _set_locked(actor, name, locked=False)


async def _set_locked(actor: Actor, name: str, *, locked: bool) -> None:
    async with changed_user(actor, name) as (query, known):
        await users.set_properties(query, replace(known, locked=locked))
        await actor.record(query, {"user": name})


async def grant(actor: Actor, name: str, domain: str) -> None:
    """Grant a domain to a user."""
    actor.will(f"grant domain {domain} to user {name}")
    async with changed_user(actor, name) as (query, _):
        if not await domains.exists(query, domain):
            raise no_such_domain(domain)
        if not await users.grant(query, name, domain, utc_now()):
            message = f"domain {domain} is granted to {name} already"
            raise CommandError(message)
        await actor.record(query, {"user": name, "domain": domain})


async def revoke(actor: Actor, name: str, domain: str) -> None:
    """Revoke a granted domain from a user."""
    actor.will(f"revoke domain {domain} from user {name}")
    async with changed_user(actor, name) as (query, _):
        if not await users.revoke(query, name, domain):
            message = f"domain {domain} is not granted to {name}"
            raise CommandError(message)
        await actor.record(query, {"user": name, "domain": domain})


async def add_key(actor: Actor, name: str, key: UserKey) -> str:
    """Add a public key to a user, and return the key's fingerprint."""
    shown = fingerprint(key.public_key)
    actor.will(f"let user {name} in with key {shown}")
    async with changed_user(actor, name) as (query, _):
        if not await users.insert_key(query, name, key, utc_now()):
            message = (
                f"user {name} has the key {shown} already; remove it first to change where and until when it works"
            )
            raise CommandError(message)
        await actor.record(query, {"user": name, "key": shown})
    return shown


async def remove_key(actor: Actor, name: str, shown: str) -> None:
    """Remove the public key with this fingerprint from a user."""
    actor.will(f"let user {name} in with key {shown} no more")
    async with changed_user(actor, name) as (query, known):
        found = next((each for each in known.keys if fingerprint(each.public_key) == shown), None)
        if found is None:
            message = f"user {name} has no key {shown}"
            raise CommandError(with_foreign(message, shown))
        await users.delete_key(query, name, found.public_key)
        await actor.record(query, {"user": name, "key": shown})


def _exists_already(name: str) -> CommandError:
    return CommandError(f"user {name} exists already")


def _described(user: User) -> str:
    properties = [user.role.value, f"expires {shown_time(user.expires_at)}"]
    return ", ".join([*properties, "must change the password"] if user.must_change_password else properties)
