"""`ecss-console hostkey`: the server's host keys, and how one follows another without a client being warned."""

from __future__ import annotations

import argparse

from server.app import open_store
from server.config import Config
from server.durable import locked_folder
from server.errors import StartError
from server.model.events import EventKind
from server.program.answer import record, say
from server.program.ending import change
from server.storage.owner import working_for
from server.transport.hostkey import (
    ECDSA_HOST_KEY_NAME,
    HOST_KEY_NAME,
    NEXT_HOST_KEY_NAME,
    drop_next,
    ecdsa_host_key,
    fingerprint_of,
    host_keys,
    keys_to_finish,
    make_next,
    take_next,
)

_RELOAD = "systemctl reload ecss-console, or kill -HUP to its process"


async def list_(config: Config, _options: argparse.Namespace) -> None:
    """Print the host keys, a line each: its place in the rotation, fingerprint, file."""
    async with open_store(config, make=False):
        keys = host_keys(config.keys_dir, ecdsa=config.ecdsa_host_key)
        ecdsa = ecdsa_host_key(config.keys_dir)
    say(f"in use\t{fingerprint_of(keys.used)}\t{config.keys_dir / HOST_KEY_NAME}")
    if keys.next is not None:
        say(f"next\t{fingerprint_of(keys.next)}\t{config.keys_dir / NEXT_HOST_KEY_NAME}")
    if ecdsa is not None:
        place = "in use" if keys.ecdsa is not None else "not in use"
        say(f"{place} (ECDSA)\t{fingerprint_of(ecdsa)}\t{config.keys_dir / ECDSA_HOST_KEY_NAME}")


async def rotate(config: Config, options: argparse.Namespace) -> None:
    """Make the next host key, or with `--finish` take it into use; say what is to be done then."""
    await (_finish(config) if options.finish else _begin(config))


async def _begin(config: Config) -> None:
    made = False
    try:
        async with open_store(config, make=False) as store, change(store) as query:
            keys = make_next(config.keys_dir)  # inside the transaction: two rotations at once take turns
            made = True
            following = fingerprint_of(keys.announced[-1])
            given = {"used": fingerprint_of(keys.used), "next": following}
            await record(query, config, "hostkey rotate", given, EventKind.HOST_KEY_CHANGE)
    except BaseException:
        if made:  # a key whose record could not be written would be announced at the next start
            with working_for(*config.places):
                drop_next(config.keys_dir)
        raise
    say(f"The next host key is {following}; the one in use stays {fingerprint_of(keys.used)}.")
    say(f"1. Reload the server ({_RELOAD}): from then on clients are told of the next key when they log in.")
    say("2. When everybody has logged in since: ecss-console hostkey rotate --finish")


async def _finish(config: Config) -> None:
    """Record that the next key is taken into use, then take it.

    The other way round, a commit that fails would leave a key in use that no record tells of, and the old one gone. So
    a program that is killed in between leaves the old key in use, as `host.change` of the next start says, and the
    rotation is finished again.
    """
    async with open_store(config, make=False) as store:
        host_keys(config.keys_dir)
        with locked_folder(config.keys_dir):  # two that finish at once take turns
            async with change(store) as query:
                keys = keys_to_finish(config.keys_dir)
                old, new = fingerprint_of(keys.used), fingerprint_of(keys.announced[-1])
                given = {"used": new, "dropped": old}
                await record(query, config, "hostkey rotate --finish", given, EventKind.HOST_KEY_CHANGE)
            try:
                take_next(config.keys_dir)
            except StartError as error:
                message = f"{error}; the record of it is written, so do it again when that is mended"
                raise StartError(message) from error
    say(f"The host key is {new} now; the old one, {old}, is gone.")
    say(f"Reload the server ({_RELOAD}): it uses the old key until then.")
    say(f"Clients that have not learnt the key will warn: give them {config.keys_dir / HOST_KEY_NAME}.pub")
