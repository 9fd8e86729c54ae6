"""Rotate the server's host key: announce the next key to clients first, then replace the key in use."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from server.errors import StartError
from server.services.change import Actor


@dataclass(frozen=True, slots=True)
class Rotation:
    """Fingerprints of the host key in use and of the next one."""

    used: str
    next: str


class HostKeyFolder(Protocol):
    """The folder of the host keys. Every method raises StartError on failure."""

    def held(self) -> AbstractContextManager[None]:
        """Lock the folder against other programs."""

    def make_next(self) -> Rotation:
        """Make the next host key, which must not exist yet."""

    def drop_next(self) -> None:
        """Remove the next host key again."""

    def under_way(self) -> Rotation:
        """Return the rotation that is under way. The caller holds the folder's lock."""

    def take_next(self) -> None:
        """Replace the host key in use with the next one."""


async def begin_rotation(actor: Actor, folder: HostKeyFolder) -> Rotation:
    """Make the next host key inside the transaction of its record, so that two rotations cannot overlap.

    If the record fails, the key is removed again, because the next start would announce it.
    """
    made = False
    try:
        async with actor.change() as query:
            rotation = folder.make_next()
            made = True
            await actor.record(query, {"used": rotation.used, "next": rotation.next})
    except BaseException:
        if made:
            folder.drop_next()
        raise
    return rotation


async def finish_rotation(actor: Actor, folder: HostKeyFolder) -> Rotation:
    """Record that the next key replaces the key in use, then replace it. Return the finished rotation.

    In the other order a failed commit would leave a new key without a record, and the old key deleted. If the program
    is killed between the two steps, the old key stays in use: the next start records it as `host.change`, and the
    rotation can be finished again.
    """
    with folder.held():
        async with actor.change() as query:
            rotation = folder.under_way()
            await actor.record(query, {"used": rotation.next, "dropped": rotation.used})
        try:
            folder.take_next()
        except StartError as error:
            message = f"{error}; the record of it is written, so do it again when that is mended"
            raise StartError(message) from error
    return rotation
