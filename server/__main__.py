"""The program's command line. Exit statuses: 0 done, 1 refused, 2 wrong words, 78 wrong configuration."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from server import __version__
from server.app import open_store, serve
from server.audit.journal import utc_now
from server.auth.keys import fingerprint, parse_authorized_keys
from server.auth.passwords import check_new_password, hash_password, new_password
from server.config import Config, load_config
from server.errors import ConfigurationError, OperatorError, StartError
from server.model.access import Role, User, parse_user_name
from server.model.events import Event, EventKind
from server.storage import events, users
from server.storage.database import Query
from server.transport.hostkey import host_key

_Run = Callable[[Config, argparse.Namespace], Awaitable[None]]

EX_CONFIG = 78
FIRST_USER = "admin"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    options = _parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    )
    try:
        config = load_config(options.config)
        asyncio.run(options.run(config, options))
    except ConfigurationError as error:
        for mistake in error.mistakes:
            _complain(mistake)
        return EX_CONFIG
    except (StartError, OperatorError) as error:
        _complain(str(error))
        return 1
    except (KeyboardInterrupt, EOFError):
        _complain("interrupted, nothing was changed")
        return 130
    return 0


async def _serve(config: Config, _options: argparse.Namespace) -> None:
    await serve(config)


async def _init(config: Config, _options: argparse.Namespace) -> None:
    """Make what a first start needs; the first user's password is shown here and nowhere else."""
    async with open_store(config) as store:
        host_key(config.keys_dir)
        if await users.every(store):
            _say("The store is there and has users; nothing was changed.")
            return
        password = new_password()
        user = User(FIRST_USER, Role.ADMIN, hash_password(password), ())
        async with store.transaction() as query:
            await users.insert(query, user, utc_now())
            await _record(query, config, "init", {"user": FIRST_USER})
            # shown before the commit: a password that nobody has seen must not be in force
            _say(f"Made the store, the keys and the user {FIRST_USER}.\nPassword, shown only now: {password}")


async def _check(config: Config, _options: argparse.Namespace) -> None:
    """Say what is in force; `load_config` has refused what is wrong."""
    _say(config.model_dump_json(indent=2))


async def _add_user(config: Config, options: argparse.Namespace) -> None:
    name = _valued(parse_user_name, options.name)
    keys = [key for path in options.authorized_key for key in _keys_of(path)]
    asked = options.password_stdin or not keys
    password_hash = hash_password(_password(from_stdin=options.password_stdin)) if asked else None
    user = User(name, Role(options.role), password_hash, tuple(dict.fromkeys(keys)))
    async with open_store(config) as store, store.transaction() as query:
        if not await users.insert(query, user, utc_now()):
            message = f"user {name} exists already"
            raise StartError(message)
        given = {"user": name, "role": user.role.value, "keys": [fingerprint(key) for key in user.public_keys]}
        await _record(query, config, "user add", given)
    _say(f"User {name} added.")


async def _list_users(config: Config, _options: argparse.Namespace) -> None:
    async with open_store(config, make=False) as store:
        for user in await users.every(store):
            ways = [*(["password"] if user.password_hash else []), *map(fingerprint, user.public_keys)]
            _say(f"{user.name}\t{user.role.value}\t{', '.join(ways) or 'cannot log in'}")


async def _change_password(config: Config, options: argparse.Namespace) -> None:
    name = _valued(parse_user_name, options.name)
    password_hash = hash_password(_password(from_stdin=options.password_stdin))
    async with open_store(config, make=False) as store, store.transaction() as query:
        if not await users.set_password(query, name, password_hash):
            message = f"there is no user {name}"
            raise StartError(message)
        await _record(query, config, "user passwd", {"user": name})
    _say(f"Password of {name} changed.")


async def _remove_user(config: Config, options: argparse.Namespace) -> None:
    name = _valued(parse_user_name, options.name)
    async with open_store(config, make=False) as store, store.transaction() as query:
        if not await users.delete(query, name):
            message = f"there is no user {name}"
            raise StartError(message)
        await _record(query, config, "user remove", {"user": name})
    _say(f"User {name} removed.")


