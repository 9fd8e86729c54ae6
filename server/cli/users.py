"""`ecss-console init` and `ecss-console user`: manage the users on the console's host."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from server.auth.keys import fingerprint, parse_authorized_keys, weakness
from server.auth.passwords import check_new_password, hash_password, new_password
from server.cli.host_change import HostChange
from server.cli.output import say
from server.cli.terminal import asked, ended_at_once
from server.config import Config
from server.encoding import decoded
from server.errors import StartError
from server.model.access import Role, User, UserKey, parse_user_name
from server.plain_files import MOST_TEXT_BYTES, read_named
from server.services import users as service
from server.storage import users
from server.storage.opening import open_store
from server.transport.hostkey import host_keys

FIRST_USER = "admin"


@dataclass(frozen=True, slots=True)
class AddOptions:
    """Options of `user add`.

    Without a key and without `password_stdin` it asks for a password at the terminal.
    """

    name: str
    password_stdin: bool = False
    authorized_keys: tuple[Path, ...] = ()
    role: Role = Role.ADMIN


@dataclass(frozen=True, slots=True)
class PasswordOptions:
    """Options of `user passwd`."""

    name: str
    password_stdin: bool = False


@dataclass(frozen=True, slots=True)
class RemoveOptions:
    """Options of `user remove`."""

    name: str


async def init(config: Config) -> None:
    """Make the store, the keys and the first user. Only here its password is shown."""
    async with open_store(config) as store:
        host_keys(config.keys_dir, ecdsa=config.ecdsa_host_key)
        there = bool(await users.every(store))
        if not there:
            password = new_password()
            user = User(FIRST_USER, Role.ADMIN, hash_password(password), ())
            try:
                async with service.adding_first(HostChange(store, config.node.name, "init"), user):
                    made = f"Made the store, the keys and the user {FIRST_USER}."
                    say(f"{made}\nPassword, shown only now: {password}", done=False)
            except service.UsersExistError:  # another program has added one meanwhile
                there = True
        if there:
            say("The store is there and has users; nothing was changed.")


async def add(config: Config, options: AddOptions) -> None:
    """Add a user. Raises StartError for wrong options, and CommandError when the name is taken."""
    name = _valued(parse_user_name, options.name)
    keys = [key for path in options.authorized_keys for key in _keys_of(path)]
    asked = options.password_stdin or not keys
    instead = "give --password-stdin or --authorized-key FILE"
    password_hash = hash_password(_password(instead, from_stdin=options.password_stdin)) if asked else None
    user = User(name, options.role, password_hash, tuple({key.public_key: key for key in keys}.values()))
    async with open_store(config) as store:
        await service.add(HostChange(store, config.node.name, "user add"), user)
    say(f"User {name} added.")


async def list_(config: Config) -> None:
    """Print one line for each user: name, role, ways to log in.

    Weak keys are marked, because logins refuse them.
    """
    async with open_store(config, make=False) as store:
        for user in await users.every(store):
            ways = [*(["password"] if user.password_hash else []), *(_described(key) for key in user.keys)]
            say(f"{user.name}\t{user.role.value}\t{', '.join(ways) or 'cannot log in'}")


async def change_password(config: Config, options: PasswordOptions) -> None:
    """Change a password. Raises CommandError for an unknown user."""
    name = _valued(parse_user_name, options.name)
    password_hash = hash_password(_password("give --password-stdin", from_stdin=options.password_stdin))
    async with open_store(config, make=False) as store:
        await service.set_password(HostChange(store, config.node.name, "user passwd"), name, password_hash)
    say(f"Password of {name} changed.")


async def remove(config: Config, options: RemoveOptions) -> None:
    """Remove a user with its keys. Raises CommandError for an unknown user and for the last administrator."""
    name = _valued(parse_user_name, options.name)
    async with open_store(config, make=False) as store:
        try:
            await service.remove(HostChange(store, config.node.name, "user remove"), name)
        except service.LastAdministratorError as refusal:
            raise service.LastAdministratorError(refusal.name, "add") from refusal
    say(f"User {name} removed.")


def _described(key: UserKey) -> str:
    weak = weakness(key.public_key)
    return fingerprint(key.public_key) + (f" (weak, opens nothing: {weak})" if weak else "")


def _password(instead: str, *, from_stdin: bool) -> str:
    """Read the new password: the first line of standard input, or typed twice at the terminal.

    Raises StartError. Without a terminal, the error gives the advice `instead`.
    """
    if from_stdin:
        return _first_line()
    password = _valued(check_new_password, asked("New password: ", "password", instead))
    if asked("Once more: ", "password", instead) != password:
        message = "the two passwords differ; nothing was changed"
        raise StartError(message)
    return password


def _first_line() -> str:
    with ended_at_once():
        raw = sys.stdin.buffer.readline(MOST_TEXT_BYTES) if sys.stdin is not None else b""
    try:
        text = decoded(raw)
    except ValueError as error:
        message = f"the password on standard input cannot be read: {error}"
        raise StartError(message) from None
    return _valued(check_new_password, text.removesuffix("\n").removesuffix("\r"))


def _keys_of(path: Path) -> tuple[UserKey, ...]:
    try:
        return parse_authorized_keys(decoded(read_named(path, MOST_TEXT_BYTES)))
    except (OSError, ValueError) as error:
        message = f"{path}: {getattr(error, 'strerror', None) or error}"
        raise StartError(message) from error


def _valued(parse: Callable[[str], str], text: str) -> str:
    try:
        return parse(text)
    except ValueError as error:
        raise StartError(str(error)) from error
