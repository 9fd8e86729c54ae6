"""An attacker with the database and no storage key changes the audit while the console serves."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from console import ConsoleServer

NODE = "ds1@ecss1"


def _attack(database: Path, *statements: tuple[str, tuple[object, ...]]) -> None:
    """Run statements with write access to the file: drop the triggers first, and restore them after."""
    with closing(sqlite3.connect(database, timeout=10)) as connection, connection:
        guards = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        assert guards
        for name, _ in guards:
            connection.execute(f"DROP TRIGGER {name}")
        for sql, values in statements:
            connection.execute(sql, values)
        for _, sql in guards:
            connection.execute(sql)


def _settled(console: ConsoleServer) -> int:
    """Return the number of the newest record after all pending ones are stored."""
    return int(json.loads(console.run("cocon/audit/list --last 1 | json"))["rows"][0]["seq"])


def _findings(console: ConsoleServer) -> list[str]:
    ran = console.program("audit", "verify")
    assert ran.returncode == 1, ran.stdout
    return ran.stderr.splitlines()[1:]


def test_deleting_all_records_and_the_head_while_serving_is_detected(console: ConsoleServer) -> None:
    """The next record once began at 1 again, and verify accepted it."""
    console.run("domain/declare before.local")
    gone = _settled(console)
    _attack(console.database, ("DELETE FROM audit", ()), ("DELETE FROM audit_heads", ()))
    console.run("domain/declare after.local")
    assert console.logs("the audit's head of ds1@ecss1 was changed or removed")
    told = _findings(console)
    missing = re.fullmatch(rf"the newest (\d+) records of {NODE} are missing, records 1 to \1", told[0])
    assert missing, told
    assert int(missing[1]) >= gone
    assert f"record {int(missing[1]) + 1} of {NODE}" in told[1]


def test_restoring_an_older_signed_head_while_serving_is_detected(console: ConsoleServer) -> None:
    """Make a change, delete its record, restore the previous head: signed, and two records old."""
    console.run("domain/declare good.local")
    _settled(console)
    with closing(sqlite3.connect(console.database)) as connection:
        head = connection.execute("SELECT seq, mac, signature, node FROM audit_heads").fetchone()
    console.run("domain/declare evil.local")
    _settled(console)
    _attack(
        console.database,
        ("DELETE FROM audit WHERE seq > ?", (head[0],)),
        ("UPDATE audit_heads SET seq = ?, mac = ?, signature = ? WHERE node = ?", head),
    )
    console.run("whoami")
    console.run("domain/list")
    assert "evil" not in console.run("cocon/audit/list --event change")
    assert console.logs("the audit's head of ds1@ecss1 was set back")
    told = _findings(console)
    assert any("are missing" in each or "is missing" in each for each in told), told


def _written(log: Path, text: str) -> None:
    """Wait until the audit log contains a text."""
    deadline = time.monotonic() + 10
    while not log.exists() or text not in log.read_text(encoding="utf-8"):
        assert time.monotonic() < deadline, text
        time.sleep(0.05)


def test_truncating_the_audit_does_not_stop_its_log(stopped_console: ConsoleServer) -> None:
    """Ids restarted below the last written one, and no record was written any more."""
    console = stopped_console
    log = console.folder / "audit.jsonl"
    console.start(ECSS_CONSOLE_AUDIT__LOG=str(log))
    for number in range(5):
        console.run(f"domain/declare d{number}.local")
    _settled(console)
    _written(log, "d4.local")
    _attack(console.database, ("DELETE FROM audit", ()))
    console.run("domain/declare after.local")
    assert console.logs("cut or rolled back; all its records are written again")
    _written(log, "after.local")


def test_records_of_a_renamed_node_are_detected_by_its_head(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    console.start()
    console.run("whoami")
    printed = re.match(rf"{NODE}: \d+ records are whole, head (\d+:[0-9a-f]{{64}})", console.run("cocon/audit/verify"))
    assert printed
    console.stop()
    console.start(ECSS_CONSOLE_NODE__NAME="ds2@ecss1")
    console.run("whoami")
    console.stop()
    _attack(
        console.database,
        ("DELETE FROM audit WHERE node = ?", (NODE,)),
        ("DELETE FROM audit_heads WHERE node = ?", (NODE,)),
    )
    assert _findings(console) == [f"{NODE} was removed with all its records"]
    told = console.program("audit", "verify", "--head", f"{NODE}={printed[1]}")
    assert told.returncode == 1
    assert f"the exported head is {printed[1].partition(':')[0]}: it was rolled back or cut" in told.stderr


def test_rolled_back_changes_raise_no_alarm(console: ConsoleServer) -> None:
    """The store need not have the head of an uncommitted change."""
    console.run("domain/declare biysk.local")
    for number in range(20):
        console.run(f"domain/biysk.local/integrations/add c{number} {'--check' if number % 2 else ''}")
        console.ssh("domain/biysk.local/integrations/add c0")
    assert console.program("audit", "verify").returncode == 0
    assert not any("the audit's head" in line for line in console.log)
