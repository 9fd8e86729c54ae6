"""Disk faults and clock jumps lose no acknowledged change, and every fault is reported."""

from __future__ import annotations

import asyncio
import errno
import random
import re
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from math import inf
from pathlib import Path

import pytest
from asyncssh import SSHClientConnection
from console import PASSWORD, PROMPT, ConsoleServer
from cutting import cut_often
from faults import CHANGES, FOR_EVER, Faults, Kind
from ledger import DOMAIN, Change, Ledger, Standing, change_until_cut, complaints, copied
from power import HOWS, Disk, Record, records

from server.errors import StartError
from server.file_names import STORAGE_KEY_NAME
from server.storage.sqlite.files import check, prepare
from server.storage.sqlite.schema import newest
from server.storage.storage_key import read_storage_key
from server.storage.vault import Vault
from server.transport.hostkey import host_keys

LOCKED = "Command error: temporary locked: "
MAYBE = "may be after a restart; look before you try again"


pytestmark = pytest.mark.timeout(300)  # much is written to a disk that others use too


@pytest.fixture
def faulty(stopped_console: ConsoleServer, faults: Faults) -> Iterator[ConsoleServer]:
    """A server with a domain; `faults` controls its disk."""
    stopped_console.start(**faults.environment())
    stopped_console.run(f"domain/declare {DOMAIN}")
    yield stopped_console
    faults.mend()
    assert stopped_console.stop() == 0
    log = "".join(stopped_console.log)
    assert "Traceback" not in log, log
    assert "not in the store" not in log, log


async def _told(connection: SSHClientConnection, command: str) -> tuple[int | None, str]:
    ran = await connection.run(command)
    return ran.exit_status, str(ran.stdout).split("\n\n[exec at: ")[0].strip()


async def _add(connection: SSHClientConnection, client_id: str) -> tuple[int | None, str]:
    return await _told(connection, f"domain/{DOMAIN}/integrations/add {client_id}")


def _integrations(folder: Path) -> set[str]:
    """Return the client ids in a copy of the store."""
    copy = copied(folder, folder / "copy")
    with closing(sqlite3.connect(copy / "var" / "console.db")) as database:
        return {name for (name,) in database.execute("SELECT client_id FROM integrations")}


