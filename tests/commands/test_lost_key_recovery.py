"""An API key stops working: find the change that disabled it, and restore the key from a backup."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from console import ConsoleServer


def test_one_audit_query_finds_the_change_that_disabled_a_key(console: ConsoleServer) -> None:
    """The result has no polling lists and no checks; a domain removal names its keys."""
    here = "domain/biysk.local/integrations"
    console.run("domain/declare biysk.local")
    console.add_user("ops", "operator", "biysk.local")
    for line in (f"{here}/add tester", f"{here}/add crm", f"{here}/replace crm"):
        console.run(line)
    console.run(f"{here}/replace tester --check")
    assert console.told("ops", f"{here}/replace tester")[0] == 0
    for _ in range(3):
        console.run(f"{here}/list")
    header = console.run("cocon/audit/list --domain biysk.local --client tester --event change --brief").splitlines()[1]
    assert header.replace(" ", "") == "│Seq│At│Event│User│Source│Status│What│"
    rows = json.loads(console.run("cocon/audit/list --client tester --event change --brief | json"))["rows"]
    assert [(row["user_name"], row["status"], row["what"]) for row in rows] == [
        ("admin", 0, "add widget tester to domain biysk.local, with a new key"),
        ("ops", 0, "replace the key of integration tester in domain biysk.local; the old one is dead then"),
    ]
    assert rows[1]["source"].startswith("127.0.0.1:")
    console.run("domain/remove biysk.local --force")
    last = json.loads(console.run("cocon/audit/list --event change --last 1 --brief | json"))["rows"]
    assert last[0]["what"] == "remove domain biysk.local and the keys of its integrations, 2 in all: crm, tester"
    checked = json.loads(console.run("cocon/audit/list --event command --client tester --brief | json"))["rows"]
    assert [row["what"] for row in checked] == [
        "check only: replace the key of integration tester in domain biysk.local; the old one is dead then"
    ]


@pytest.mark.slow
def test_the_documented_recipe_restores_one_key_from_a_backup(console: ConsoleServer, tmp_path: Path) -> None:
    """As docs/backup.md says: serve the backup on a second console and import one line of its export."""
    recipe = (Path(__file__).parents[2] / "docs" / "backup.md").read_text(encoding="utf-8")
    exported = re.search(r"ssh -p 8024 admin@127\.0\.0\.1 '(.*)' > crm\.script", recipe)
    assert exported
    here = "domain/biysk.local/integrations"
    console.run("domain/declare biysk.local")
    for words in ("crm --service --numbers 24010{0-1}", "tester", "removed"):
        console.run(f"{here}/add {words}")
    yesterday = console.run(f"{here}/list")
    backup = tmp_path / "monday.age"
    (tmp_path / "passphrase").write_text("correct horse battery staple\n", encoding="utf-8")
    passphrase = ("--passphrase-file", str(tmp_path / "passphrase"))
    assert console.program("backup", str(backup), *passphrase).returncode == 0
    for words in ("replace crm", "replace tester", "remove removed"):
        console.run(f"{here}/{words}")
    today = console.run(f"{here}/list")

    beside = ConsoleServer(tmp_path / "monday")
    beside.folder.mkdir()
    restored = beside.program("restore", str(backup), *passphrase)
    assert restored.returncode == 0, restored.stderr
    shutil.copy(console.key, beside.key)
    beside.start()
    try:
        script = beside.run(exported[1])
    finally:
        beside.stop()
    assert script.count("\n") == 1
    console.ssh(text=script.rstrip("\n") + " --replace\n")
    keys = {row.split("│")[1].strip(): row.split("│")[3] for row in yesterday.splitlines() if row.startswith("│")}
    now = console.run(f"{here}/list")
    assert keys["crm"] in now
    assert keys["tester"] not in now
    assert keys["removed"] not in now
    (tester,) = [row for row in today.splitlines() if "│tester" in row]
    assert tester in now.splitlines()
