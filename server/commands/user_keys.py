"""The public keys of users: `/cocon/user/key/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from server.auth.keys import fingerprint, parse_key, weakness
from server.commands.context import CompletionContext, Context
from server.commands.kinds import DATE, KEY_WORD, SOURCES, USER
from server.errors import ArgumentError
from server.escaping import escaped
from server.grammar.declare import Kind, Relation, command
from server.model.access import Permission, UserKey, shown_time
from server.render.reply import Column, Lines, Table
from server.services import users as service
from server.storage import users

_HERE = "/cocon/user/key/"
_EXAMPLE = "cocon/user/key/"
_CHANGE = Permission.USERS_CHANGE
_PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFNCm5BTBpYMPntsDaOcenjoZ5ypNpm8ovhgjLtQJ1hz"
_COLUMNS = (
    Column("fingerprint", "Fingerprint"),
    Column("algorithm", "Algorithm"),
    Column("from", "From", lambda sources: "\n".join(sources) or "everywhere"),
    Column("expires_at", "Expires", shown_time),
    Column("weakness", "State", lambda weak: f"weak, opens nothing: {weak}" if weak else "usable"),
    Column("comment", "Comment", escaped),
)


async def _stored_fingerprints(context: CompletionContext, arguments: Mapping[str, Any], beginning: str) -> list[str]:
    user = await users.find(context.store.read, str(arguments.get("user", "")))
    known = [fingerprint(key.public_key) for key in user.keys] if user else []
    return sorted(each for each in known if each.startswith(beginning))


FINGERPRINT = Kind("<FINGERPRINT>", "SHA256:… as key/list shows it", str, _stored_fingerprints)


@command(
    _HERE + "add", permission=_CHANGE, examples=(_EXAMPLE + f"add eve {_PUBLIC} eve@laptop --from 10.0.0.0/8 --check",)
)
async def add(
    context: Context,
    user: Annotated[str, USER],
    key: Annotated[str, KEY_WORD],
    *more: Annotated[str, KEY_WORD],
    from_: Annotated[tuple[str, ...], SOURCES, Relation("addresses from which the key works; all without it")] = (),
    expires: Annotated[str | None, DATE, Relation("time at which the key expires")] = None,
) -> Lines:
    """Allow a user to log in with a public key, given as the line of a .pub file."""
    try:
        parsed = parse_key(" ".join((key, *more)))
    except ValueError as wrong:
        message = f"<KEY>: the key {wrong}"
        options = ("Put '…' around a line with options, or give --from and --expires.",) if "=" in key else ()
        raise ArgumentError(message, *options) from wrong
    until = parsed.expires_at if expires is None else expires or None
    added = replace(parsed, sources=from_ or parsed.sources, expires_at=until)
    shown = await service.add_key(context, user, added)
    return Lines((f"Key {shown} added",))


@command(_HERE + "list", permission=Permission.USERS_READ, examples=(_EXAMPLE + "list eve",))
async def list_(context: Context, user: Annotated[str, USER]) -> Table:
    """List the public keys of a user, also those that are too weak to log in with."""
    known = await users.find(context.store.read, user)
    if known is None:
        raise service.no_such_user(user)
    return Table(_COLUMNS, [_row(key) for key in known.keys])


@command(
    _HERE + "remove",
    permission=_CHANGE,
    examples=(_EXAMPLE + "remove eve SHA256:NFuJ4z6VV8Diy/AkSx5MkAObPPRqXkgx9v1fAaZLfa0 --check",),
)
async def remove(context: Context, user: Annotated[str, USER], key: Annotated[str, FINGERPRINT]) -> Lines:
    """Remove a public key from a user. Open sessions go on."""
    await service.remove_key(context, user, key)
    return Lines((f"Key {key} removed",))


def _row(key: UserKey) -> tuple[object, ...]:
    algorithm = key.public_key.partition(" ")[0]
    weak = weakness(key.public_key)
    return (fingerprint(key.public_key), algorithm, key.sources, key.expires_at, weak, key.comment)


DIRECTORIES = {"/cocon/user/key": "The public keys with which users log in."}
COMMANDS = (add, list_, remove)
