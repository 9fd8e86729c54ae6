"""Domain names keep their declared case; names that differ only in case are one domain."""

from __future__ import annotations

import base64
import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from backups import CLEAR, backup_made, status_of
from console import PROMPT, ConsoleServer, needs
from terminals import Person

from server.storage.sqlite import schema
from server.storage.sqlite.files import prepare
from server.storage.vault import Vault

_HERE = "domain/RM-test/integrations"
_OTHER = "domain/rm-TEST/integrations"
_AT = "2021-02-16T08:00:00Z"


@pytest.fixture
def named(console: ConsoleServer) -> ConsoleServer:
    """A console with the domain RM-test, which has the integration crm, and two neighbour domains."""
    for name in ("RM-test", "Zeta.local", "alpha.local"):
        console.run(f"domain/declare {name}")
    console.run(f"{_OTHER}/add crm")
    return console


def test_field_listings_show_the_name_as_declared(named: ConsoleServer) -> None:
    """A public script declares RM-test, searches `domain/list` and `ls /domain/`, and once found rm-test."""
    assert named.told("admin", "domain/declare Upper.Local") == (0, "Domain Upper.Local declared\n")
    assert re.findall(r"^│([\w.-]+) *│\d", named.run("domain/list"), re.MULTILINE) == [
        "alpha.local",
        "RM-test",
        "Upper.Local",
        "Zeta.local",
    ], "sorted without regard to case"
    assert named.run("ls /domain/").splitlines()[:4] == ["alpha.local/", "RM-test/", "Upper.Local/", "Zeta.local/"]
    rows = json.loads(named.run("domain/list | json"))["rows"]
    assert [row["domain"] for row in rows] == ["alpha.local", "RM-test", "Upper.Local", "Zeta.local"]
    assert "Domain RM-test removed" in named.run("domain/remove rm-test --force")
    assert "M-test" not in named.run("domain/list")


def test_field_every_lookup_ignores_case(named: ConsoleServer) -> None:
    for path in ("domain/rm-test", "domain/RM-TEST", "/domain/./rM-tEsT"):
        assert "│crm" in named.run(f"{path}/integrations/list")
    lines = "cd domain/rm-TEST\npwd\ncd /domain/rm-test/integrations\nls\nshow crm\ncd ../../RM-TEST\n"
    shown = named.ssh(text=lines).stdout.decode()
    assert re.findall(r"admin@ds1@ecss1:(\S+)\$ ", shown) == [
        "/",
        "/domain/RM-test",
        "/domain/RM-test",
        "/domain/RM-test/integrations",
        "/domain/RM-test/integrations",
        "/domain/RM-test/integrations",
        "/domain/RM-test",
    ]
    assert "$ /domain/RM-test\n" in shown
    assert "Client id: crm" in shown
    assert named.run("help domain/RM-TEST").startswith("Directory /domain/RM-test\n")


def test_field_errors_name_a_domain_as_it_was_declared(named: ConsoleServer) -> None:
    for line, told in (
        ("domain/declare rm-TEST", "domain RM-test exists already"),
        (f"{_OTHER}/add crm", "integration crm exists already in domain RM-test"),
        (f"{_OTHER}/remove none", "there is no integration none in domain RM-test"),
        (f"{_OTHER}/show none", "there is no integration none in domain RM-test"),
        ("domain/declare Calendar", "Calendar is a reserved word"),
        ("domain/declare Declare", "Declare is a command of /domain"),
        ("domain/remove LIST", "LIST is a command of /domain"),
        ("domain/remove NONE --force", "there is no domain NONE"),
    ):
        status, shown = named.told("admin", line)
        assert status in {1, 2}
        assert told in shown
    assert "would:\n  remove domain RM-test and the keys" in named.run("domain/remove rm-TEST --force --check")
    asked = named.ssh("domain/remove rm-TEST", text="no\n").stdout.decode()
    assert asked.startswith("Domain RM-test will be removed")
    key = re.search(r"\w{64}", named.run(f"{_HERE}/show crm --reveal"))
    assert key is not None
    taken = named.told("admin", f"domain/zeta.LOCAL/integrations/adopt x {key[0]}")
    assert taken == (1, "Command error: the key of x is that of integration crm in domain RM-test already\n")


