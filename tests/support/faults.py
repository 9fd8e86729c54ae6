"""Disk and clock faults for test servers: `faults.c`, compiled on demand, and its control."""

from __future__ import annotations

import errno
import mmap
import struct
import subprocess
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path

_FIELDS = ("kinds", "error", "passing", "failing", "seen", "failed", "sequence", "clock_seconds", "partial")
FOR_EVER = 2**62
SOURCE = Path(__file__).with_name("faults.c")


class Kind(IntFlag):
    """File operations of a process: `enum kind` of faults.c. OPEN means open for writing."""

    WRITE = 1
    SYNC = 2
    TRUNCATE = 4
    OPEN = 8
    NAME = 16
    READ = 32


CHANGES = Kind.WRITE | Kind.TRUNCATE | Kind.OPEN | Kind.NAME


@dataclass(frozen=True)
class Faults:
    """The control of one process, which may be running; `folder` holds the affected files."""

    library: Path
    control: Path
    folder: Path
    fields: mmap.mmap

    @classmethod
    def make(cls, library: Path, control: Path, folder: Path) -> Faults:
        """Start without faults. `control` must not be in `folder`."""
        control.write_bytes(bytes(8 * len(_FIELDS)))
        with control.open("r+b") as file:
            return cls(library, control, folder.resolve(), mmap.mmap(file.fileno(), 0))

    def environment(self, trace: Path | None = None) -> dict[str, str]:
        """Return the environment for the process; it records its changes in `trace`."""
        settings = {"LD_PRELOAD": self.library, "FAULTS_CONTROL": self.control, "FAULTS_FOLDER": self.folder}
        return {name: str(path) for name, path in (settings | ({"FAULTS_TRACE": trace} if trace else {})).items()}

    def get(self, field: str) -> int:
        """Return a number of the control."""
        (number,) = struct.unpack_from("q", self.fields, 8 * _FIELDS.index(field))
        return int(number)

    def set(self, **numbers: int) -> None:
        """Set numbers of the control."""
        for field, number in numbers.items():
            struct.pack_into("q", self.fields, 8 * _FIELDS.index(field), number)

    def fail(self, kinds: Kind, error: int = errno.EIO, *, passing: int = 0, failing: int = FOR_EVER) -> None:
        """Let the next `passing` operations of these kinds pass, then fail this many. Resets the counters."""
        self.set(kinds=0)
        self.set(error=error, passing=passing, failing=failing, seen=0, failed=0)
        self.set(kinds=kinds)

    def mend(self) -> int:
        """End the fault; return the number of failed operations."""
        self.set(kinds=0, partial=0)
        return self.get("failed")

    def sequence(self) -> int:
        """Return how many changes are recorded in the trace."""
        return self.get("sequence")


def compiled(to: Path) -> Path:
    """Compile the library. Raises CalledProcessError with the compiler's output."""
    words = ["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", str(to), str(SOURCE), "-ldl", "-lpthread"]
    subprocess.run(words, check=True)
    return to
