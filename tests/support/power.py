"""Rebuild the states that a power cut may leave of a folder, from the trace that `faults.c` records.

Synced data is kept. An unsynced write is lost, kept, kept in part by sectors of 512 bytes, or replaced by garbage. Of
the unsynced changes of names in a folder, the first ones are kept.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

How = Literal["lost", "kept", "some", "torn", "garbage"]
HOWS: tuple[How, ...] = ("lost", "kept", "some", "torn", "garbage")
_SECTOR = 512
_HEAD = struct.Struct("4q")


@dataclass(frozen=True)
class Record:
    """One file change: `C`reated, `W`ritten, `T`runcated, `S`ynced, `R`enamed, `U`nlinked, `D` folder made."""

    kind: str
    name: str
    offset: int
    data: bytes


@dataclass
class File:
    """The durable content of a file, and pending writes and truncations (data None)."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def sync(self) -> None:
        """Make all writes durable."""
        for offset, data in self.pending:
            _apply(self.durable, offset, data)
        self.pending.clear()

    def cut(self, how: How, dice: random.Random) -> bytes:
        """Return the content after a power cut."""
        content = bytearray(self.durable)
        for offset, data in self.pending:
            if data is None or how in {"lost", "kept", "some"}:
                if how == "kept" or (how != "lost" and dice.random() < 0.5):
                    _apply(content, offset, data)
                continue
            for begin, piece in _sectors(offset, data):
                if dice.random() < 0.5:
                    _apply(content, begin, dice.randbytes(len(piece)) if how == "garbage" else piece)
        return bytes(content)


def _sectors(offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    begin = 0
    while begin < len(data):
        end = min(len(data), begin + _SECTOR - (offset + begin) % _SECTOR)
        yield offset + begin, data[begin:end]
        begin = end


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    """Write, or truncate to `offset` without data; gaps are zeros."""
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    if data is None:
        del content[offset:]
    else:
        content[offset : offset + len(data)] = data


@dataclass(frozen=True)
class Naming:
    """A name given to a file or folder (None), or removed from `old`."""

    old: str | None
    new: str | None
    file: File | None


@dataclass
class Disk:
    """A folder with changing files, and its durable state."""

    names: dict[str, File | None] = field(default_factory=dict)
    durable: dict[str, File | None] = field(default_factory=dict)
    pending: dict[str, list[Naming]] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> Disk:
        """Start with the files of a folder, all durable."""
        found = {
            str(path.relative_to(folder)): None if path.is_dir() else File(bytearray(path.read_bytes()))
            for path in sorted(folder.rglob("*"))
        }
        return cls(dict(found), dict(found))

    def apply(self, record: Record) -> None:
        """Apply the next change."""
        file = self.names.get(record.name)
        if record.kind == "C":
            self._name(Naming(None, record.name, File()))
        elif record.kind == "D":
            self._name(Naming(None, record.name, None))
        elif record.kind == "U":
            self._name(Naming(record.name, None, None))
        elif record.kind == "R":
            self._name(Naming(record.name, record.data.decode(), file))
        elif record.kind == "S" and file is None:
            _rename(self.durable, self.pending.pop(record.name, []))
        elif file is not None and record.kind == "S":
            file.sync()
        elif file is not None:
            file.pending.append((record.offset, record.data if record.kind == "W" else None))

    def _name(self, naming: Naming) -> None:
        _rename(self.names, [naming])
        folder = str(Path(naming.new or naming.old or "").parent)
        self.pending.setdefault(folder, []).append(naming)

    def cut(self, folder: Path, how: How, dice: random.Random) -> None:
        """Write a possible state after a power cut into an empty folder."""
        names = dict(self.durable)
        for namings in self.pending.values():
            kept = {"lost": 0, "kept": len(namings)}.get(how, dice.randint(0, len(namings)))
            _rename(names, namings[:kept])
        folder.mkdir(parents=True, exist_ok=True)
        for name, file in sorted(names.items()):
            if not (folder / name).parent.is_dir():
                continue  # its folder does not exist
            if file is None:
                (folder / name).mkdir()
            else:
                (folder / name).write_bytes(file.cut(how, dice))


def _rename(names: dict[str, File | None], namings: list[Naming]) -> None:
    for naming in namings:
        if naming.old is not None:
            names.pop(naming.old, None)
        if naming.new is not None:
            names[naming.new] = naming.file


def records(trace: Path) -> Iterator[Record]:
    """Return the recorded changes in order."""
    with trace.open("rb") as file:
        while head := file.read(_HEAD.size):
            kind, offset, name_bytes, data_bytes = _HEAD.unpack(head)
            name = file.read(name_bytes).decode()
            yield Record(chr(kind), name, offset, file.read(data_bytes))
