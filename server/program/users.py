"""`ecss-console init` and `ecss-console user`: who may log in, managed on the console's host."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from server.app import open_store
from server.audit.journal import utc_now
from server.auth.keys import fingerprint, parse_authorized_keys, weakness
from server.auth.passwords import check_new_password, hash_password, new_password
from server.config import Config
from server.encoding import decoded
from server.errors import StartError
from server.model.access import Role, User, UserKey, parse_user_name
from server.plain_files import MOST_TEXT_BYTES, read_named
from server.program.answer import record, say
from server.program.ending import change
from server.program.terminal import asked, ended_at_once
from server.storage import users
from server.storage.store import Store
from server.transport.hostkey import host_keys

FIRST_USER = "admin"


async def init(config: Config, _options: argparse.Namespace) -> None:
    """Make what a first start needs; the first user's password is shown here and nowhere else."""
    async with open_store(config) as store:
        host_keys(config.keys_dir, ecdsa=config.ecdsa_host_key)
        if await users.every(store) or not await _first(config, store):
            say("The store is there and has users; nothing was changed.")


async def _first(config: Config, store: Store) -> bool:
    """Add the first user and show the password; False where another program has added one meanwhile."""
    password = new_password()
    user = User(FIRST_USER, Role.ADMIN, hash_password(password), ())
    async with change(store) as query:
        if await users.any_there(query):
            return False
        await users.insert(query, user, utc_now())
        await record(query, config, "init", {"user": FIRST_USER})
        # shown before the commit: a password that nobody has seen must not be in force
        say(f"Made the store, the keys and the user {FIRST_USER}.\nPassword, shown only now: {password}", done=False)
    return True


async def add(config: Config, options: argparse.Namespace) -> None:
    """Add a user; raises StartError when the name is taken."""
    name = _valued(parse_user_name, options.name)
    keys = [key for path in options.authorized_key for key in _keys_of(path)]
    asked = options.password_stdin or not keys
    instead = "give --password-stdin or --authorized-key FILE"
    password_hash = hash_password(_password(instead, from_stdin=options.password_stdin)) if asked else None
    user = User(name, Role(options.role), password_hash, tuple({key.public_key: key for key in keys}.values()))
    async with open_store(config) as store, change(store) as query:
        if not await users.insert(query, user, utc_now()):
            message = f"user {name} exists already"
            raise StartError(message)
        given = {"user": name, "role": user.role.value, "keys": [fingerprint(key.public_key) for key in user.keys]}
        await record(query, config, "user add", given)
    say(f"User {name} added.")


async def list_(config: Config, _options: argparse.Namespace) -> None:
    """Print the users, a line each: name, role, ways to log in; a weak key is marked, as it is none."""
    async with open_store(config, make=False) as store:
        for user in await users.every(store):
            ways = [*(["password"] if user.password_hash else []), *(_described(key) for key in user.keys)]
            say(f"{user.name}\t{user.role.value}\t{', '.join(ways) or 'cannot log in'}")


async def change_password(config: Config, options: argparse.Namespace) -> None:
    """Change a password; raises StartError when there is no such user."""
    name = _valued(parse_user_name, options.name)
    password_hash = hash_password(_password("give --password-stdin", from_stdin=options.password_stdin))
    async with open_store(config, make=False) as store, change(store) as query:
        if not await users.set_password(query, name, password_hash):
            message = f"there is no user {name}"
            raise StartError(message)
        await record(query, config, "user passwd", {"user": name})
    say(f"Password of {name} changed.")


async def remove(config: Config, options: argparse.Namespace) -> None:
    """Remove a user with its keys; raises StartError for an unknown one and for the last administrator."""
    name = _valued(parse_user_name, options.name)
    async with open_store(config, make=False) as store, change(store) as query:
        refusal = StartError(f"{name} is the last administrator, add another one first; nothing was changed")
        async with users.keeping_administrators(query, utc_now(), refusal):
            if not await users.delete(query, name):
                message = f"there is no user {name}"
                raise StartError(message)
        await record(query, config, "user remove", {"user": name})
    say(f"User {name} removed.")


def _described(key: UserKey) -> str:
    weak = weakness(key.public_key)
    return fingerprint(key.public_key) + (f" (weak, opens nothing: {weak})" if weak else "")


def _password(instead: str, *, from_stdin: bool) -> str:
    """Return the new password: the first line of standard input, or typed twice at the terminal.

    Where there is none, StartError says what to do `instead`.
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
