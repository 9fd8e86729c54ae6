"""Whose folders a store lies in, and working there as that user. Blocking.

A folder's owner may put a link, a FIFO or another folder under every name in it, between a check and a use too. So
root never works in a folder of somebody else: for the time it becomes the folder's owner, who can be led nowhere that
he may not go himself. What it makes there belongs to that owner. docs/adr/0012 has the reasons.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from server.errors import StartError
from server.plain_files import open_plain

ROOT = 0
_NOBODY = 65_534
_MOST_LINKS = 40  # as the kernel
_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class _Owner:
    """A user that root works as. `groups` are those besides its own one."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def __str__(self) -> str:
        return _name(self.uid)


@contextmanager
def working_for(*places: Path, shared: bool = False) -> Iterator[None]:
    """Work as the one user besides root whose folders and links lie on the way to these places.

    Nobody but root becomes anybody. It may be nested: a place of root's inside is worked on as root. A `shared` folder
    such as /tmp will do where all names are new and cannot be guessed. Raises StartError where several users could
    lead the work astray, and where that user may not do what is asked.
    """
    if not _may_switch():
        yield
        return
    before = _Owner(os.geteuid(), os.getegid(), tuple(os.getgroups()))
    owner = before
    try:
        _become(_Owner(ROOT, ROOT, before.groups) if before.uid != ROOT else before)
        ways = [_way(place) for place in places]
        for place, way in zip(places, ways, strict=True):
            _refuse_writable(place, way, shared=shared)
        root = _Owner(ROOT, before.gid if before.uid == ROOT else ROOT, before.groups)
        owner = _owner_of(ways, ", ".join(map(str, places))) or root
        _become(owner)
        yield
    except PermissionError as error:
        if owner.uid == ROOT:
            raise
        message = f"root works as {owner} in a folder of {owner}, who may not do this: {error}"
        raise StartError(message) from error
    finally:
        if _may_switch():
            _become(before)


def give_up_root() -> None:
    """Stay for good the user that root has become, if it has. Raises StartError where it cannot load the program."""
    if _may_switch() and os.geteuid() != ROOT:
        uid, gid = os.geteuid(), os.getegid()
        _refuse_unreadable_program(uid)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)


def obey(configuration: Path) -> None:
    """Become for good the user who can write this configuration, where it is not root's: it says what root would do."""
    if not _may_switch():
        return
    owner = _owner_of([_way(configuration), [configuration.stat()]], str(configuration))
    if owner is not None:
        _become(owner)
        give_up_root()


def owners_of(path: Path) -> set[int]:
    """Return the users besides root who own a folder or link on the way to a path, whether it is there or not."""
    return {found.st_uid for found in _way(path) if _is_foreign(found)}


def opened_folder(path: Path) -> int:
    """Open a folder and return its descriptor. No link that lies in a folder of somebody else is followed by root."""
    if os.geteuid() != ROOT:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    steps = [*reversed(path.absolute().parts[1:])]
    folder, links = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), 0
    try:
        while steps:
            name = steps.pop()
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISLNK(found.st_mode):
                folder = _stepped(folder, name)
                continue
            links += 1
            if links > _MOST_LINKS or _is_foreign(found) or _is_foreign(os.fstat(folder)):
                _refuse_link(path)
            target = Path(os.readlink(name, dir_fd=folder))
            if target.is_absolute():
                folder = _stepped(folder, "/")
            steps += [part for part in reversed(target.parts) if part != "/"]
    except BaseException:
        os.close(folder)
        raise
    return folder


def opened_file(path: Path) -> int:
    """Open a regular file for reading, which root may be led to by no link of somebody else."""
    folder = opened_folder(path.parent)
    try:
        foreign = os.geteuid() == ROOT and _is_foreign(os.fstat(folder))
        return open_plain(path.name, links=not foreign, folder=folder)
    finally:
        os.close(folder)


def _refuse_link(path: Path) -> NoReturn:
    raise OSError(errno.ELOOP, "a link that root does not follow is on the way", str(path))


def _stepped(folder: int, name: str) -> int:
    """Return the folder of this name in an open one, which is closed."""
    opened = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    os.close(folder)
    return opened


