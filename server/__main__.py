"""The program's command line. Exit statuses: 0 done, 1 refused, 2 wrong words, 78 wrong configuration."""

from __future__ import annotations

import gc
import signal

gc.disable()  # what is imported stays; to look through it again and again for garbage takes a tenth of the start
_ctrl_c = signal.getsignal(signal.SIGINT)
if _ctrl_c is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while modules load ends it, as always, but in no traceback

import argparse
import asyncio
import os
import resource
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from server import __version__, log
from server.app import serve
from server.config import Config, load_config
from server.errors import ConfigurationError, OperatorError, StartError
from server.model.access import Role
from server.program import audit, hostkeys, users
from server.program.answer import complain, say
from server.program.ending import interruptible
from server.storage.owner import obey

signal.signal(signal.SIGINT, _ctrl_c)
gc.freeze()
gc.enable()

#: A word that only blocks runs without a loop, so that Ctrl-C ends it where it is.
_Word = Callable[[Config, argparse.Namespace], Coroutine[Any, Any, None] | None]

EX_CONFIG = 78
_INTERRUPTED = "interrupted, nothing was changed"
_PASSPHRASE_HELP = "its first line is the passphrase, - for standard input; asked for without it"  # noqa: S105  no passphrase


def program() -> int:
    """Run the program, as a process of its own, and return its exit status."""
    if sys.stderr is None:  # nothing that is opened later must stand in its place
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123  up to the end
    try:
        return main()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is told by now how it ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run a word of the program and return the exit status."""
    interrupted = _INTERRUPTED
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump of the memory would have keys in it
        options = _parser().parse_args(argv)
        interrupted = options.interrupted
        log.begin()
        config = load_config(options.config)
        if config.file is not None:
            obey(config.file)
        _run(options, config)
    except ConfigurationError as error:
        for mistake in error.mistakes:
            complain(mistake)
        return EX_CONFIG
    except (StartError, OperatorError) as error:
        complain(str(error))
        return 1
    except (KeyboardInterrupt, EOFError, asyncio.CancelledError):
        complain(interrupted)
        return 130
    return 0


def _run(options: argparse.Namespace, config: Config) -> None:
    """Run a word, on an event loop if it needs one."""
    running = options.run(config, options)
    if running is None:
        return
    try:
        runner = asyncio.Runner()
        ignored = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # half a loop cannot be closed
        try:
            runner.get_loop()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, ignored)
        with runner:
            runner.run(running)
    finally:
        running.close()  # of one that never began it would be said that nobody waited for it


async def _serve(config: Config, _options: argparse.Namespace) -> None:
    with log.unblocked():
        await serve(config)


def _check(config: Config, _options: argparse.Namespace) -> None:
    """Say what is in force; `load_config` has refused what is wrong."""
    say(config.model_dump_json(indent=2))


def _backup(config: Config, options: argparse.Namespace) -> None:
    from server.program.backup import backup  # noqa: PLC0415  what packs and encrypts need not load to serve

    with interruptible():
        backup(config, options)


def _restore(config: Config, options: argparse.Namespace) -> None:
    from server.program.restore import restore  # noqa: PLC0415  as above

    with interruptible():
        restore(config, options)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config", type=Path, metavar="FILE", help="configuration; without it config.yaml here, if there is one"
    )
    parser = argparse.ArgumentParser(prog="ecss-console", description="SSH admin console of the ECSS-10 exchange")
    parser.add_argument("--version", action="version", version=f"ecss-console {__version__}")
    words = parser.add_subparsers(required=True, metavar="COMMAND")
    _add(words, common, "serve", _serve, "serve in the foreground until SIGTERM")
    made = _add(words, common, "init", users.init, "make the store, the keys and the user admin, once")
    made.set_defaults(interrupted="interrupted; ecss-console init goes on from what is there")
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
    verified.add_argument(
        "--head", metavar="[NODE=]SEQ:MAC", help="find also that the store was rolled back behind this head"
    )
    _add_backup(words, common)
    config = words.add_parser("config", help="look at the configuration")
    config_words = config.add_subparsers(required=True, metavar="COMMAND")
    _add(config_words, common, "check", _check, "report every mistake, or print what is in force")
    return parser


def _add_backup(words: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    made = _add(words, common, "backup", _backup, "write the store and its keys to one file, while the server serves")
    made.add_argument("file", type=Path, metavar="FILE")
    how = made.add_mutually_exclusive_group()
    how.add_argument("--passphrase-file", metavar="FILE", help=_PASSPHRASE_HELP)
    how.add_argument(
        "--recipient",
        action="append",
        default=[],
        metavar="KEY",
        help="encrypt to age1… or an SSH public key; repeatable",
    )
    how.add_argument("--unencrypted", action="store_true", help="do not encrypt the file")
    made.add_argument("--identity", type=Path, action="append", default=[], metavar="FILE", help="verify with it")
    made.add_argument("--without-keys", action="store_true", help="leave the storage key and the host keys out")
    made.add_argument(
        "--storage-key-in-clear", action="store_true", help="with --unencrypted: with the keys all the same"
    )
    made.add_argument("--force", action="store_true", help="replace FILE")
    made.add_argument("--scratch", type=Path, metavar="DIR", help="where to copy the database to, not beside it")
    put_back = _add(words, common, "restore", _restore, "put the store back from a backup, the server being stopped")
    put_back.add_argument("file", type=Path, metavar="FILE")
    put_back.add_argument("--passphrase-file", metavar="FILE", help=_PASSPHRASE_HELP)
    put_back.add_argument(
        "--identity", type=Path, action="append", default=[], metavar="FILE", help="what opens it; repeatable"
    )
    put_back.add_argument("--verify-only", action="store_true", help="say what is in it, and change nothing")
    put_back.add_argument(
        "--foreign",
        action="store_true",
        help="also a backup of another console, with another storage key: its users and API keys replace those here",
    )
    put_back.add_argument("--force", action="store_true", help="move the store that is there aside")


def _add(
    words: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
    name: str,
    run: _Word,
    text: str,
) -> argparse.ArgumentParser:
    parser = words.add_parser(name, parents=[common], help=text, description=text)
    parser.set_defaults(run=run, interrupted=_INTERRUPTED)
    return parser


if __name__ == "__main__":
    sys.exit(program())
