"""The program's command line. Exit statuses: 0 done, 1 refused, 2 wrong words, 78 wrong configuration."""

from __future__ import annotations

import gc

gc.disable()  # what is imported stays; to look through it again and again for garbage takes a tenth of the start

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from server import __version__, log
from server.app import serve
from server.config import Config, load_config
from server.errors import ConfigurationError, OperatorError, StartError
from server.model.access import Role
from server.program import audit, hostkeys, users
from server.program.answer import say

gc.freeze()
gc.enable()

_Run = Callable[[Config, argparse.Namespace], Awaitable[None]]

EX_CONFIG = 78


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    options = _parser().parse_args(argv)
    log.begin()
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


async def _check(config: Config, _options: argparse.Namespace) -> None:
    """Say what is in force; `load_config` has refused what is wrong."""
    say(config.model_dump_json(indent=2))


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
    _add(words, common, "init", users.init, "make the store, the keys and the user admin, once")
    user = words.add_parser("user", help="manage users, while the server runs or not")
    user_words = user.add_subparsers(required=True, metavar="COMMAND")
    added = _add(user_words, common, "add", users.add, "add a user; asks for a password unless told otherwise")
    added.add_argument("name", metavar="NAME")
    added.add_argument("--password-stdin", action="store_true", help="the password is the first line of standard input")
    added.add_argument(
        "--authorized-key", type=Path, action="append", default=[], metavar="FILE", help="public key; repeatable"
    )
    added.add_argument("--role", choices=[role.value for role in Role], default=Role.ADMIN.value)
    _add(user_words, common, "list", users.list_, "list the users, their roles and ways to log in")
    changed = _add(user_words, common, "passwd", users.change_password, "change a password")
    changed.add_argument("name", metavar="NAME")
    changed.add_argument("--password-stdin", action="store_true", help="as in user add")
    removed = _add(user_words, common, "remove", users.remove, "remove a user")
    removed.add_argument("name", metavar="NAME")
    host_key = words.add_parser("hostkey", help="look at the server's host keys and change them")
    host_key_words = host_key.add_subparsers(required=True, metavar="COMMAND")
    _add(host_key_words, common, "list", hostkeys.list_, "list the host key in use and the next one")
    rotated = _add(host_key_words, common, "rotate", hostkeys.rotate, "make the next host key, which clients learn")
    rotated.add_argument("--finish", action="store_true", help="take the next host key into use, drop the old one")
    audit_words = words.add_parser("audit", help="check the audit").add_subparsers(required=True, metavar="COMMAND")
    verified = _add(audit_words, common, "verify", audit.verify, "say what is whole, or what was done to which record")
    verified.add_argument("--head", metavar="SEQ:MAC", help="find also that the store was rolled back behind this head")
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
