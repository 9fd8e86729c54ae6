"""Parse the program's command line: subcommands, with their options as typed values."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from server import __version__
from server.backup.options import CreateOptions, MigrateOptions, RestoreOptions
from server.cli import audit, config, host_keys, serve, users
from server.cli.backup import backup
from server.cli.migrate_store import migrate_store
from server.cli.restore import restore
from server.config import Config
from server.model.access import Role

#: The coroutine of a subcommand, to run on an event loop. A blocking subcommand returns None. It runs without a loop,
#: so that Ctrl-C ends it at once.
Work = Coroutine[Any, Any, None] | None
_Options = TypeVar("_Options")
_Parsers = argparse._SubParsersAction  # noqa: SLF001  argparse exports no name of this type

#: The message when Ctrl-C ends a subcommand.
INTERRUPTED = "interrupted, nothing was changed"
_INIT_INTERRUPTED = "interrupted; ecss-console init goes on from what is there"
_PASSPHRASE_HELP = "its first line is the passphrase, - for standard input; asked for without it"  # noqa: S105  no passphrase


@dataclass(frozen=True, slots=True)
class Subcommand:
    """A parsed command line.

    `configuration` is the value of `--config`. `interrupted` is the message after Ctrl-C.
    """

    configuration: Path | None
    run: Callable[[Config], Work]
    interrupted: str = INTERRUPTED


def parse(argv: Sequence[str] | None = None) -> Subcommand:
    """Return the subcommand of a command line.

    Raises SystemExit for wrong arguments, `--help` and `--version`.
    """
    given = vars(_parser().parse_args(argv))
    return Subcommand(given["config"], given["bind"](given), given["interrupted"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ecss-console", description="SSH admin console of the ECSS-10 exchange")
    parser.add_argument("--version", action="version", version=f"ecss-console {__version__}")
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add(subcommands, "serve", serve.serve, "serve in the foreground until SIGTERM")
    made = _add(subcommands, "init", users.init, "make the store, the keys and the user admin, once")
    made.set_defaults(interrupted=_INIT_INTERRUPTED)
    _add_user(_group(subcommands, "user", "manage users, while the server runs or not"))
    _add_host_key(_group(subcommands, "hostkey", "look at the server's host keys and change them"))
    _add_audit(_group(subcommands, "audit", "check the audit"))
    _add_backup(subcommands)
    _add_restore(subcommands)
    _add_migrate_store(subcommands)
    of_config = _group(subcommands, "config", "look at the configuration")
    _add(of_config, "check", config.check, "report every mistake, or print the configuration")
    return parser


def _add_user(subcommands: _Parsers[argparse.ArgumentParser]) -> None:
    text = "add a user; asks for a password unless told otherwise"
    added = _add_with_options(subcommands, "add", users.add, users.AddOptions, text)
    added.add_argument("name", metavar="NAME")
    added.add_argument("--password-stdin", action="store_true", help="the password is the first line of standard input")
    added.add_argument(
        "--authorized-key",
        dest="authorized_keys",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="public key; repeatable",
    )
    added.add_argument("--role", action=_RoleAction, choices=[role.value for role in Role], default=Role.ADMIN)
    _add(subcommands, "list", users.list_, "list the users, their roles and ways to log in")
    changed = _add_with_options(
        subcommands, "passwd", users.change_password, users.PasswordOptions, "change a password"
    )
    changed.add_argument("name", metavar="NAME")
    changed.add_argument("--password-stdin", action="store_true", help="as in user add")
    removed = _add_with_options(subcommands, "remove", users.remove, users.RemoveOptions, "remove a user")
    removed.add_argument("name", metavar="NAME")


def _add_host_key(subcommands: _Parsers[argparse.ArgumentParser]) -> None:
    _add(subcommands, "list", host_keys.list_, "list the host key in use and the next one")
    text = "make the next host key and announce it to clients"
    rotated = _add_with_options(subcommands, "rotate", host_keys.rotate, host_keys.RotateOptions, text)
    rotated.add_argument("--finish", action="store_true", help="take the next host key into use, drop the old one")


def _add_audit(subcommands: _Parsers[argparse.ArgumentParser]) -> None:
    text = "check that no audit record was changed, and report every change"
    verified = _add_with_options(subcommands, "verify", audit.verify, audit.VerifyOptions, text)
    verified.add_argument(
        "--head", metavar="[NODE=]SEQ:MAC", help="also check that the store was not rolled back to before this head"
    )


def _add_backup(subcommands: _Parsers[argparse.ArgumentParser]) -> None:
    text = "write the store and its keys to one file, while the server serves"
    made = _add_with_options(subcommands, "backup", backup, CreateOptions, text)
    made.add_argument("file", type=Path, metavar="FILE")
    how = made.add_mutually_exclusive_group()
    how.add_argument("--passphrase-file", metavar="FILE", help=_PASSPHRASE_HELP)
    how.add_argument(
        "--recipient",
        dest="recipients",
        action="append",
        default=[],
        metavar="KEY",
        help="encrypt to age1… or an SSH public key; repeatable",
    )
    how.add_argument("--unencrypted", action="store_true", help="do not encrypt the file")
    _add_identities(made, "key file to verify the new backup with")
    made.add_argument("--without-keys", action="store_true", help="leave the storage key and the host keys out")
    made.add_argument(
        "--storage-key-in-clear", action="store_true", help="with --unencrypted: include the keys, unprotected"
    )
    made.add_argument("--force", dest="replace", action="store_true", help="replace FILE")
    made.add_argument("--scratch", type=Path, metavar="DIR", help="folder for the temporary copy of the database")


def _add_restore(subcommands: _Parsers[argparse.ArgumentParser]) -> None:
    text = "restore the store from a backup, while the server is stopped"
    restored = _add_with_options(subcommands, "restore", restore, RestoreOptions, text)
    restored.add_argument("file", type=Path, metavar="FILE")
    restored.add_argument("--passphrase-file", metavar="FILE", help=_PASSPHRASE_HELP)
    _add_identities(restored, "key file that opens the backup; repeatable")
    restored.add_argument(
        "--verify-only", action="store_true", help="check the backup, print its contents, change nothing"
    )
    restored.add_argument(
        "--foreign",
        action="store_true",
        help="accept a backup of another console, with another storage key: its users and API keys replace those here",
    )
    restored.add_argument("--force", dest="replace", action="store_true", help="move the present store aside")


def _add_migrate_store(subcommands: _Parsers[argparse.ArgumentParser]) -> None:
    text = "copy the store to another database, SQLite or PostgreSQL, while no server serves it"
    migrated = _add_with_options(subcommands, "migrate-store", migrate_store, MigrateOptions, text)
    urls = "sqlite:///FILE, relative to the configuration, or postgresql://USER@HOST/DATABASE"
    migrated.add_argument("source", metavar="FROM", help=f"the present store: {urls}")
    migrated.add_argument("target", metavar="TO", help="the new store, in the same form; there must be none yet")


def _add_identities(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument(
        "--identity", dest="identities", type=Path, action="append", default=[], metavar="FILE", help=text
    )


def _group(subcommands: _Parsers[argparse.ArgumentParser], name: str, text: str) -> _Parsers[argparse.ArgumentParser]:
    return subcommands.add_parser(name, help=text).add_subparsers(required=True, metavar="COMMAND")


def _add(
    subcommands: _Parsers[argparse.ArgumentParser], name: str, run: Callable[[Config], Work], text: str
) -> argparse.ArgumentParser:
    parser = subcommands.add_parser(name, help=text, description=text)
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="configuration; without it config.yaml here, if there is one"
    )
    parser.set_defaults(bind=lambda _given: run, interrupted=INTERRUPTED)
    return parser


def _add_with_options(
    subcommands: _Parsers[argparse.ArgumentParser],
    name: str,
    run: Callable[[Config, _Options], Work],
    options: type[_Options],
    text: str,
) -> argparse.ArgumentParser:
    """Add a subcommand that takes its arguments as an instance of the dataclass `options`."""

    def bind(given: Mapping[str, Any]) -> Callable[[Config], Work]:
        names = [each.name for each in fields(options)]  # type: ignore[arg-type]  # a dataclass
        return partial(_run, run, options(**{each: _frozen(given[each]) for each in names}))

    parser = _add(subcommands, name, lambda _config: None, text)
    parser.set_defaults(bind=bind)
    return parser


def _run(run: Callable[[Config, _Options], Work], options: _Options, config: Config) -> Work:
    return run(config, options)


def _frozen(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


class _RoleAction(argparse.Action):
    """Stores the `Role` for a text that argparse has checked."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,  # noqa: ANN401  argparse's type
        _option: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, Role(values))