async def _record(query: Query, config: Config, command: str, given: Mapping[str, object]) -> None:
    """Record a change made on the console's host, in the transaction of the change."""
    event = Event(
        kind=EventKind.USER_CHANGE,
        at=utc_now(),
        node=config.node.name,
        user_name=_caller(),
        source="console host",
        session_id="",
        command=f"ecss-console {command}",
        arguments=json.dumps(given),
    )
    await events.insert(query, event)


def _password(*, from_stdin: bool) -> str:
    """Return the new password: the first line of standard input, or typed twice at the terminal."""
    if from_stdin:
        return _first_line()
    if sys.stdin is None or not sys.stdin.isatty():
        message = "there is no terminal to ask for the password: give --password-stdin or --authorized-key FILE"
        raise StartError(message)
    password = _valued(check_new_password, getpass.getpass("New password: "))
    if getpass.getpass("Once more: ") != password:
        message = "the two passwords differ; nothing was changed"
        raise StartError(message)
    return password


def _first_line() -> str:
    raw = sys.stdin.buffer.readline() if sys.stdin is not None else b""
    try:
        return check_new_password(raw.decode("utf-8").removesuffix("\n").removesuffix("\r"))
    except UnicodeDecodeError as error:
        message = "the password on standard input is not UTF-8 text"
        raise StartError(message) from error
    except ValueError as error:
        raise StartError(str(error)) from error


def _caller() -> str:
    """Return who runs the program, for the audit; a container's user may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _keys_of(path: Path) -> tuple[str, ...]:
    try:
        return parse_authorized_keys(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"{path}: {error}"
        raise StartError(message) from error


def _valued(parse: Callable[[str], str], text: str) -> str:
    try:
        return parse(text)
    except ValueError as error:
        raise StartError(str(error)) from error


def _say(text: str) -> None:
    """Print a line of the answer; raises StartError when nobody can read it."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter fails at its end
        message = f"the answer cannot be written: {error.strerror}"
        raise StartError(message) from error


def _complain(text: str) -> None:
    sys.stderr.write(f"ecss-console: {text}\n")


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config", type=Path, metavar="FILE", help="configuration; without it config.yaml here, if there is one"
    )
    parser = argparse.ArgumentParser(prog="ecss-console", description="SSH admin console of the ECSS-10 exchange")
    parser.add_argument("--version", action="version", version=f"ecss-console {__version__}")
    words = parser.add_subparsers(required=True, metavar="COMMAND")
    _add(words, common, "serve", _serve, "serve in the foreground until SIGTERM")
    _add(words, common, "init", _init, "make the store, the keys and the user admin, once")
    user = words.add_parser("user", help="manage users, while the server runs or not")
    user_words = user.add_subparsers(required=True, metavar="COMMAND")
    added = _add(user_words, common, "add", _add_user, "add a user; asks for a password unless told otherwise")
    added.add_argument("name", metavar="NAME")
    added.add_argument("--password-stdin", action="store_true", help="the password is the first line of standard input")
    added.add_argument(
        "--authorized-key", type=Path, action="append", default=[], metavar="FILE", help="public key; repeatable"
    )
    added.add_argument("--role", choices=[role.value for role in Role], default=Role.ADMIN.value)
    _add(user_words, common, "list", _list_users, "list the users, their roles and ways to log in")
    changed = _add(user_words, common, "passwd", _change_password, "change a password")
    changed.add_argument("name", metavar="NAME")
    changed.add_argument("--password-stdin", action="store_true", help="as in user add")
    removed = _add(user_words, common, "remove", _remove_user, "remove a user")
    removed.add_argument("name", metavar="NAME")
    config = words.add_parser("config", help="look at the configuration")
    config_words = config.add_subparsers(required=True, metavar="COMMAND")
    _add(config_words, common, "check", _check, "report every mistake, or print what is in force")
    return parser


def _add(
    words: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
    name: str,
    run: _Run,
    text: str,
) -> argparse.ArgumentParser:
    parser = words.add_parser(name, parents=[common], help=text, description=text)
    parser.set_defaults(run=run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