def test_field_an_export_declares_the_name_in_its_case(named: ConsoleServer) -> None:
    script = named.run(f"{_OTHER}/export")
    assert re.fullmatch(r"domain/declare RM-test\ndomain/RM-test/integrations/adopt crm \w{64}\n", script)
    rows = json.loads(named.run(f"{_HERE}/list | json"))["rows"]
    named.run("domain/remove RM-TEST --force")
    assert named.ssh(text=script).returncode == 0
    assert json.loads(named.run(f"{_OTHER}/list | json"))["rows"] == rows
    document = named.run(f"{_OTHER}/export | json")
    named.run(f"{_OTHER}/remove crm")
    assert named.ssh("domain/RM-TEST/integrations/import", text=document).returncode == 0
    assert json.loads(named.run(f"{_HERE}/list | json"))["rows"] == rows
    assert "replaced" in named.run(f"{_OTHER}/adopt crm {rows[0]['api_key']} --replace")


def test_field_grants_ignore_case_and_are_shown_as_declared(named: ConsoleServer) -> None:
    named.add_user("oleg", "operator", "rm-TEST", "ALPHA.local")
    assert named.told("admin", "cocon/user/grant oleg RM-TEST")[1].endswith(
        "domain RM-test is granted to oleg already\n"
    )
    for path in (_HERE, _OTHER):
        assert named.told("oleg", f"{path}/list | count") == (0, "Count: 1\n")
    assert named.told("oleg", "ls domain") == (0, "alpha.local/\nRM-test/\nlist\n")
    assert [row["domain"] for row in json.loads(named.told("oleg", "domain/list | json")[1])["rows"]] == [
        "alpha.local",
        "RM-test",
    ]
    users = {row["user"]: row["domains"] for row in json.loads(named.run("cocon/user/list | json"))["rows"]}
    assert users == {"admin": None, "oleg": ["alpha.local", "RM-test"]}
    for name in ("ZETA.local", "Nowhere"):
        assert named.told("oleg", f"domain/{name}/integrations/list") == (
            126,
            f"Command error: permission denied: domain {name} is not granted to oleg\n",
        ), "nothing tells whether it is there, or how it is spelt"
    assert named.told("oleg", "help domain/ZETA.local")[1].startswith("Directory /domain/ZETA.local\n")
    assert named.told("admin", "cocon/user/revoke oleg rm-test") == (0, "Domain RM-test revoked from oleg\n")
    assert named.told("oleg", f"{_HERE}/list")[0] == 126


def test_field_a_name_redeclared_in_another_case_inherits_nothing(named: ConsoleServer) -> None:
    named.add_user("oleg", "operator", "RM-test")
    named.run("domain/remove rm-test --force")
    named.run("domain/declare rm-TEST")
    assert named.told("oleg", f"{_HERE}/list")[0] == 126
    assert "Count: 0" in named.run(f"{_HERE}/list | count")
    assert "rm-TEST/" in named.run("ls domain")
    assert "RM-test" not in named.run("domain/list")
    assert "in domain rm-TEST" in named.told("admin", f"{_HERE}/show crm")[1]


def test_field_the_audit_names_a_domain_as_declared_and_finds_it_in_any_case(named: ConsoleServer) -> None:
    (added,) = [row for row in named.audit() if str(row["command"]).endswith("/add") and row["event"] == "change"]
    assert added["arguments"] == '{"domain": "RM-test", "client_id": "crm"}'
    assert added["detail"] == "add widget crm to domain RM-test, with a new key"
    named.run(f"{_OTHER}/list")
    for name in ("RM-test", "rm-test", "RM-TEST"):
        listed = json.loads(named.run(f"cocon/audit/list --domain {name} | json"))["rows"]
        assert [row["command"].rpartition("/")[2] for row in listed if row["command"].startswith("/domain")] == [
            "declare",
            "add",
            "list",
        ]
    assert "Count: 0" in named.run("cocon/audit/list --domain rm-test --client CRM | count"), "client ids have a case"


def test_field_a_directory_named_like_a_domain_keeps_its_spelling(named: ConsoleServer) -> None:
    """The domain's name once replaced every path part spelt like it."""
    for name in ("Integrations", "DOMAIN"):
        named.run(f"domain/declare {name}")
    lines = "cd domain/integrations/integrations\npwd\ncd /domain/domain/integrations\nlist | count\n"
    shown = named.ssh(text=lines).stdout.decode()
    assert "$ /domain/Integrations/integrations\n" in shown
    assert "admin@ds1@ecss1:/domain/DOMAIN/integrations$ " in shown
    assert "Count: 0\n" in shown


