"""Run a program under the system call filters of a service unit: `confine.py UNIT PROGRAM WORD …`.

libseccomp makes the filters as systemd does from `SystemCallFilter`, `MemoryDenyWriteExecute` and
`RestrictAddressFamilies`. A machine without systemd can test this part of the sandbox.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import subprocess
import sys
from pathlib import Path

ALLOW = 0x7FFF0000
REFUSE = 0x00050000
EQUAL, AT_LEAST, MASKED_EQUAL = 4, 5, 7
#: `AF_MAX` of the kernel: families from here on are unknown.
_FAMILIES = 46
SHM_EXEC = 0o100000
LIBRARY = "libseccomp.so.2"


class Comparison(ctypes.Structure):
    """`scmp_arg_cmp`: how a filter compares an argument of a system call."""

    _fields_ = (("argument", ctypes.c_uint), ("operator", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


class Filter:
    """One seccomp filter."""

    def __init__(self, otherwise: int) -> None:
        """Start with the default action for calls without a rule."""
        self._library = ctypes.CDLL(LIBRARY)
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(ctypes.c_uint32(otherwise)))

    def rule(self, action: int, call: str, *comparisons: Comparison) -> None:
        """Add a rule, unless this architecture lacks the call."""
        number = self._library.seccomp_syscall_resolve_name(call.encode())
        if number < 0:
            return
        given = (Comparison * max(1, len(comparisons)))(*comparisons)
        failed = self._library.seccomp_rule_add_array(
            self._context, ctypes.c_uint32(action), number, len(comparisons), given
        )
        if failed:
            raise OSError(-failed, call)

    def load(self) -> None:
        """Apply the filter permanently."""
        if failed := self._library.seccomp_load(self._context):
            raise OSError(-failed, "seccomp_load")


def confinable() -> None:
    """Skip the test where these filters cannot be applied; with CI=true fail instead."""
    import pytest  # noqa: PLC0415  a confined program needs none of it
    from console import needs  # noqa: PLC0415

    needs("systemd-analyze")
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        if os.environ.get("CI") == "true":
            pytest.fail(f"the library {LIBRARY} is not installed")
        pytest.skip(f"the library {LIBRARY} is not installed")


def settings(unit: Path, name: str) -> list[str]:
    """Return the values of a setting, in order."""
    lines = unit.read_text(encoding="utf-8").splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


def calls(group: str) -> set[str]:
    """Return the system calls of a group such as `@system-service`, with nested groups."""
    if not group.startswith("@"):
        return {group}
    words = ["systemd-analyze", "syscall-filter", "--no-pager", group]
    listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()[1:]
    names = [line.strip() for line in listed if line.strip() and not line.strip().startswith("#")]
    return set().union(*(calls(name) for name in names))


def allowed(unit: Path) -> set[str]:
    """Return the calls that `SystemCallFilter` allows, starting from an allow-list."""
    left = calls("@default")
    for value in settings(unit, "SystemCallFilter"):
        named = set().union(*(calls(group) for group in value.removeprefix("~").split()))
        left = left - named if value.startswith("~") else left | named
    return left | {"execve"}  # systemd allows the start of the program itself


def confine(unit: Path) -> None:
    """Apply the unit's filters to this process."""
    permitted = allowed(unit)  # runs before the filters apply, because it asks systemd-analyze
    families, memory = Filter(ALLOW), Filter(ALLOW)
    named = " ".join(settings(unit, "RestrictAddressFamilies")).split()
    permitted_families = {int(getattr(socket, name)) for name in named}
    for family in sorted(set(range(_FAMILIES)) - permitted_families):
        families.rule(REFUSE | errno.EAFNOSUPPORT, "socket", Comparison(0, EQUAL, family, 0))
    families.rule(REFUSE | errno.EAFNOSUPPORT, "socket", Comparison(0, AT_LEAST, _FAMILIES, 0))
    if settings(unit, "MemoryDenyWriteExecute") == ["yes"]:
        both = mmap.PROT_WRITE | mmap.PROT_EXEC
        memory.rule(REFUSE | errno.EPERM, "mmap", Comparison(2, MASKED_EQUAL, both, both))
        for call in ("mprotect", "pkey_mprotect"):
            memory.rule(REFUSE | errno.EPERM, call, Comparison(2, MASKED_EQUAL, mmap.PROT_EXEC, mmap.PROT_EXEC))
        memory.rule(REFUSE | errno.EPERM, "shmat", Comparison(2, MASKED_EQUAL, SHM_EXEC, SHM_EXEC))
    main = Filter(REFUSE | errno.EPERM)
    for call in sorted(permitted):
        main.rule(ALLOW, call)
    for each in (families, memory, main):
        each.load()


if __name__ == "__main__":
    confine(Path(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606  no shell is wanted
