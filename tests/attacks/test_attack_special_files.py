"""A FIFO, folder, device or huge file takes the place of a key or of the configuration."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from console import PROGRAM, ConsoleServer


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.mkdir()


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


KINDS: dict[Callable[[Path], None], str] = {
    _fifo: "a FIFO",
    _folder: "a folder",
    _socket: "a socket",
    _device: "a device",
    _huge: "larger than",
}


@pytest.mark.parametrize("put", KINDS)
def test_attack_a_special_file_does_not_block_a_reload(
    stopped_console: ConsoleServer, put: Callable[[Path], None]
) -> None:
    """A FIFO as the next host key once blocked all sessions at SIGHUP until data arrived."""
    console = stopped_console
    config = "auth: {trusted_user_ca_keys: trusted}\n"
    (console.folder / "config.yaml").write_text(config)
    (console.folder / "trusted").write_bytes((console.folder / "id_admin.pub").read_bytes())
    console.start()
    assert console.process is not None
    names = ("keys/ssh_host_ed25519_key_next", "keys/ssh_host_ed25519_key", "config.yaml", "trusted")
    for name in names:
        path = console.folder / name
        kept = path.rename(path.with_name("kept")) if path.exists() else None
        put(path)
        console.log.clear()
        console.process.send_signal(signal.SIGHUP)
        assert console.logs("not reloaded", Path(name).name, KINDS[put]), (name, console.log)
        assert console.run("whoami").startswith("admin\n")
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        if kept is not None:
            kept.rename(path)
    console.log.clear()
    console.process.send_signal(signal.SIGHUP)
    assert console.logs("reloaded ")


@pytest.mark.slow
@pytest.mark.parametrize("put", KINDS)
def test_attack_a_special_file_fails_the_start_at_once(
    stopped_console: ConsoleServer, put: Callable[[Path], None]
) -> None:
    console = stopped_console
    console.start()
    console.stop()
    for name, status in (("keys/storage.key", 1), ("keys/ssh_host_ed25519_key", 1), ("config.yaml", 78)):
        path = console.folder / name
        kept = path.rename(path.with_name("kept")) if path.exists() else None
        put(path)
        ran = console.program("serve")
        assert ran.returncode == status, ran.stderr
        assert KINDS[put] in ran.stderr
        assert "Traceback" not in ran.stderr
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        if kept is not None:
            kept.rename(path)


@pytest.mark.parametrize("name", ["console.db", "console.db-wal", "console.db.lock"])
def test_attack_a_fifo_as_database_fails_a_subcommand(stopped_console: ConsoleServer, name: str) -> None:
    """SQLite opens a read-only database like any file, and waits for ever on a FIFO."""
    console = stopped_console
    path = console.database.with_name(name)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    for words in (("audit", "verify"), ("serve",))[name.endswith(".lock") :]:
        ran = console.program(*words)
        assert ran.returncode == 1
        assert f"{name} is no plain file" in ran.stderr


def test_attack_a_fifo_as_public_key_file_is_replaced(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    console.start()
    path = console.folder / "keys" / "ssh_host_ed25519_key.pub"
    before = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    assert console.process is not None
    console.log.clear()
    console.process.send_signal(signal.SIGHUP)
    assert console.logs("reloaded ")
    assert path.read_bytes() == before


def test_secrets_still_come_from_a_pipe(stopped_console: ConsoleServer) -> None:
    """`--passphrase-file <(pass show backup)` names a pipe, and waiting for it is wanted."""
    backup = "backup b.age --passphrase-file <(echo a passphrase of ten)"
    user = "user add eve --role viewer --authorized-key <(cat id_admin.pub)"
    for words in (backup, user):
        line = f"{PROGRAM[0]} -m server {words}"
        environment = stopped_console.environment()
        ran = subprocess.run(["bash", "-c", line], cwd=stopped_console.folder, env=environment, check=False)
        assert ran.returncode == 0


def test_attack_concurrent_inits_show_one_working_password(tmp_path: Path) -> None:
    """Each `init` once showed a password. Only one password worked, and all were recorded."""
    console = ConsoleServer(tmp_path)
    begun = [
        subprocess.Popen(
            [*PROGRAM, "init"],
            cwd=tmp_path,
            env=console.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    told = [each.communicate(timeout=100) for each in begun]
    assert [each.returncode for each in begun] == [0] * 6, told
    passwords = re.findall(r"shown only now: (\S+)", "".join(out for out, _ in told))
    assert len(passwords) == 1
    assert sum("has users; nothing was changed" in out for out, _ in told) == 5
    assert [record["command"] for record in console.audit()].count("ecss-console init") == 1
    console.start()
    with console.paramiko(password=passwords[0]) as client:
        _, stdout, _ = client.exec_command("whoami")
        assert stdout.read().startswith(b"admin\n")
    console.stop()
    assert len(base64.b64decode((tmp_path / "keys" / "storage.key").read_bytes())) == 32