@pytest.fixture
def person(named: ConsoleServer) -> Iterator[Person]:
    """A person at the prompt of this console."""
    needs("tmux")
    someone = Person(named, str(named.folder / "tmux"))
    yield someone
    someone.leaves()


def test_field_tab_replaces_the_typed_name_with_the_declared_one(named: ConsoleServer, person: Person) -> None:
    person.types("domain/rm", "Tab")
    person.sees_at_end(f"{PROMPT}domain/RM-test/")
    person.types("integ", "Tab", "show c", "Tab")
    person.sees_at_end(f"{PROMPT}domain/RM-test/integrations/show crm")
    person.types("C-u", "domain/remove ZE", "Tab")
    person.sees_at_end(f"{PROMPT}domain/remove Zeta.local")
    named.run("domain/declare rm-tESTS")
    person.types("C-u", "domain/rm", "Tab")
    person.sees_at_end(f"{PROMPT}domain/rm-tEST")
    person.types("Tab")
    screen = person.sees("rm-tESTS/ ")
    assert re.search(r"^RM-test/ +One domain, a virtual PBX\.\nrm-tESTS/ ", screen, re.MULTILINE)


async def test_field_tab_ignores_case_for_an_operator_and_keeps_that_of_commands(named: ConsoleServer) -> None:
    named.add_user("oleg", "operator", "RM-test")
    named.run("domain/declare REMOTE")
    for user, typed, wanted in (
        ("oleg+rich", "domain/rm", "domain/RM-test/"),
        ("oleg+rich", "domain/z", "domain/z"),
        ("admin+rich", "domain/rem", "domain/remo"),
        ("admin+rich", "domain/REM", "domain/REMOTE/"),
        ("admin+rich", "cd domain/zET", "cd domain/Zeta.local/"),
        ("admin+rich", f"{_OTHER}/show CR", f"{_OTHER}/show CR"),
        ("admin+rich", "cocon/audit/list --domain RM", "cocon/audit/list --domain RM-test "),
    ):
        async with named.asyncssh(username=user) as connection:
            shell = await connection.create_process(term_type="xterm", encoding="utf-8")
            await shell.stdout.readuntil("$ ")
            shell.stdin.write(f"{typed}\t#")
            await shell.stdout.readuntil("#")
            shell.stdin.write("\x01echo '\x05'\r")  # Ctrl-A, Ctrl-E: the reply is the line as it stood
            assert f"\n{wanted}#\r\n" in await shell.stdout.readuntil("exec at")


def _schema_4(folder: Path) -> None:
    """Make a store of schema 4 with a key in it; no server uses it."""
    vault = Vault(base64.b64decode((folder / "keys" / "storage.key").read_bytes()))
    with closing(sqlite3.connect(folder / "var" / "console.db")) as database:
        database.execute("INSERT INTO domains VALUES ('biysk.local', ?)", (_AT,))
        database.execute("INSERT INTO users (name, role, added_at) VALUES ('vera', 'viewer', ?)", (_AT,))
        database.execute("INSERT INTO grants VALUES ('vera', 'biysk.local', ?)", (_AT,))
        sealed, found_by = vault.seal("biysk.local", "crm", "K" * 64), vault.lookup_hash("K" * 64)
        row = ("biysk.local", "crm", "widget", "", sealed, found_by, _AT, _AT)
        database.execute("INSERT INTO integrations VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        database.commit()


def test_field_an_older_backup_is_restored_and_ignores_case(
    stopped_console: ConsoleServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console = stopped_console
    monkeypatch.chdir(console.folder)
    for name in ("var", "keys"):
        shutil.rmtree(console.folder / name)
    former = {number: script for number, script in schema.migrations().items() if number < 5}
    with monkeypatch.context() as patch:
        patch.setattr(schema, "migrations", lambda: former)
        prepare(console.database, console.folder / "keys")
        _schema_4(console.folder)
        backup = backup_made("backup", *CLEAR)
    for name in ("var", "keys"):
        shutil.rmtree(console.folder / name)
    assert status_of("restore", backup) == 0
    assert "schema 4" in capsys.readouterr().out
    assert console.program("user", "add", "root", "--authorized-key", f"{console.key}.pub").returncode == 0
    console.start()
    assert console.told("root", "domain/BIYSK.local/integrations/show crm --reveal")[1].count("K" * 64) == 1
    assert console.told("root", "ls domain")[1].startswith("biysk.local/\n"), "how it was typed is not known any more"
    assert '"domains": ["biysk.local"]' in console.told("root", "cocon/user/list | json")[1]
