"""What is done to the audit while the console serves, by somebody with the database and without the storage key."""

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
    """Run statements as whoever can write to the file does: what forbids them is dropped first, and put back."""
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
    """Return the number of the newest record, once all that waits is there."""
    return int(json.loads(console.run("cocon/audit/list --last 1 | json"))["rows"][0]["seq"])


def _findings(console: ConsoleServer) -> list[str]:
    ran = console.program("audit", "verify")
    assert ran.returncode == 1, ran.stdout
    return ran.stderr.splitlines()[1:]


def test_all_records_and_the_head_are_deleted_while_the_console_serves(console: ConsoleServer) -> None:
    """The next record began at 1 again, and verify certified it."""
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


def test_an_older_signed_head_is_put_back_while_the_console_serves(console: ConsoleServer) -> None:
    """A change was made, its record dropped, and the head of before put back: signed, and two records old."""
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
    """Wait until the log of the audit has a text."""
    deadline = time.monotonic() + 10
    while not log.exists() or text not in log.read_text(encoding="utf-8"):
        assert time.monotonic() < deadline, text
        time.sleep(0.05)


def test_who_cuts_the_audit_does_not_end_its_log(stopped_console: ConsoleServer) -> None:
    """Ids began again below the last that was written, and nothing came any more."""
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


def test_the_records_of_a_node_that_was_renamed_are_found_by_its_head(stopped_console: ConsoleServer) -> None:
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


def test_changes_that_are_taken_back_raise_no_alarm(console: ConsoleServer) -> None:
    """What was never committed is no head that the store should have."""
    console.run("domain/declare biysk.local")
    for number in range(20):
        console.run(f"domain/biysk.local/integrations/add c{number} {'--check' if number % 2 else ''}")
        console.ssh("domain/biysk.local/integrations/add c0")
    assert console.program("audit", "verify").returncode == 0
    assert not any("the audit's head" in line for line in console.log)
