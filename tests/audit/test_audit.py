"""The audit commands, and the console's behaviour when the audit cannot be written."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path

import pytest
from console import ConsoleServer

from server.model.events import EventKind

ROOT = Path(__file__).parents[2]
_CERTIFICATE = re.compile(r"ds1@ecss1: (\d+) records are whole, head (\d+:[0-9a-f]{64})\n")


def _sql(console: ConsoleServer, *statements: str) -> list[tuple[object, ...]]:
    database = sqlite3.connect(console.database, isolation_level=None, timeout=10)
    rows: list[tuple[object, ...]] = []
    for statement in statements:
        rows = database.execute(statement).fetchall()
    database.close()
    return rows


def test_every_kind_of_event_is_documented_and_no_other() -> None:
    text = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    events = text.partition("## Events")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([a-z.]+)` \|", events, re.MULTILINE) == [kind.value for kind in EventKind]


@pytest.mark.parametrize("statement", ["UPDATE audit SET detail = 'nothing'", "DELETE FROM audit"])
def test_the_store_refuses_to_change_or_delete_records(stopped_console: ConsoleServer, statement: str) -> None:
    before = stopped_console.audit()
    assert before
    with pytest.raises(sqlite3.IntegrityError, match="only added to"):
        _sql(stopped_console, statement)
    assert stopped_console.audit() == before


def test_verify_says_the_same_at_the_console_and_on_its_host(console: ConsoleServer) -> None:
    console.run("domain/declare biysk.local")
    assert console.program("user", "add", "eve", "--password-stdin", text="x\n").returncode == 0
    console.run("domain/biysk.local/integrations/add tester")
    told = _CERTIFICATE.match(console.run("cocon/audit/verify"))
    assert told
    assert int(told[1]) >= 7
    assert console.run(f"cocon/audit/verify --head {told[2]}").startswith("ds1@ecss1: ")
    ran = console.program("audit", "verify", "--head", told[2])
    assert ran.returncode == 0, ran.stderr
    assert _CERTIFICATE.fullmatch(ran.stdout)


def test_verify_names_the_record_that_was_changed_while_the_console_serves(console: ConsoleServer) -> None:
    for number in range(5):
        console.run(f"domain/declare d{number}")
    ((seq,),) = _sql(console, "SELECT seq FROM audit WHERE detail = 'declare domain d2'")
    _sql(
        console,
        "DROP TRIGGER audit_is_not_changed",
        f"UPDATE audit SET user_name = 'nobody' WHERE seq = {seq}",
    )
    ran = console.ssh("cocon/audit/verify")
    finding = f"record {seq} of ds1@ecss1 was changed"
    assert ran.returncode == 1
    assert ran.stdout.decode().startswith(f"Command error: the audit is not as it was written\n{finding}\n\n[exec at")
    document = json.loads(console.ssh("cocon/audit/verify | json").stdout)
    assert document["error"]["hints"] == [finding]
    told = console.program("audit", "verify")
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == f"ecss-console: the audit is not as it was written:\n{finding}\n"


@pytest.mark.slow
def test_a_rolled_back_store_is_detected_by_an_exported_head(console: ConsoleServer) -> None:
    console.run("domain/declare before")
    console.stop()
    earlier = console.database.read_bytes()
    console.start()
    console.run("domain/declare after")
    printed = _CERTIFICATE.match(console.run("cocon/audit/verify"))
    assert printed
    console.stop()
    console.database.write_bytes(earlier)
    assert console.program("audit", "verify").returncode == 0
    told = console.program("audit", "verify", "--head", printed[2])
    assert told.returncode == 1
    assert f"the exported head is {printed[1]}: it was rolled back or cut" in told.stderr
    console.start()


@pytest.mark.slow
@pytest.mark.parametrize("head", ["5", "x:y", "0:" + "0" * 64, "5:" + "A" * 64, "5:" + "0" * 63])
def test_a_malformed_head_is_an_argument_error(shared_console: ConsoleServer, head: str) -> None:
    assert shared_console.ssh(f"cocon/audit/verify --head {head}").returncode == 2
    told = shared_console.program("audit", "verify", "--head", head)
    assert (told.returncode, "SEQ:MAC is expected" in told.stderr) == (1, True)


def test_the_list_shows_the_newest_records_by_user_kind_and_domain(console: ConsoleServer) -> None:
    for line in ("domain/declare one", "domain/declare two", "domain/one/integrations/add c", "whoami"):
        console.run(line)
    console.run("""echo '"domain": "two"'""")
    listed = json.loads(console.run("cocon/audit/list | json"))["rows"]
    assert list(listed[0]) == [
        *("seq", "at", "node", "event", "user_name", "source", "session_id", "command", "arguments"),
        *("status", "detail", "duration_ms"),
    ]
    assert [row["seq"] for row in listed] == list(range(1, len(listed) + 1))
    assert "whoami" in listed[-6]["command"] or any(row["command"] == "/whoami" for row in listed)

    def commands(options: str) -> list[str]:
        return [row["command"] for row in json.loads(console.run(f"cocon/audit/list {options} | json"))["rows"]]

    assert commands("--event change") == ["/domain/declare", "/domain/declare", "/domain/<DOMAIN>/integrations/add"]
    assert commands("--event change --last 1") == ["/domain/<DOMAIN>/integrations/add"]
    assert commands("--domain one") == ["/domain/declare", "/domain/<DOMAIN>/integrations/add"]
    assert commands("--domain two") == ["/domain/declare"]
    assert commands("--user nobody") == []
    assert console.ssh("cocon/audit/list --event tea").returncode == 2
    assert console.ssh("cocon/audit/list --last 0").returncode == 2
    assert "│Seq│" in console.run("cocon/audit/list --last 5").replace(" ", "")


@pytest.mark.slow
@pytest.mark.parametrize("role", ["operator", "viewer"])
def test_denied_reads_of_the_audit_are_recorded(console: ConsoleServer, role: str) -> None:
    words = ("user", "add", "eve", "--role", role, "--authorized-key", f"{console.key}.pub")
    assert console.program(*words).returncode == 0
    assert "eve" in console.run("cocon/audit/list --last 20")
    with console.paramiko(username="eve", key_filename=str(console.key), password=None) as client:
        for command in ("list", "verify"):
            _, stdout, _ = client.exec_command(f"cocon/audit/{command}")
            assert stdout.read().startswith(b"Command error: permission denied: ")
            assert stdout.channel.recv_exit_status() == 126
    refused = json.loads(console.run("cocon/audit/list --event command.refused | json"))["rows"]
    assert [(row["user_name"], row["command"], row["status"]) for row in refused] == [
        ("eve", "/cocon/audit/list", 126),
        ("eve", "/cocon/audit/verify", 126),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("ALTER TABLE audit_heads RENAME TO lost", "ALTER TABLE lost RENAME TO audit_heads"),
        (
            "CREATE TRIGGER refuse BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no audit'); END",
            "DROP TRIGGER refuse",
        ),
        (
            "CREATE TRIGGER refuse BEFORE UPDATE ON audit_heads BEGIN SELECT RAISE(ABORT, 'no head'); END",
            "DROP TRIGGER refuse",
        ),
    ],
)
def test_a_change_without_a_writable_record_changes_nothing(console: ConsoleServer, broken: str, mended: str) -> None:
    """The client gets an error, other commands work, and the chain continues later without a loss."""
    console.run("domain/declare kept")
    console.run("domain/kept/integrations/add first")
    tables = ("domains", "integrations")
    before = [_sql(console, f"SELECT * FROM {table}") for table in tables]
    _sql(console, broken)
    for line in (
        "domain/declare more",
        "domain/remove kept --force",
        "domain/kept/integrations/add second",
        "domain/kept/integrations/replace first",
        "domain/kept/integrations/set first --service",
        "domain/kept/integrations/remove first",
    ):
        ran = console.ssh(line)
        assert ran.returncode == 70
        assert ran.stdout.startswith(b"Command error: internal error, incident ")
    assert [_sql(console, f"SELECT * FROM {table}") for table in tables] == before
    assert "kept" in console.run("domain/list")
    assert console.program("user", "add", "eve", "--password-stdin", text="x\n").returncode != 0
    assert "eve\t" not in console.program("user", "list").stdout
    _sql(console, mended)
    console.run("domain/declare more")
    assert _CERTIFICATE.match(console.run("cocon/audit/verify"))
    statuses = [row["status"] for row in json.loads(console.run("cocon/audit/list | json"))["rows"]]
    assert statuses.count(70) == 6
    console.log[:] = [line for line in console.log if "Traceback" not in line]  # the records of the defects themselves


def test_an_upgrade_keeps_records_from_before_the_chain(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    columns = "at, node, event, user_name, source, session_id, command, arguments, status, detail, duration_ms"
    _sql(
        console,
        *("DROP TRIGGER audit_is_not_changed", "DROP TRIGGER audit_is_not_deleted", "DROP INDEX audit_of_node"),
        *("ALTER TABLE audit DROP COLUMN seq", "ALTER TABLE audit DROP COLUMN mac", "DROP TABLE audit_heads"),
        "DELETE FROM store WHERE name = 'audit nodes'",
        "ALTER TABLE domains DROP COLUMN declared_as",
        f"INSERT INTO audit ({columns}) SELECT {columns} FROM audit",
        "UPDATE store SET value = '2' WHERE name = 'schema'",
    )
    before = _sql(console, f"SELECT id, {columns} FROM audit")
    assert len(before) == 2
    told = console.program("audit", "verify")
    assert (told.returncode, told.stdout) == (0, "2 records from before the chain are not covered\n"), told.stderr
    console.start()
    console.run("domain/declare biysk.local")
    assert _sql(console, f"SELECT id, {columns} FROM audit LIMIT 2") == before
    certificate, uncovered, *_ = console.run("cocon/audit/verify").splitlines()
    assert _CERTIFICATE.fullmatch(certificate + "\n")
    assert uncovered == "2 records from before the chain are not covered"
    _sql(
        console,
        f"INSERT INTO audit ({columns}) SELECT {columns} FROM audit WHERE id = 1",
    )
    told = console.program("audit", "verify")
    assert told.returncode == 1
    assert "a record without a number was put in, with id " in told.stderr
    _sql(console, "DROP TRIGGER audit_is_not_deleted", "DELETE FROM audit WHERE id = 1")
    assert "of the 2 records from before the chain 1 are there" in console.program("audit", "verify").stderr


def test_users_added_while_the_console_serves_go_into_the_same_chain(console: ConsoleServer) -> None:
    for number in range(3):
        console.run(f"domain/declare d{number}")
        added = console.program("user", "add", f"eve{number}", "--password-stdin", text="x\n")
        assert added.returncode == 0
    assert _CERTIFICATE.match(console.run("cocon/audit/verify"))
    numbers = [row["seq"] for row in console.audit()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_record_of_the_whole_configuration_does_not_widen_the_table(console: ConsoleServer) -> None:
    shown = console.run("cocon/audit/list --event host.change")
    assert max(map(len, shown.splitlines())) < 320
    (row,) = [row for row in console.audit() if row["event"] == "host.change"]
    assert all(f'"{key}"' in shown for key in json.loads(str(row["arguments"])))


@pytest.mark.slow
def test_another_host_key_or_configuration_is_recorded_once(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    banner = "Keep out. " * 100

    def served(**environment: str) -> list[str]:
        console.start(**environment)
        assert console.stop() == 0
        return [str(row["detail"]) for row in console.audit() if row["event"] == "host.change"]

    assert served() == ["first start"]
    assert served() == ["first start"]
    assert served(ECSS_CONSOLE_GREETING__BANNER=banner)[1:] == ["changed: greeting.banner"]
    (console.folder / "keys" / "ssh_host_ed25519_key").unlink()
    assert served(ECSS_CONSOLE_GREETING__BANNER=banner)[2:] == ["changed: host_key"]
    last = json.loads(str(console.audit()[-1]["arguments"]))
    assert last["host_key"].startswith("SHA256:")
    assert last["greeting.banner"].startswith("sha256:")
    assert last["limits.max_auth_tries"] == 6


def test_unknown_commands_are_recorded_without_their_words(console: ConsoleServer) -> None:
    """Probing leaves a record. The words may be secrets and are not stored."""
    assert console.ssh("cocon/user/ad hunter2").returncode == 127
    assert console.ssh("cocon/user/add hunter2 --password hunter3").returncode == 2
    assert console.ssh('echo "hunter4').returncode == 2
    console.run("cocon/user/add --help")
    told = json.loads(console.run("cocon/audit/list --event command --last 4 | json"))["rows"]
    assert [(row["command"], row["status"], row["detail"]) for row in told] == [
        ("", 127, "no such command"),
        ("/cocon/user/add", 2, "wrong arguments"),
        ("/echo", 2, "wrong arguments"),
        ("/cocon/user/add", 0, "help"),
    ]
    assert "hunter" not in json.dumps(told)
