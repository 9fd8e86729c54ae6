"""The file with the password of PostgreSQL, which only root may read."""

from __future__ import annotations

import os
import shutil
import subprocess

from console import PROGRAM
from postgresql import Database
from service import ROOT, UID, needs_root, public_folder


def test_root_reads_the_password_as_root_while_it_works_as_the_service_user(database: Database) -> None:
    """The keys folder belongs to the service, the credentials to root, as in docs/cluster.md."""
    needs_root()
    with public_folder() as folder:
        etc, keys = folder / "etc", folder / "keys"
        etc.mkdir(mode=0o755)
        keys.mkdir(mode=0o700)
        os.chown(keys, UID, UID)
        shutil.copy(database.password_file, etc / "database.password")
        (etc / "database.password").chmod(0o600)
        (etc / "config.yaml").write_text(f'storage: {{url: "{database.url}"}}\nkeys: {{dir: {keys}}}\n')
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ECSS_CONSOLE_")}
        ran = subprocess.run(
            [*PROGRAM, "init", "--config", str(etc / "config.yaml")],
            cwd="/",
            env={**clean, "PYTHONPATH": str(ROOT), "CREDENTIALS_DIRECTORY": str(etc)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert ran.returncode == 0, ran.stderr
        assert "Made the store, the keys and the user admin." in ran.stdout
        assert (keys / "storage.key").stat().st_uid == UID
