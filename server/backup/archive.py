"""The archive of a backup: a tar.gz of a manifest, keys and the database. Blocking.

`tarfile` writes the archive. Reading trusts nothing: it checks each file against the manifest, and refuses names,
member types and orders that this program never writes.
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
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from server.errors import StartError
from server.file_names import DATABASE_NAME, KEY_NAMES, KEYS_FOLDER_NAME, MANIFEST_NAME
from server.model.lines import one_line
from server.plain_files import MOST_KEY_BYTES

FORMAT = 1
_KEYS = f"{KEYS_FOLDER_NAME}/"
_MOST_MANIFEST_BYTES = 1024 * 1024
_BLOCK = tarfile.BLOCKSIZE
#: An archive ends with at least two blocks of zeros. tar programs add more to fill the last record.
_SHORTEST_END, _LONGEST_END = 2 * _BLOCK, 2 * _BLOCK + tarfile.RECORDSIZE
_CHUNK = 1024 * 1024
#: A low level is enough: encrypted API keys do not compress, and the audit compresses well at any level.
_LEVEL = 3


@dataclass(frozen=True)
class Manifest:
    """The description of a backup, stored in its archive.

    `mac` authenticates the rest with the storage key. `counts` has the number of rows by table. `heads` has the newest
    audit record by node, in the form of `audit verify --head`. `findings` are faults that the audit had before the
    backup. `files` has size and SHA-256 by name.
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
        """Return the bytes that the mac authenticates."""
        return json.dumps({**asdict(self), "mac": ""}, sort_keys=True).encode()

    def text(self) -> bytes:
        """Return the content of the manifest file."""
        return json.dumps(asdict(self), indent=1).encode() + b"\n"


@dataclass(frozen=True)
class Unpacked:
    """The checked files of an archive. The database is on disk; the keys are only in memory."""

    manifest: Manifest
    database: Path
    keys: Mapping[str, bytes] = field(repr=False)


def fingerprint(path: Path) -> tuple[int, str]:
    """Return size and SHA-256 of a file."""
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def pack(target: IO[bytes], manifest: Manifest, keys: Mapping[str, bytes], database: Path) -> None:
    """Write the archive. The database file must not change meanwhile."""
    small = {MANIFEST_NAME: manifest.text(), **{_KEYS + name: content for name, content in keys.items()}}
    with (
        gzip.GzipFile(fileobj=target, mode="wb", compresslevel=_LEVEL, mtime=0, filename="") as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
        database.open("rb") as file,
    ):
        for name, content in small.items():
            archive.addfile(_header(name, len(content)), BytesIO(content))
        archive.addfile(_header(DATABASE_NAME, database.stat().st_size), file)


def _header(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info


def key_files(keys: Mapping[str, bytes]) -> dict[str, tuple[int, str]]:
    """Return size and SHA-256 of each key, by its name in the archive."""
    return {_KEYS + name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in keys.items()}


def unpack(source: IO[bytes], folder: Path) -> Unpacked:
    """Read a whole archive, and write the database to `folder`.

    Raises StartError for a damaged or foreign archive.
    """
    try:
        with gzip.GzipFile(fileobj=source, mode="rb") as packed:
            return _unpacked(packed, folder)
    except (EOFError, gzip.BadGzipFile, zlib.error, tarfile.TarError) as error:
        raise damaged(str(error)) from error


def damaged(what: str) -> StartError:
    """Return the error for a damaged backup; `what` describes the damage."""
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
    end = packed.read(_LONGEST_END + 1)
    if not _SHORTEST_END <= len(end) <= _LONGEST_END or any(end):
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
    """Parse a count or a version. Raises ValueError for a negative number and for one above 63 bits."""
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
    """Read the header of the next member, a plain file of this name, and return its size.

    `tarfile` does not read the archive, because it would follow extended headers and links.
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