def _may_switch() -> bool:
    return os.getresuid()[2] == ROOT


def _become(owner: _Owner) -> None:
    now = os.geteuid(), os.getegid()
    if now == (owner.uid, owner.gid):
        return  # a sandbox may deny the calls below
    try:
        os.seteuid(ROOT)
        os.setgroups(owner.groups if owner.uid == ROOT else ())
        os.setegid(owner.gid)
        os.seteuid(owner.uid)
    except OSError as error:
        message = f"root cannot work as {owner}, who owns the folder: {error.strerror}; run this as {owner}"
        raise StartError(message) from error


def _owner_of(ways: Sequence[Sequence[os.stat_result]], where: str) -> _Owner | None:
    """Return the one user besides root who owns what lies on these ways; None where all is root's."""
    foreign = {found.st_uid: found for way in ways for found in way if _is_foreign(found)}
    if not foreign:
        return None
    if len(foreign) > 1:
        names = " and ".join(_name(uid) for uid in sorted(foreign))
        message = (
            f"what {names} own is on the way to {where}, so root does not work there: run this as the service's user"
        )
        raise StartError(message)
    ((uid, found),) = foreign.items()
    try:
        gid = pwd.getpwuid(uid).pw_gid
    except KeyError:
        gid = found.st_gid
    return _Owner(uid, gid or _NOBODY)  # root's own group opens files too


def _way(path: Path) -> list[os.stat_result]:
    """Return what is on the way to a path as far as it goes: folders, and links before where they lead.

    Whoever owns one of these can change all behind it, but nothing before it: so the first one is certain.
    """
    way = [Path("/").stat()]
    steps = [*reversed(path.absolute().parts[1:])]
    at, links = "/", 0
    while steps:
        name = steps.pop()
        if name == "..":
            at = os.path.dirname(at)  # noqa: PTH120  the way here has no links left
            continue
        here = os.path.join(at, name)  # noqa: PTH118  no Path, which is slower and says no more
        try:
            found = os.lstat(here)
        except FileNotFoundError:
            break
        if stat.S_ISLNK(found.st_mode):
            way.append(found)
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            target = os.readlink(here)  # noqa: PTH115  likewise
            at = "/" if target.startswith("/") else at
            steps += [part for part in reversed(target.split("/")) if part not in {"", "."}]
        elif stat.S_ISDIR(found.st_mode):
            way.append(found)
            at = here
        else:
            break
    return way


def _is_foreign(found: os.stat_result) -> bool:
    return found.st_uid != ROOT and (found.st_uid != _NOBODY or _is_mapped(_NOBODY))


def _is_mapped(uid: int) -> bool:
    """Tell whether a user is one of this user namespace; files of users outside of it all belong to nobody."""
    with open("/proc/self/uid_map", encoding="ascii") as file:  # noqa: PTH123  /proc is no place of anybody's
        ranges = [tuple(map(int, line.split())) for line in file]
    return any(first <= uid < first + count for first, _, count in ranges)


def _refuse_writable(place: Path, way: Sequence[os.stat_result], *, shared: bool) -> None:
    """Raise StartError where others than root may put files beside those of a store of root's."""
    folders = [found for found in way if stat.S_ISDIR(found.st_mode)]
    last = folders[-1]
    open_to_all = any(found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX for found in folders)
    by_others = last.st_uid == ROOT and last.st_mode & (_BY_OTHERS if last.st_gid != ROOT else stat.S_IWOTH)
    if open_to_all or (by_others and not shared):
        message = (
            f"others than root may write where {place} lies, so root does not work there: chown or chmod the folder"
        )
        raise StartError(message)


def _refuse_unreadable_program(uid: int) -> None:
    """Raise StartError where a user cannot load the rest of a program that goes on, which imports some of it late."""
    try:
        for file in (__file__, os.__file__):
            Path(file).stat()
    except PermissionError as error:
        message = (
            f"root goes on as {_name(uid)}, who owns the folder and cannot read this program ({error.filename}): "
            "install it and its Python where everybody can read them"
        )
        raise StartError(message) from error


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
