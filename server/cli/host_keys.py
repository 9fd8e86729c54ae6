"""`ecss-console hostkey`: lists the server's host keys, and rotates them without a warning in clients."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from server.cli.host_change import HostChange
from server.cli.output import say
from server.config import Config
from server.durable import locked_folder
from server.file_names import ECDSA_HOST_KEY_NAME, HOST_KEY_NAME, NEXT_HOST_KEY_NAME
from server.model.events import EventKind
from server.services.host_keys import Rotation, begin_rotation, finish_rotation
from server.storage.opening import open_store
from server.transport.hostkey import (
    HostKeys,
    drop_next,
    ecdsa_host_key,
    fingerprint_of,
    host_keys,
    keys_to_finish,
    make_next,
    take_next,
)

_RELOAD = "systemctl reload ecss-console, or kill -HUP to its process"


@dataclass(frozen=True, slots=True)
class RotateOptions:
    """Options of `hostkey rotate`. `finish` ends a rotation instead of beginning one."""

    finish: bool = False


@dataclass(frozen=True, slots=True)
class _Folder:
    """The `HostKeyFolder` of `services.host_keys`: the configured keys folder."""

    path: Path

    def held(self) -> AbstractContextManager[None]:
        return locked_folder(self.path)

    def make_next(self) -> Rotation:
        return _rotation(make_next(self.path))

    def drop_next(self) -> None:
        drop_next(self.path)

    def under_way(self) -> Rotation:
        return _rotation(keys_to_finish(self.path))

    def take_next(self) -> None:
        take_next(self.path)


def _rotation(keys: HostKeys) -> Rotation:
    return Rotation(fingerprint_of(keys.used), fingerprint_of(keys.announced[-1]))


async def list_(config: Config) -> None:
    """Print one line for each host key: its state (`in use`, `next`), its fingerprint and its file."""
    async with open_store(config, make=False):
        keys = host_keys(config.keys_dir, ecdsa=config.ecdsa_host_key)
        ecdsa = ecdsa_host_key(config.keys_dir)
    say(f"in use\t{fingerprint_of(keys.used)}\t{config.keys_dir / HOST_KEY_NAME}")
    if keys.next is not None:
        say(f"next\t{fingerprint_of(keys.next)}\t{config.keys_dir / NEXT_HOST_KEY_NAME}")
    if ecdsa is not None:
        place = "in use" if keys.ecdsa is not None else "not in use"
        say(f"{place} (ECDSA)\t{fingerprint_of(ecdsa)}\t{config.keys_dir / ECDSA_HOST_KEY_NAME}")


async def rotate(config: Config, options: RotateOptions) -> None:
    """Begin or finish a rotation, and print the steps that follow."""
    await (_finish(config) if options.finish else _begin(config))


async def _begin(config: Config) -> None:
    async with open_store(config, make=False) as store:
        change = HostChange(store, config.node.name, "hostkey rotate", EventKind.HOST_KEY_CHANGE)
        rotation = await begin_rotation(change, _Folder(config.keys_dir))
    say(f"The next host key is {rotation.next}; the one in use stays {rotation.used}.")
    say(f"1. Reload the server ({_RELOAD}): from then on clients are told of the next key when they log in.")
    say("2. When everybody has logged in since: ecss-console hostkey rotate --finish")


async def _finish(config: Config) -> None:
    async with open_store(config, make=False) as store:
        host_keys(config.keys_dir)
        change = HostChange(store, config.node.name, "hostkey rotate --finish", EventKind.HOST_KEY_CHANGE)
        rotation = await finish_rotation(change, _Folder(config.keys_dir))
    say(f"The host key is {rotation.next} now; the old one, {rotation.used}, is gone.")
    say(f"Reload the server ({_RELOAD}): it uses the old key until then.")
    say(f"Clients that have not learnt the key will warn: give them {config.keys_dir / HOST_KEY_NAME}.pub")