def _verified(console: ConsoleServer) -> None:
    """Check that the store and the audit are intact."""
    with closing(sqlite3.connect(console.database)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    verified = console.program("audit", "verify")
    assert verified.returncode == 0, verified.stderr


@pytest.mark.slow
async def test_a_power_cut_at_any_moment_loses_no_acknowledged_change(
    stopped_console: ConsoleServer, faults: Faults, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, dice = tmp_path_factory.mktemp("power"), random.Random(5)  # noqa: S311  the same cuts each time
    found = await cut_often(stopped_console, faults, folder, 60, dice)
    assert found.wrong == []
    assert found.states >= 60
    assert found.lies_found, "a disk that syncs nothing would not be found"


@pytest.mark.slow
def test_a_first_start_cut_by_power_loss_is_whole_or_repeats(
    tmp_path: Path, library: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("power")
    console, faults = ConsoleServer(tmp_path), Faults.make(library, folder / "control", tmp_path)
    trace = faults.environment(folder / "trace")
    disk = Disk()
    told: list[tuple[int, str]] = []
    for words in (("init",), ("hostkey", "rotate"), ("hostkey", "rotate", "--finish")):
        assert console.program(*words, **trace).returncode == 0
        told.append((faults.sequence(), host_keys(tmp_path / "keys").announced[-1].get_fingerprint()))
    changes = list(records(folder / "trace"))
    assert len(changes) == told[-1][0]
    dice = random.Random(5)  # noqa: S311  the same cuts each time
    for position, change in enumerate([*changes, Record("S", "nothing", 0, b"")]):
        left = folder / "left"
        disk.cut(left, dice.choice(("lost", *HOWS)), dice)
        _begins_or_is_whole(left, whole=position >= told[0][0])
        keys = {key.get_fingerprint() for key in host_keys(left / "keys").announced}
        assert all(fingerprint in keys for when, fingerprint in told[1:] if position >= when)
        shutil.rmtree(left)
        disk.apply(change)


def _begins_or_is_whole(folder: Path, *, whole: bool) -> None:
    """Check that the next start makes or finds the store, with all that `init` acknowledged."""
    prepared = prepare(folder / "var" / "console.db", folder / "keys")
    with closing(sqlite3.connect(prepared.database)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        if whole:
            assert database.execute("SELECT name FROM users").fetchall() == [("admin",)]


DISKS = {
    "full": (CHANGES, errno.ENOSPC, FOR_EVER, 0),
    "full for a moment": (CHANGES, errno.ENOSPC, 1, 0),
    "full in the midst of a write": (Kind.WRITE, errno.ENOSPC, FOR_EVER, 1),
    "over quota": (CHANGES, errno.EDQUOT, FOR_EVER, 0),
    "failing": (CHANGES | Kind.SYNC, errno.EIO, FOR_EVER, 0),
    "failing to sync": (Kind.SYNC, errno.EIO, FOR_EVER, 0),
    "failing to sync once": (Kind.SYNC, errno.EIO, 1, 0),
    "read-only": (CHANGES | Kind.SYNC, errno.EROFS, FOR_EVER, 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("disk", DISKS)
async def test_a_disk_fault_at_each_operation_is_reported_and_atomic(
    faulty: ConsoleServer, faults: Faults, disk: str
) -> None:
    kinds, error, failing, partial = DISKS[disk]
    refused = 0
    async with faulty.asyncssh() as connection:
        assert (await _add(connection, "before"))[0] == 0
        for passing in range(100):
            faults.set(partial=partial)
            faults.fail(kinds, error, passing=passing, failing=failing)
            status, text = await _add(connection, f"c{passing}")
            assert await _told(connection, "domain/list") != (75, "")
            assert "before" in (await _told(connection, f"domain/{DOMAIN}/integrations/list"))[1]
            after_a_kill = f"c{passing}" in _integrations(faulty.folder)
            if not faults.mend():
                assert status == 0, text
                break
            if status == 0:  # the failure came after the commit
                assert after_a_kill
                continue
            refused += 1
            assert (status, text.startswith(LOCKED)) == (75, True), text
            assert not after_a_kill or MAYBE in text
            assert f"│c{passing} " not in (await _told(connection, f"domain/{DOMAIN}/integrations/list"))[1]
            assert (await _add(connection, f"c{passing}"))[0] == 0  # it recovers by itself
        else:
            pytest.fail("every operation fails")
    assert refused, "nothing was refused"
    assert faulty.stop() == 0
    with closing(sqlite3.connect(faulty.database)) as database:
        ((recorded,),) = database.execute("SELECT count(*) FROM audit WHERE status = 75").fetchall()
    assert recorded == refused  # these also wait for space
    _verified(faulty)


async def test_random_disk_faults_lose_no_acknowledged_change(faulty: ConsoleServer, faults: Faults) -> None:
    ledger, dice = Ledger(), random.Random(5)  # noqa: S311
    made = faulty.database.stat().st_mtime_ns
    checkpoints: set[int] = set()
    async with faulty.asyncssh() as connection:
        work = [asyncio.create_task(change_until_cut(connection, ledger, f"c{number}")) for number in range(3)]
        while len(checkpoints) < 3 or ledger.refused < 20:
            faults.fail(CHANGES | Kind.SYNC | Kind.READ, errno.EIO, passing=dice.randrange(200), failing=1)
            while not faults.get("failed"):  # noqa: ASYNC110  another process counts
                await asyncio.sleep(0.001)
            checkpoints |= {faulty.database.stat().st_mtime_ns} - {made}
        faults.mend()
        connection.abort()
        await asyncio.gather(*work)
    assert faulty.stop() == 0
    assert ledger.told() > ledger.refused
    assert (await complaints(faulty.folder, ledger))[0] == []


async def test_logins_and_reads_work_on_a_full_disk_and_records_follow(faulty: ConsoleServer, faults: Faults) -> None:
    assert faulty.run(f"domain/{DOMAIN}/integrations/add tester")
    faults.fail(CHANGES | Kind.SYNC, errno.ENOSPC)
    with faulty.paramiko(password=PASSWORD) as client:
        _, out, _ = client.exec_command(f"domain/{DOMAIN}/integrations/list")
        assert "tester" in out.read().decode()
        assert out.channel.recv_exit_status() == 0
    async with faulty.asyncssh() as connection:
        for number in range(20):
            assert (await _told(connection, f"echo {number}"))[0] == 0
        for change in ("remove tester", "replace tester", "set tester --service", "add other"):
            status, text = await _told(connection, f"domain/{DOMAIN}/integrations/{change}")
            assert (status, text) == (75, f"{LOCKED}the disk is full, nothing was changed; try again")
        await connection.run("domain/declare other.local", check=False)
    assert faulty.logs("audit records wait for the store: the disk is full")
    assert faulty.logs("SQLITE_FULL")
    assert faults.mend() > 0
    faulty.run("domain/declare after.local")
    assert faulty.stop() == 0
    with closing(sqlite3.connect(faulty.database)) as database:
        rows = database.execute("SELECT event, command, status FROM audit").fetchall()
    assert len([row for row in rows if row == ("command", "/echo", 0)]) == 20
    assert len([row for row in rows if row[2] == 75]) == 5
    assert len([row for row in rows if row[0].startswith("login")]) >= 2
    _verified(faulty)


async def test_a_passing_read_error_is_reported_and_needs_no_repair(faulty: ConsoleServer, faults: Faults) -> None:
    refused = 0
    async with faulty.asyncssh() as connection:
        for passing in range(100):
            with closing(sqlite3.connect(faulty.database)) as database:
                database.execute("PRAGMA user_version = 0")  # the server's memory is lost
            faults.fail(Kind.READ, errno.EIO, passing=passing)
            ran = [await _told(connection, "domain/list"), await _add(connection, f"c{passing}")]
            failed = faults.mend()
            for status, text in ran:
                assert status == 0 or (status, text.startswith(LOCKED)) == (75, True), text
                refused += status == 75
            if not failed:
                break
            listed = await _told(connection, f"domain/{DOMAIN}/integrations/list")
            assert (f"│c{passing} " in listed[1]) == (ran[1][0] == 0)
    assert refused
    assert faulty.stop() == 0
    _verified(faulty)


def test_a_start_on_a_read_only_disk_is_refused_with_the_reason(stopped_console: ConsoleServer, faults: Faults) -> None:
    faults.fail(CHANGES | Kind.SYNC, errno.EROFS)
    for words in (("serve",), ("user", "add", "eve", "--password-stdin")):
        ran = stopped_console.program(*words, text="secret\n", **faults.environment())
        assert ran.returncode == 1, ran.stderr
        assert "Traceback" not in ran.stderr
        assert re.search(r"ead-only|can only be read|cannot be opened", ran.stderr), ran.stderr


async def test_a_clock_that_jumps_an_hour_ends_no_session_and_changes_no_order(
    stopped_console: ConsoleServer, faults: Faults
) -> None:
    limits = {"ECSS_CONSOLE_SESSIONS__IDLE_SECONDS": "1000", "ECSS_CONSOLE_SESSIONS__LONGEST_SECONDS": "2000"}
    more = {"ECSS_CONSOLE_KEEPALIVE__INTERVAL_SECONDS": "1", "ECSS_CONSOLE_LIMITS__LOGIN_GRACE_TIME": "600"}
    stopped_console.start(**limits, **more, **faults.environment())
    stopped_console.run(f"domain/declare {DOMAIN}")
    reader, writer = await asyncio.open_connection("127.0.0.1", stopped_console.port)  # has not logged in
    assert (await reader.readline()).startswith(b"SSH-2.0-")
    async with stopped_console.asyncssh() as connection:
        shell = await connection.create_process(term_type="xterm", encoding="utf-8")
        await shell.stdout.readuntil(PROMPT)
        sleeping = await connection.create_process("sleep 2")
        for number, seconds in enumerate((3600, -3600, 0, 86400 * 400, 0)):
            faults.set(clock_seconds=seconds)
            await asyncio.sleep(0.3)
            status, text = await _add(connection, f"c{number}")
            assert status == 0, text
            shell.stdin.write("whoami\n")
            said = await shell.stdout.readuntil("$ ")
            took = re.search(r"exec time: (-?\d+)ms", said)
            assert took is not None, said
            assert 0 <= int(took[1]) < 60_000
        slept = await sleeping.wait()
        found = re.search(r"exec time: (\d+)ms", str(slept.stdout))
        assert found is not None
        assert 2000 <= int(found[1]) < 60_000
        status, sessions = await _told(connection, "cocon/session/list")
        assert status == 0, sessions
    assert not reader.at_eof()
    writer.close()
    stopped_console.ssh(options=("-o", "PreferredAuthentications=none"))  # a penalty, computed without the wall clock
    stopped_console.run("whoami")
    assert stopped_console.stop() == 0
    log = "".join(stopped_console.log)
    assert "ends:" not in log, log
    assert "Traceback" not in log, log
    with closing(sqlite3.connect(stopped_console.database)) as database:
        durations = [each for (each,) in database.execute("SELECT duration_ms FROM audit WHERE duration_ms NOT NULL")]
        times = [each for (each,) in database.execute("SELECT at FROM audit WHERE event = 'change' ORDER BY id")]
    assert min(durations) >= 0
    assert max(durations) < 60_000
    assert times != sorted(times), "the clock did not jump"
    _verified(stopped_console)


def test_a_second_server_on_a_store_is_refused_while_the_first_lives(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    console.start()
    assert console.process is not None
    before = {path: path.read_bytes() for path in console.folder.rglob("*.key")}
    for _ in range(2):
        second = console.program("serve")
        assert second.returncode == 1
        told = f"serves or restores the store {console.database}, process {console.process.pid}: stop it"
        assert told in second.stderr
    assert {path: path.read_bytes() for path in console.folder.rglob("*.key")} == before
    console.run(f"domain/declare {DOMAIN}")
    console.stop(signal.SIGKILL)
    console.start()  # the lock ended with the process
    assert DOMAIN in console.run("domain/list")
    assert console.stop() == 0
    assert not list(console.folder.rglob("*.lock"))


@pytest.mark.slow
async def test_users_host_keys_and_the_audit_are_managed_while_clients_change_things(console: ConsoleServer) -> None:
    console.run(f"domain/declare {DOMAIN}")
    ledger = Ledger()
    words = (
        ("user", "add", "eve", "--authorized-key", f"{console.key}.pub"),
        ("audit", "verify"),
        ("hostkey", "rotate"),
        ("user", "list"),
        ("hostkey", "rotate", "--finish"),
        ("user", "remove", "eve"),
        ("audit", "verify"),
    )
    async with console.asyncssh() as connection:
        work = [asyncio.create_task(change_until_cut(connection, ledger, f"c.{number}")) for number in range(3)]
        done = [await asyncio.to_thread(console.program, *each) for each in words]
        connection.abort()
        await asyncio.gather(*work)
    for each, ran in zip(words, done, strict=True):
        assert ran.returncode == 0, (each, ran.stderr)
    assert console.stop() == 0
    assert ledger.told() > len(words)
    assert ledger.refused == 0
    assert (await complaints(console.folder, ledger))[0] == []


def test_the_ledger_detects_lost_reverted_and_unknown_changes() -> None:
    there, other = Standing("a" * 64, "2400"), Standing("b" * 64, "2400")
    ledger = Ledger(changes={"c": [Change("add", 1, there, told=2), Change("replace", 3, other, told=4)]})
    assert list(ledger.lost({"c": other})) == []
    assert list(ledger.lost({"c": there}, position=3.5)) == []
    assert len(list(ledger.lost({}))) == 1
    assert len(list(ledger.lost({"c": there}))) == 1
    assert len(list(ledger.lost({"c": other, "d": there}))) == 1
    assert ledger.dead_keys() == {"a" * 64}
    ledger.changes["c"].append(Change("remove", 5, None, told=inf))
    assert list(ledger.lost({})) == list(ledger.lost({"c": other})) == []
    assert ledger.counts() == (2, 3)


def test_a_damaged_store_is_a_permanent_fault(stopped_console: ConsoleServer) -> None:
    stopped_console.database.write_bytes(b"no database" * 1000)
    with pytest.raises(StartError, match="is damaged"):
        prepare(stopped_console.database, stopped_console.folder / "keys")


def test_a_file_written_during_its_check_is_checked_again(
    stopped_console: ConsoleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start or `backup` beside a writer once reported a damaged store in 1 of 1,651 cases."""
    console = stopped_console
    vault = Vault(read_storage_key(console.folder / "keys" / STORAGE_KEY_NAME))
    whole = console.database.read_bytes()
    half_written = bytearray(whole)
    half_written[4096:] = b"\xff" * (len(whole) - 4096)
    console.database.write_bytes(half_written)
    with pytest.raises(StartError, match="is damaged"):
        check(console.database, vault)
    real = sqlite3.connect

    def connect(place: str, *, uri: bool) -> sqlite3.Connection:
        opened = real(place, uri=uri)
        opened.execute("SELECT count(*) FROM sqlite_master").fetchone()
        console.database.with_suffix(".whole").write_bytes(whole)
        console.database.with_suffix(".whole").replace(console.database)
        return opened

    monkeypatch.setattr(sqlite3, "connect", connect)
    assert check(console.database, vault) == newest()
