"""Host key rotation warns no client, and a kill in between loses no key."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import asyncssh
import pytest
from console import ConsoleServer

from server.errors import StartError
from server.file_names import ECDSA_HOST_KEY_NAME, HOST_KEY_NAME, NEXT_HOST_KEY_NAME
from server.transport.hostkey import host_keys, make_next, take_next

NEXT = f"keys/{NEXT_HOST_KEY_NAME}"


def _reload(server: ConsoleServer) -> None:
    """Send SIGHUP and wait until the log reports it."""
    before = len(server.log)
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)
    for _ in range(200):
        if any("host keys" in line or "not reloaded" in line for line in server.log[before:]):
            return
        time.sleep(0.05)
    pytest.fail("no reload: " + "".join(server.log[before:]))


def _ssh(server: ConsoleServer, known_hosts: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    """Run `whoami` with OpenSSH and a file of known hosts."""
    kept = f"UserKnownHostsFile={known_hosts}"
    words = ["-o", kept, "-o", "GlobalKnownHostsFile=/dev/null", "-o", "UpdateHostKeys=yes"]
    # OpenSSH uses the first value
    base = server.ssh_words()
    ran = [*base[:1], *words, *(word for option in options for word in ("-o", option)), *base[1:], "whoami"]
    return subprocess.run(ran, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60)


def _listed(server: ConsoleServer) -> dict[str, str]:
    """Return the fingerprints of `hostkey list` by place."""
    listed = server.program("hostkey", "list")
    assert listed.returncode == 0, listed.stderr
    return {place: fingerprint for place, fingerprint, _ in (line.split("\t") for line in listed.stdout.splitlines())}


def test_openssh_learns_the_next_key_and_is_never_warned(console: ConsoleServer, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    assert _ssh(console, known, "StrictHostKeyChecking=accept-new").returncode == 0
    old = _listed(console)["in use"]
    begun = console.program("hostkey", "rotate")
    assert begun.returncode == 0, begun.stderr
    assert "Reload the server" in begun.stdout
    following = _listed(console)["next"]
    assert following in begun.stdout
    _reload(console)
    assert _ssh(console, known, "StrictHostKeyChecking=yes").returncode == 0
    assert len(known.read_text().splitlines()) == 2
    finished = console.program("hostkey", "rotate", "--finish")
    assert finished.returncode == 0, finished.stderr
    assert old in finished.stdout
    assert _listed(console) == {"in use": following}
    console.stop()
    console.start(ECSS_CONSOLE_LISTEN__PORT=str(console.port))  # known_hosts has the port
    assert _ssh(console, known, "StrictHostKeyChecking=yes").returncode == 0
    assert len(known.read_text().splitlines()) == 1  # OpenSSH has dropped the old one
    assert (console.folder / f"{NEXT}.pub").exists() is False


def test_a_client_that_knows_only_the_next_key_is_let_in_by_reload_alone(
    console: ConsoleServer, tmp_path: Path
) -> None:
    assert console.program("hostkey", "rotate").returncode == 0
    public = (console.folder / f"{NEXT}.pub").read_text()
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{console.port} {public}")
    assert _ssh(console, known, "StrictHostKeyChecking=yes").returncode == 255
    assert console.program("hostkey", "rotate", "--finish").returncode == 0
    assert _ssh(console, known, "StrictHostKeyChecking=yes").returncode == 255  # the server continues with the old one
    _reload(console)
    assert _ssh(console, known, "StrictHostKeyChecking=yes").returncode == 0


async def test_an_open_session_outlives_the_rotation(console: ConsoleServer) -> None:
    async with console.asyncssh() as connection:
        assert console.program("hostkey", "rotate").returncode == 0
        assert console.program("hostkey", "rotate", "--finish").returncode == 0
        _reload(console)
        assert (await connection.run("whoami", check=True)).exit_status == 0


async def test_the_server_proves_possession_of_announced_host_keys(console: ConsoleServer) -> None:
    assert console.program("hostkey", "rotate").returncode == 0
    _reload(console)
    keys = host_keys(console.folder / "keys")
    assert keys.next is not None
    told: list[list[asyncssh.SSHKey]] = []
    known = console.folder / "known_hosts"
    known.write_text(f"[127.0.0.1]:{console.port} {keys.used.export_public_key('openssh').decode()}")
    async with console.asyncssh(
        known_hosts=str(known), server_host_keys_handler=lambda added, *_: told.append(added)
    ) as connection:
        await connection.run("whoami", check=True)
        await connection.run("whoami", check=True)
    assert [[key.get_fingerprint() for key in added] for added in told] == [[keys.next.get_fingerprint()]]


def test_rotating_is_recorded_and_refused_out_of_turn(stopped_console: ConsoleServer) -> None:
    refused = stopped_console.program("hostkey", "rotate", "--finish")
    assert refused.returncode == 1
    assert "there is no next host key" in refused.stderr
    assert stopped_console.program("hostkey", "rotate").returncode == 0
    place = _listed(stopped_console)
    refused = stopped_console.program("hostkey", "rotate")
    assert refused.returncode == 1
    assert "a rotation is under way" in refused.stderr
    assert stopped_console.program("hostkey", "rotate", "--finish").returncode == 0
    connection = sqlite3.connect(stopped_console.database)
    rows = connection.execute("SELECT command, arguments FROM audit WHERE event = 'hostkey.change' ORDER BY id")
    assert [(command, json.loads(arguments)) for command, arguments in rows] == [
        ("ecss-console hostkey rotate", {"used": place["in use"], "next": place["next"]}),
        ("ecss-console hostkey rotate --finish", {"used": place["next"], "dropped": place["in use"]}),
    ]
    connection.close()


def test_a_rotation_that_cannot_be_recorded_leaves_no_key(stopped_console: ConsoleServer) -> None:
    """The next start would have announced a key of unknown origin."""
    with closing(sqlite3.connect(stopped_console.database)) as connection, connection:
        connection.execute("CREATE TRIGGER refuse BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no audit'); END")
    assert stopped_console.program("hostkey", "rotate").returncode == 1
    assert list(_listed(stopped_console)) == ["in use"]
    with closing(sqlite3.connect(stopped_console.database)) as connection, connection:
        connection.execute("DROP TRIGGER refuse")
    assert stopped_console.program("hostkey", "rotate").returncode == 0


def test_a_next_key_whose_public_file_cannot_be_written_is_not_kept(stopped_console: ConsoleServer) -> None:
    (stopped_console.folder / f"{NEXT}.pub.new").mkdir()
    refused = stopped_console.program("hostkey", "rotate")
    assert refused.returncode == 1
    assert "cannot be made" in refused.stderr
    assert not (stopped_console.folder / NEXT).exists()
    (stopped_console.folder / f"{NEXT}.pub.new").rmdir()
    assert stopped_console.program("hostkey", "rotate").returncode == 0


def test_unreadable_host_keys_leave_the_running_server_its_keys(console: ConsoleServer, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    assert _ssh(console, known, "StrictHostKeyChecking=accept-new").returncode == 0
    (console.folder / "keys" / HOST_KEY_NAME).write_text("no key")
    _reload(console)
    assert console.logs("not reloaded, nothing has changed", HOST_KEY_NAME)
    assert _ssh(console, known, "StrictHostKeyChecking=yes").returncode == 0


def test_a_rotation_killed_in_between_leaves_keys_that_work(tmp_path: Path) -> None:
    """Uses the files as left by a kill after each step of both rotations."""
    first = host_keys(tmp_path)
    following = make_next(tmp_path).next
    assert following is not None
    (tmp_path / f"{NEXT_HOST_KEY_NAME}.pub").unlink()  # killed before the public key file existed
    (tmp_path / f"{NEXT_HOST_KEY_NAME}.new").write_text("half")
    keys = host_keys(tmp_path)
    assert [key.get_fingerprint() for key in keys.announced] == [
        first.used.get_fingerprint(),
        following.get_fingerprint(),
    ]
    assert (tmp_path / f"{NEXT_HOST_KEY_NAME}.pub").read_bytes() == following.export_public_key("openssh")
    (tmp_path / NEXT_HOST_KEY_NAME).replace(tmp_path / HOST_KEY_NAME)  # killed right after the deciding step
    keys = host_keys(tmp_path)
    assert [key.get_fingerprint() for key in keys.announced] == [following.get_fingerprint()]
    assert (tmp_path / f"{HOST_KEY_NAME}.pub").read_bytes() == following.export_public_key("openssh")
    assert make_next(tmp_path).next is not None  # a further rotation works
    assert take_next(tmp_path).next is None


def test_the_ecdsa_key_is_made_when_it_is_needed_and_no_rotation_changes_it(tmp_path: Path) -> None:
    assert host_keys(tmp_path).ecdsa is None
    assert not (tmp_path / ECDSA_HOST_KEY_NAME).exists()
    made = host_keys(tmp_path, ecdsa=True).ecdsa
    assert made is not None
    assert made.get_algorithm() == "ecdsa-sha2-nistp256"
    make_next(tmp_path)
    rotating = host_keys(tmp_path, ecdsa=True)
    assert rotating.announced == [rotating.used, rotating.ecdsa, rotating.next]
    take_next(tmp_path)
    rotated = host_keys(tmp_path, ecdsa=True)
    assert rotated.announced == [rotating.next, made]
    assert [*rotated.in_use] == ["host_key", "ecdsa_host_key"]
    assert (tmp_path / ECDSA_HOST_KEY_NAME).stat().st_mode & 0o777 == 0o600


def test_a_key_of_another_kind_is_no_ecdsa_host_key(tmp_path: Path) -> None:
    host_keys(tmp_path)
    (tmp_path / ECDSA_HOST_KEY_NAME).write_bytes((tmp_path / HOST_KEY_NAME).read_bytes())
    with pytest.raises(StartError, match="is ssh-ed25519: ecdsa-sha2-nistp256 is expected"):
        host_keys(tmp_path, ecdsa=True)
    host_keys(tmp_path)  # where no policy needs it, it does not matter


def test_a_reload_does_not_wait_for_the_keys_folder(console: ConsoleServer) -> None:
    """A program with the folder lock may wait for the store, whose loop would wait here: a deadlock."""
    assert console.process is not None
    (console.folder / "config.yaml").write_text("listen: {port: 0}\nssh: {policy: compatible}\n")
    descriptor = os.open(console.folder / "keys", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        console.process.send_signal(signal.SIGHUP)
        assert console.logs("not reloaded", "keys folder", "is in use", "reload again")
    finally:
        os.close(descriptor)
    assert console.run("whoami").startswith("admin\n")
    _reload(console)
    assert host_keys(console.folder / "keys", make=False, ecdsa=True).ecdsa is not None


def test_a_removed_ecdsa_key_is_recreated_at_a_reload_and_recorded(stopped_console: ConsoleServer) -> None:
    (stopped_console.folder / "config.yaml").write_text("listen: {port: 0}\nssh: {policy: compatible}\n")
    stopped_console.start()
    before = _listed(stopped_console)
    assert stopped_console.program("hostkey", "rotate").returncode == 0
    assert stopped_console.program("hostkey", "rotate", "--finish").returncode == 0
    (stopped_console.folder / "keys" / ECDSA_HOST_KEY_NAME).unlink()
    _reload(stopped_console)
    after = _listed(stopped_console)
    assert {*before} == {*after} == {"in use", "in use (ECDSA)"}
    assert not {*before.values()} & {*after.values()}
    rows = stopped_console.recorded(lambda rows: any(row["command"] == "SIGHUP" for row in rows))
    assert [row["detail"] for row in rows if row["command"] == "SIGHUP"] == ["changed: ecdsa_host_key, host_key"]


def test_host_key_files_are_private(tmp_path: Path) -> None:
    host_keys(tmp_path)
    make_next(tmp_path)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    for name in (HOST_KEY_NAME, NEXT_HOST_KEY_NAME):
        (tmp_path / name).chmod(0o644)
    host_keys(tmp_path)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
