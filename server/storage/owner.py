"""To whom belongs what root makes for a server that runs as somebody else. Blocking."""

from __future__ import annotations

import os
from pathlib import Path


def give(path: Path, folder: Path) -> None:
    """Give what root has made to whom a folder belongs; nothing is done for anybody else."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        give_open(descriptor, folder)
    finally:
        os.close(descriptor)


def give_open(descriptor: int, folder: Path) -> None:
    """Do so with what is open: in a folder of somebody else its name may be that of another file by now."""
    if os.geteuid() == 0:
        owner, has = folder.stat(), os.fstat(descriptor)
        if (has.st_uid, has.st_gid) != (owner.st_uid, owner.st_gid):  # where they are, a sandbox may deny the call
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
