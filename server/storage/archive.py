"""A backup as an archive: a tar.gz of a manifest, keys and the database, of these names and no others. Blocking.

Nothing in it is believed before it is checked against the manifest, and nothing is written but what is expected:
a name, a type of member or an order that this program does not write is refused.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from server.errors import StartError
from server.model.lines import one_line
from server.plain_files import MOST_KEY_BYTES

FORMAT = 1
MANIFEST_NAME = "manifest.json"
DATABASE_NAME = "console.db"
#: What is taken of the keys folder; public halves are made anew from the private ones.
KEY_NAMES = ("storage.key", "ssh_host_ed25519_key", "ssh_host_ed25519_key_next", "ssh_host_ecdsa_key")
_KEYS = "keys/"
_MOST_MANIFEST_BYTES = 1024 * 1024
_BLOCK = 512
#: What an archive ends with: two blocks of zeros at the least, with those of `tar` up to a whole record.
_RECORD = 10_240 + 2 * _BLOCK
_CHUNK = 1024 * 1024
#: Sealed keys do not shrink; the audit does, at any level.
_LEVEL = 3


@dataclass(frozen=True)
class Manifest:
    """What a backup says of itself; `mac` is the storage key's word for the rest.

    `counts` are rows by table, `heads` the audit's newest records by node as `audit verify --head` takes them,
    `findings` what was wrong with the audit already, `files` size and SHA-256 by name.
    """

    format: int
    made_at: str
    made_by: str
    node: str
    schema: int
    storage_key: str
    counts: Mapping[str, int]
    heads: Mapping[str, str]
    findings: tuple[str, ...]
    files: Mapping[str, tuple[int, str]]
    mac: str = ""

    def signed_part(self) -> bytes:
        """Return what the mac is over."""
        return json.dumps({**asdict(self), "mac": ""}, sort_keys=True).encode()

    def text(self) -> bytes:
        """Return the manifest as it lies in the archive."""
        return json.dumps(asdict(self), indent=1).encode() + b"\n"


@dataclass(frozen=True)
class Unpacked:
    """An archive whose files are as its manifest says: the database as a file, the keys in memory only."""

    manifest: Manifest
    database: Path
    keys: Mapping[str, bytes] = field(repr=False)


def fingerprint(path: Path) -> tuple[int, str]:
    """Return size and SHA-256 of a file."""
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def pack(target: IO[bytes], manifest: Manifest, keys: Mapping[str, bytes], database: Path) -> None:
    """Write an archive."""
    with gzip.GzipFile(fileobj=target, mode="wb", compresslevel=_LEVEL, mtime=0, filename="") as packed:
        _add(packed, MANIFEST_NAME, manifest.text())
        for name, content in keys.items():
            _add(packed, _KEYS + name, content)
        size = database.stat().st_size
        packed.write(_header(DATABASE_NAME, size))
        with database.open("rb") as file:
            while chunk := file.read(_CHUNK):
                packed.write(chunk)
        packed.write(bytes(-size % _BLOCK + 2 * _BLOCK))


def key_files(keys: Mapping[str, bytes]) -> dict[str, tuple[int, str]]:
    """Return size and SHA-256 of keys by their names in the archive."""
    return {_KEYS + name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in keys.items()}


def unpack(source: IO[bytes], folder: Path) -> Unpacked:
    """Read an archive to its end, the database into `folder`. Raises StartError for one that is damaged or foreign."""
    try:
        with gzip.GzipFile(fileobj=source, mode="rb") as packed:
            return _unpacked(packed, folder)
    except (EOFError, gzip.BadGzipFile, zlib.error, tarfile.TarError) as error:
        raise damaged(str(error)) from error


def damaged(what: str) -> StartError:
    """Return the error for a backup that is not as it was written."""
    return StartError(f"the backup is damaged: {what}")


def _unpacked(packed: gzip.GzipFile, folder: Path) -> Unpacked:
    manifest = _manifest(_small(packed, _MOST_MANIFEST_BYTES, MANIFEST_NAME))
    keys: dict[str, bytes] = {}
    for name in manifest.files:
        if name == DATABASE_NAME:
            continue
        content = _small(packed, MOST_KEY_BYTES, name)
        keys[name.removeprefix(_KEYS)] = content
        if key_files({name.removeprefix(_KEYS): content})[name] != manifest.files[name]:
            what = f"{name} is not what the manifest says"
            raise damaged(what)
    database = folder / DATABASE_NAME
    _write_database(packed, database, manifest.files[DATABASE_NAME])
    end = packed.read(_RECORD + 1)
    if len(end) < 2 * _BLOCK or len(end) > _RECORD or any(end):
        what = "it ends too soon, or something follows its last file"
        raise damaged(what)
    return Unpacked(manifest, database, keys)


def _manifest(raw: bytes) -> Manifest:
    try:
        said: dict[str, Any] = json.loads(raw)
        if (number := _number(said["format"])) != FORMAT:
            message = f"the backup has format {number}, this program knows {FORMAT}: install the newer program"
            raise StartError(message)
        said["files"] = {name: (_number(size), str(digest)) for name, (size, digest) in said["files"].items()}
        said["counts"] = {str(table): _number(count) for table, count in said["counts"].items()}
        said["heads"] = {str(node): str(head) for node, head in said["heads"].items()}
        said["findings"] = tuple(map(str, said["findings"]))
        said["schema"] = _number(said["schema"])
        for name in ("made_at", "made_by", "node", "storage_key", "mac"):
            said[name] = str(said[name])
        manifest = Manifest(**said)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        what = "its manifest cannot be read"
        raise damaged(what) from error
    foreign = set(manifest.files) - {DATABASE_NAME, *(_KEYS + name for name in KEY_NAMES)}
    if foreign or DATABASE_NAME not in manifest.files or [*manifest.files][-1] != DATABASE_NAME:
        what = f"it names files that no backup has, {one_line(sorted(foreign))}" if foreign else "it names no database"
        raise damaged(what)
    return manifest


def _number(value: object) -> int:
    """Return what counts files, rows or bytes, or numbers a format. Raises ValueError for what no backup has."""
    number = int(str(value))
    if not 0 <= number < 2**63:
        raise ValueError(number)
    return number


def _write_database(packed: gzip.GzipFile, database: Path, expected: tuple[int, str]) -> None:
    size = _member(packed, DATABASE_NAME)
    if size != expected[0]:
        what = f"{DATABASE_NAME} is not as long as the manifest says"
        raise damaged(what)
    digest = hashlib.sha256()
    with os.fdopen(os.open(database, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        left = size
        while left:
            chunk = _exactly(packed, min(left, _CHUNK))
            digest.update(chunk)
            file.write(chunk)
            left -= len(chunk)
        file.flush()
        os.fsync(file.fileno())
    _exactly(packed, -size % _BLOCK)
    if digest.hexdigest() != expected[1]:
        what = f"{DATABASE_NAME} is not what the manifest says"
        raise damaged(what)


def _small(packed: gzip.GzipFile, most: int, name: str) -> bytes:
    size = _member(packed, name)
    if size > most:
        what = f"{name} is too long"
        raise damaged(what)
    content = _exactly(packed, size)
    _exactly(packed, -size % _BLOCK)
    return content


def _member(packed: gzip.GzipFile, name: str) -> int:
    """Read the header of a plain file of this name, and return its size.

    `tarfile` is not asked to walk the archive: it would follow extended headers and links.
    """
    info = tarfile.TarInfo.frombuf(_exactly(packed, _BLOCK), "ascii", "surrogateescape")
    if info.type != tarfile.REGTYPE or info.name != name or info.size < 0:
        what = f"{name} is expected, {info.name!a} is there"
        raise damaged(what)
    return info.size


def _exactly(packed: gzip.GzipFile, size: int) -> bytes:
    content = packed.read(size)
    if len(content) != size:
        what = "it ends too soon"
        raise damaged(what)
    return content


def _add(packed: gzip.GzipFile, name: str, content: bytes) -> None:
    packed.write(_header(name, len(content)) + content + bytes(-len(content) % _BLOCK))


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info.tobuf(tarfile.GNU_FORMAT)
