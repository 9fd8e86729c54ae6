"""Backup archives: older ones open, and new ones have a length that older programs accept."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from server.backup.archive import FORMAT, Manifest, fingerprint, key_files, pack, unpack
from server.file_names import DATABASE_NAME, MANIFEST_NAME, STORAGE_KEY_NAME

KEYS = {STORAGE_KEY_NAME: b"a key\n"}


@pytest.fixture(params=[0, 1, 511, 512, 10_240, 1_500_000])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "database"
    path.write_bytes(bytes(each % 251 for each in range(request.param)))
    return path


def _manifest(database: Path) -> Manifest:
    files = {**key_files(KEYS), DATABASE_NAME: fingerprint(database)}
    return Manifest(FORMAT, "now", "us", "ds1@ecss1", 3, "mark", {"users": 1}, {}, (), files)


def _packed_before(manifest: Manifest, database: Path) -> bytes:
    """Return the archive as written before `tarfile` was used: each file padded, then two empty blocks."""
    blocks = b""
    contents = {MANIFEST_NAME: manifest.text(), f"keys/{STORAGE_KEY_NAME}": KEYS[STORAGE_KEY_NAME]}
    for name, content in {**contents, DATABASE_NAME: database.read_bytes()}.items():
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(content), 0o600
        blocks += info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)
    return gzip.compress(blocks + bytes(1024), mtime=0)


def test_an_archive_of_an_older_version_opens(database: Path, tmp_path: Path) -> None:
    folder = tmp_path / "unpacked"
    folder.mkdir()
    manifest = _manifest(database)
    unpacked = unpack(io.BytesIO(_packed_before(manifest, database)), folder)
    assert (unpacked.manifest, unpacked.keys) == (manifest, KEYS)
    assert unpacked.database.read_bytes() == database.read_bytes()


def test_a_new_archive_differs_from_older_ones_only_in_padding(database: Path) -> None:
    manifest, packed = _manifest(database), io.BytesIO()
    pack(packed, manifest, KEYS, database)
    now, before = gzip.decompress(packed.getvalue()), gzip.decompress(_packed_before(manifest, database))
    assert now.startswith(before)
    assert now.strip(b"\0") == before.strip(b"\0")
    assert len(now) - len(before) + 1024 <= 10_240 + 1024  # accepted by older programs
