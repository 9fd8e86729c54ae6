"""Work as the owner of a store's folders, so that root cannot be misled there. Blocking.

A folder's owner can put a link, a FIFO or another folder under every name in it, even between a check and a use. So
root never works in another user's folder. It becomes the owner meanwhile, and no link leads further than this owner may
go. New files then belong to the owner. docs/adr/0012 has the reasons.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from server.errors import StartError
from server.plain_files import open_plain

ROOT = 0
_NOBODY = 65_534
_NO_HOME = "/nonexistent"
_MOST_LINKS = 40  # like the kernel
_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class _Owner:
    """A user that root works as. `groups` are the supplementary groups."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def __str__(self) -> str:
        return _name(self.uid)


@contextmanager
def working_for(*places: Path, shared: bool = False) -> Iterator[None]:
    """Work as the one user besides root who owns folders or links on the way to these places.

    Only root changes its user. Calls may be nested: a place of root's inside is worked on as root. A `shared` folder
    such as /tmp is accepted when all new names in it are unguessable. Raises StartError when several users could
    mislead root, or when that user lacks a permission.
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
        with _home_of(owner) if owner.uid != before.uid else nullcontext():
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
    """Drop root for good after root has become a user.

    Raises StartError if that user cannot load the program.
    """
    if _may_switch() and os.geteuid() != ROOT:
        uid, gid = os.geteuid(), os.getegid()
        _refuse_unreadable_program(uid)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)


def obey(configuration: Path) -> None:
    """Become for good the user who can write this configuration, unless root owns it.

    That user decides with the configuration what root would do.
    """
    if not _may_switch():
        return
    owner = _owner_of([_way(configuration), [configuration.stat()]], str(configuration))
    if owner is not None:
        _become(owner)
        os.environ["HOME"] = _home(owner.uid)
        give_up_root()


def owners_of(path: Path) -> set[int]:
    """Return the users besides root who own a folder or link on the way to a path that need not exist."""
    return {found.st_uid for found in _way(path) if _is_foreign(found)}


def opened_folder(path: Path) -> int:
    """Open a folder and return its descriptor. Root follows no link in a folder of another user."""
    if os.geteuid() != ROOT:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    steps = [*reversed(path.absolute().parts[1:])]
    folder, links = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), 0
    try:
        while steps:
            name = steps.pop()
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISLNK(found.st_mode):
                folder = _enter_folder(folder, name)
                continue
            links += 1
            if links > _MOST_LINKS or _is_foreign(found) or _is_foreign(os.fstat(folder)):
                _refuse_link(path)
            target = Path(os.readlink(name, dir_fd=folder))
            if target.is_absolute():
                folder = _enter_folder(folder, "/")
            steps += [part for part in reversed(target.parts) if part != "/"]
    except BaseException:
        os.close(folder)
        raise
    return folder


def opened_file(path: Path) -> int:
    """Open a regular file for reading. Root follows no link of another user."""
    folder = opened_folder(path.parent)
    try:
        foreign = os.geteuid() == ROOT and _is_foreign(os.fstat(folder))
        return open_plain(path.name, links=not foreign, folder=folder)
    finally:
        os.close(folder)


def _refuse_link(path: Path) -> NoReturn:
    raise OSError(errno.ELOOP, "a link that root does not follow is on the way", str(path))


def _enter_folder(folder: int, name: str) -> int:
    """Open the folder `name` in an open folder, close that one, and return the new descriptor."""
    opened = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    os.close(folder)
    return opened


def _may_switch() -> bool:
    return os.getresuid()[2] == ROOT


@contextmanager
def _home_of(owner: _Owner) -> Iterator[None]:
    """Let libraries look for files below the home of this user, because it may not look into root's home."""
    before = os.environ.get("HOME")
    os.environ["HOME"] = _home(owner.uid)
    try:
        yield
    finally:
        os.environ.pop("HOME", None)
        if before is not None:
            os.environ["HOME"] = before


def _home(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:
        return _NO_HOME


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
    """Return the one user besides root who owns something on these ways; None when root owns all."""
    foreign = {found.st_uid: found for way in ways for found in way if _is_foreign(found)}
    if not foreign:
        return None
    if len(foreign) > 1:
        names = " and ".join(_name(uid) for uid in sorted(foreign))
        message = (
            f"{names} own folders or links on the way to {where}, so root does not work there: "
            "run this as the service's user"
        )
        raise StartError(message)
    ((uid, found),) = foreign.items()
    try:
        gid = pwd.getpwuid(uid).pw_gid
    except KeyError:
        gid = found.st_gid
    return _Owner(uid, gid or _NOBODY)  # files of root's own group would still be open to it


def _way(path: Path) -> list[os.stat_result]:
    """Return the status of all folders and links on the way to a path, each link before its target.

    The way ends where the path does not exist. An owner can change all later entries, but no earlier ones. So the first
    owner is certain. Raises StartError when an entry is changed between two steps, or when links lead in a circle.
    """
    try:
        return _walked(path)
    except PermissionError:
        raise
    except OSError as error:
        message = f"the way to {path} cannot be examined: {error.strerror}; nothing was changed"
        raise StartError(message) from error


def _walked(path: Path) -> list[os.stat_result]:
    way = [Path("/").stat()]
    steps = [*reversed(path.absolute().parts[1:])]
    at, links = "/", 0
    while steps:
        name = steps.pop()
        if name == "..":
            at = os.path.dirname(at)  # noqa: PTH120  `at` has no links left
            continue
        here = os.path.join(at, name)  # noqa: PTH118  faster than Path
        try:
            found = os.lstat(here)
        except FileNotFoundError:
            break
        if stat.S_ISLNK(found.st_mode):
            way.append(found)
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            target = os.readlink(here)  # noqa: PTH115  a Path would normalise the target
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
    """Tell whether a user exists in this user namespace; files of outside users all belong to nobody."""
    with open("/proc/self/uid_map", encoding="ascii") as file:  # noqa: PTH123  /proc belongs to the kernel
        ranges = [tuple(map(int, line.split())) for line in file]
    return any(first <= uid < first + count for first, _, count in ranges)


def _refuse_writable(place: Path, way: Sequence[os.stat_result], *, shared: bool) -> None:
    """Raise StartError when others than root can put files beside those of root's store."""
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
    """Raise StartError when a user cannot read the program, which imports some modules late."""
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
