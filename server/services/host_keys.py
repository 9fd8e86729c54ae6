"""Rotation of the server's host key: the next key is announced to clients first, then it replaces the one in use."""

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
    """The files of the host keys. Every method raises StartError where it cannot do its work."""

    def held(self) -> AbstractContextManager[None]:
        """Hold the folder against other programs."""

    def make_next(self) -> Rotation:
        """Make the next host key, which must not exist yet."""

    def drop_next(self) -> None:
        """Remove the next host key again."""

    def under_way(self) -> Rotation:
        """Return the rotation that is under way. Call it with the folder held."""

    def take_next(self) -> None:
        """Replace the host key in use by the next one."""


async def begin_rotation(actor: Actor, folder: HostKeyFolder) -> Rotation:
    """Make the next host key, inside the transaction of its record, so that two rotations at once take turns.

    A key without a record is removed, because the next start would announce it.
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
    """Record that the next key replaces the one in use, then replace it; return the rotation that has ended.

    In the other order a failed commit would leave a new key without a record, and the old key gone. A program killed
    in between leaves the old key in use, as `host.change` of the next start says, and the rotation is finished again.
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
