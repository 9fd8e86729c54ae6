"""Subcommands on the server's host: interrupted, on a full disk, beside a server of an older version."""

from __future__ import annotations

import errno
import json
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from time import sleep

import pytest
from console import PASSWORD, PROGRAM, ConsoleServer, needs
from faults import CHANGES, Faults, Kind

from server.file_names import HOST_KEY_NAME, NEXT_HOST_KEY_NAME
from server.storage.sqlite import schema
from server.transport.hostkey import fingerprint_of, host_keys

pytestmark = pytest.mark.timeout(300)

_SLOW_SYNC = Path(__file__).parents[2] / "bench" / "peers" / "slow_sync.c"


@pytest.fixture(scope="session")
def slow_sync(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that slows every disk sync."""
    needs("cc")
    library = tmp_path_factory.mktemp("slow") / "slow_sync.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(_SLOW_SYNC), "-ldl"], check=True)
    return library


def _users(console: ConsoleServer) -> dict[str, str | None]:
    with closing(sqlite3.connect(console.database)) as database:
        return dict(database.execute("SELECT name, password_hash FROM users").fetchall())


def _recorded(console: ConsoleServer, command: str) -> list[dict[str, object]]:
    with closing(sqlite3.connect(console.database)) as database:
        sql = "SELECT arguments FROM audit WHERE command = ? ORDER BY id"
        return [json.loads(given) for (given,) in database.execute(sql, (f"ecss-console {command}",))]


def _in_use(console: ConsoleServer) -> str:
    return fingerprint_of(host_keys(console.folder / "keys").used)


def _begun(console: ConsoleServer, *words: str, **environment: str) -> subprocess.Popen[str]:
    """Start a subcommand that will be interrupted; its password is on standard input."""
    began = subprocess.Popen(
        [*PROGRAM, *words],
        cwd=console.folder,
        env=console.environment(**environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert began.stdin is not None
    began.stdin.write("another password\n")
    began.stdin.flush()
    return began


def _until(begun: subprocess.Popen[str], found: Callable[[], bool]) -> None:
    while not found():
        assert begun.poll() is None, begun.communicate()
        sleep(0.005)


def _holds_open(begun: subprocess.Popen[str], file: Path) -> bool:
    for opened in Path(f"/proc/{begun.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed after the listing
            if opened.readlink() == file:
                return True
    return False


@pytest.mark.usefixtures("heard_ctrl_c")
def test_ctrl_c_while_the_modules_load_prints_no_traceback(stopped_console: ConsoleServer) -> None:
    """Ctrl-C in the first half second once printed a traceback of the import."""
    begun = _begun(stopped_console, "user", "list")
    maps = Path(f"/proc/{begun.pid}/maps")
    _until(begun, lambda: "pydantic_core" in maps.read_text())
    begun.send_signal(signal.SIGINT)
    out, err = begun.communicate(timeout=60)
    assert (begun.returncode, out, err) == (-signal.SIGINT, "", "")


@pytest.mark.slow
@pytest.mark.usefixtures("heard_ctrl_c")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("user", "add", "bob", "--password-stdin"), "User bob added."),
        (("user", "passwd", "eve", "--password-stdin"), "Password of eve changed."),
        (("user", "remove", "eve"), "User eve removed."),
        (("hostkey", "rotate"), "The next host key is"),
        (("hostkey", "rotate", "--finish"), "The host key is"),
    ],
)
def test_ctrl_c_claims_nothing_was_changed_only_before_the_commit(
    stopped_console: ConsoleServer, slow_sync: Path, words: tuple[str, ...], said: str
) -> None:
    """While a slow disk synced the commit, Ctrl-C once printed `nothing was changed`."""
    console = stopped_console
    assert console.program("user", "add", "eve", "--password-stdin", text=PASSWORD + "\n").returncode == 0
    if "--finish" in words:
        assert console.program("hostkey", "rotate").returncode == 0
    command = " ".join(word for word in words if word not in {"bob", "eve", "--password-stdin"})
    users, records = _users(console), len(_recorded(console, command))
    with closing(sqlite3.connect(console.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # the subcommand waits for the lock
        begun = _begun(console, *words)
        _until(begun, lambda: _holds_open(begun, console.database))
        sleep(1)  # longer than the rest of the start, shorter than the lock timeout
        begun.send_signal(signal.SIGINT)
        out, err = begun.communicate(timeout=60)
        assert (begun.returncode, out, err) == (130, "", "ecss-console: interrupted, nothing was changed\n")
    assert (_users(console), len(_recorded(console, command))) == (users, records)
    settings = {"LD_PRELOAD": str(slow_sync), "SYNC_MICROSECONDS": "1000000"}
    wal = console.database.with_name("console.db-wal")
    begun = _begun(console, *words, **settings)
    _until(begun, lambda: wal.exists() and wal.stat().st_size > 0)  # the commit is written and is being synced
    begun.send_signal(signal.SIGINT)
    out, err = begun.communicate(timeout=120)
    assert begun.returncode == 0, err
    assert said in out
    assert "nothing was changed" not in err
    assert len(_recorded(console, command)) == records + 1
    if words[0] == "user":
        assert _users(console) != users


@pytest.mark.slow
def test_a_host_key_is_used_only_after_its_record_on_a_full_disk(
    stopped_console: ConsoleServer, faults: Faults
) -> None:
    """The key was once swapped before the commit. When the commit failed, the old key was lost."""
    console = stopped_console
    assert console.program("hostkey", "rotate").returncode == 0
    old, following = host_keys(console.folder / "keys").fingerprints
    for passing in range(200):
        faults.fail(CHANGES | Kind.SYNC, errno.ENOSPC, passing=passing)
        ran = console.program("hostkey", "rotate", "--finish", **faults.environment())
        faults.mend()
        recorded = [given["used"] for given in _recorded(console, "hostkey rotate --finish")]
        assert _in_use(console) in {old, *recorded}
        assert (_in_use(console) == following) >= (ran.returncode == 0), ran.stdout
        assert "Traceback" not in ran.stderr
        if _in_use(console) == following:
            break
        assert ran.returncode == 1
        assert f"{following}" not in ran.stdout
    assert passing > 5
    assert console.program("hostkey", "rotate").returncode == 0
    assert (console.folder / "keys" / f"{HOST_KEY_NAME}.pub").exists()


@pytest.mark.slow
def test_a_disk_failure_during_a_rotation_is_one_error_line(stopped_console: ConsoleServer, faults: Faults) -> None:
    """The unrecorded key could not be removed either, and the operator got a traceback."""
    console, told = stopped_console, set()
    for passing in range(0, 100, 3):
        faults.fail(CHANGES | Kind.SYNC, errno.EIO, passing=passing)
        ran = console.program("hostkey", "rotate", **faults.environment())
        failed = faults.mend()
        assert "Traceback" not in ran.stderr
        told.add("must be removed before the next start" in ran.stderr)
        if not failed:
            break
        for name in (NEXT_HOST_KEY_NAME, f"{NEXT_HOST_KEY_NAME}.pub"):
            (console.folder / "keys" / name).unlink(missing_ok=True)
    assert ran.returncode == 0
    assert told == {True, False}


def _made_older(console: ConsoleServer) -> None:
    """Mark the store with an older schema, so that a migration of this version would run again."""
    with closing(sqlite3.connect(console.database)) as database, database:
        database.execute("UPDATE store SET value = ? WHERE name = 'schema'", (str(schema.newest() - 1),))


def test_no_newer_subcommand_upgrades_a_store_under_a_running_server(console: ConsoleServer) -> None:
    """`user list` of the new version once upgraded the schema under the running older server."""
    _made_older(console)
    before = console.database.read_bytes()
    for words in (("user", "list"), ("audit", "verify"), ("hostkey", "list"), ("user", "remove", "eve")):
        ran = console.program(*words)
        assert ran.returncode == 1
        assert "served by an older version" in ran.stderr
        assert "stop that server first" in ran.stderr
        assert len(ran.stderr.splitlines()) == 1
    assert console.database.read_bytes() == before
    assert not [*console.database.parent.glob("*.schema-*")]
    with closing(sqlite3.connect(console.database)) as database, database:
        database.execute("UPDATE store SET value = ? WHERE name = 'schema'", (str(schema.newest()),))
    assert console.program("user", "list").returncode == 0


def test_a_backup_without_disk_space_names_the_scratch_option(
    console: ConsoleServer, faults: Faults, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With the store's disk full, the error once said that the store cannot be opened."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    words = ("backup", str(elsewhere / "b"), "--unencrypted", "--without-keys")
    faults.fail(Kind.WRITE, errno.ENOSPC)
    full = console.program(*words, **faults.environment())
    assert full.returncode == 1
    beside = console.database.parent
    assert f"no room for a copy of the database in {beside}: --scratch DIR takes a folder elsewhere" in full.stderr
    assert [*elsewhere.iterdir()] == []
    assert not [*beside.glob("*scratch*")]
    assert faults.get("failed") > 0
    made = console.program(*words, "--scratch", str(elsewhere), **faults.environment())
    assert (elsewhere / "b").exists(), made.stderr
    assert "cannot be recorded" in made.stderr or made.returncode == 0
    assert faults.mend() > 0
    assert console.program("restore", str(elsewhere / "b"), "--verify-only").returncode == 0
