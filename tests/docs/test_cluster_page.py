"""docs/cluster.md works as written, as far as a test can show it; the page itself reports the trial with Patroni."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from console import ConsoleServer
from postgresql import PostgresqlServer, needs_postgresql

from server.config.postgresql_url import parse_postgresql_url

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_transcript_is_what_the_program_shows() -> None:
    needs_postgresql()
    words = [sys.executable, "scripts/cluster_page.py", "--check"]
    ran = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr


def test_the_transcript_has_a_footer_of_two_nodes_and_names_a_dead_one() -> None:
    transcript = PAGE.partition("<!-- transcript -->")[2].partition("<!-- /transcript -->")[0]
    assert "nodes: ds1@ecss1 v.3.14.7.585, ds2@ecss1 v.3.14.7.585]" in transcript
    assert "ds2@ecss1 did not answer" in transcript


@pytest.mark.slow
def test_the_role_and_the_database_of_the_page_are_enough(own_postgresql: PostgresqlServer, tmp_path: Path) -> None:
    (role,) = re.findall(r"^CREATE ROLE .*;$", PAGE, re.MULTILINE)
    (database,) = re.findall(r"^CREATE DATABASE .*;$", PAGE, re.MULTILINE)
    own_postgresql.psql(re.sub(r"PASSWORD '.*'", f"PASSWORD '{own_postgresql.password}'", role))
    own_postgresql.psql(database)
    (url,) = re.findall(r'storage: \{url: "(postgresql://ecss_console@ds1\S+)"\}', PAGE)
    assert parse_postgresql_url(url).hosts == (("ds1.example", 5432), ("ds2.example", 5432))
    authority = own_postgresql.with_tls()
    here = url.replace("ds1.example,ds2.example", f"127.0.0.1:{own_postgresql.port}")
    here = here.replace("/etc/ecss-console/authority.pem", str(authority))
    (tmp_path / "config.yaml").write_text(
        f'storage: {{url: "{here}", password_file: "{own_postgresql.password_file}"}}\n'
    )
    console = ConsoleServer(tmp_path)
    ran = console.program("init")
    assert ran.returncode == 0, ran.stderr
    assert "Made the store, the keys and the user admin." in ran.stdout


def test_the_files_that_the_page_installs_exist() -> None:
    for name in re.findall(r"ecss-console(?:-backup)?\.service\.d/[\w-]+\.conf", PAGE):
        assert (ROOT / "systemd" / name).is_file(), name
    drop_in = (ROOT / "systemd" / "ecss-console.service.d" / "postgresql.conf").read_text(encoding="utf-8")
    assert "LoadCredential=database.password:/etc/ecss-console/database.password\n" in drop_in
    assert "> /etc/ecss-console/database.password" in PAGE
