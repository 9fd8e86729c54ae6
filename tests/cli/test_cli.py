"""The command line program: its files, messages and exit statuses."""

from __future__ import annotations

import re
import socket
import stat
import subprocess
from pathlib import Path

import pexpect
import pytest
from console import PASSWORD, PROGRAM, ConsoleServer


@pytest.fixture
def empty(tmp_path: Path) -> ConsoleServer:
    """An empty folder."""
    return ConsoleServer(tmp_path)


def test_init_prepares_the_first_start_and_shows_the_password_once(empty: ConsoleServer) -> None:
    first = empty.program("init")
    assert first.returncode == 0
    found = re.search(r"^Password, shown only now: (\S{20})$", first.stdout, re.MULTILINE)
    assert found
    assert found[1] not in first.stderr
    names = {path.name for path in (empty.folder / "keys").iterdir()} | {empty.database.name}
    assert names == {"ssh_host_ed25519_key", "ssh_host_ed25519_key.pub", "storage.key", "console.db"}
    again = empty.program("init")
    assert (again.returncode, again.stdout) == (0, "The store is there and has users; nothing was changed.\n")
    empty.start()
    with empty.paramiko(password=found[1]) as client:
        _, stdout, _ = client.exec_command("whoami")
        assert stdout.read().startswith(b"admin\n")
    assert empty.stop() == 0


def test_serve_makes_a_store_and_prints_the_next_commands(empty: ConsoleServer) -> None:
    empty.start()
    assert empty.stop() == 0
    log = "".join(empty.log)
    assert f"log in with: ssh -p {empty.port} USER@127.0.0.1" in log
    assert "there are no users yet: ecss-console user add admin" in log
    assert stat.S_IMODE(empty.database.stat().st_mode) == 0o600


@pytest.mark.slow
def test_users_are_managed_while_the_server_runs(console: ConsoleServer) -> None:
    assert console.program("user", "add", "eve", "--password-stdin", text="one\nignored\n").returncode == 0
    with console.paramiko(username="eve", password="one") as client:
        assert client.get_transport() is not None
    taken = console.program("user", "add", "eve", "--password-stdin", text="one\n")
    assert (taken.returncode, taken.stderr) == (1, "ecss-console: user eve exists already\n")
    assert console.program("user", "passwd", "eve", "--password-stdin", text="two\n").returncode == 0
    with console.paramiko(username="eve", password="two") as client:
        assert client.get_transport() is not None
    listed = console.program("user", "list").stdout
    assert re.search(r"^admin\tadmin\tpassword, SHA256:\S{43}$", listed, re.MULTILINE)
    assert "eve\tadmin\tpassword\n" in listed
    assert console.program("user", "remove", "eve").returncode == 0
    gone = console.program("user", "remove", "eve")
    assert (gone.returncode, gone.stderr) == (1, "ecss-console: there is no user eve\n")
    assert console.program("user", "passwd", "eve", "--password-stdin", text="x\n").returncode == 1


def test_a_user_with_keys_only_cannot_log_in_by_password(console: ConsoleServer) -> None:
    second = console.folder / "second"
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", str(second)], check=True)
    both = console.folder / "authorized_keys"
    both.write_text(f"# two keys\n\n{Path(f'{console.key}.pub').read_text()}{Path(f'{second}.pub').read_text()}")
    assert console.program("user", "add", "key", "--authorized-key", str(both)).returncode == 0
    for path in (console.key, second):
        words = console.ssh_words("-o", "PasswordAuthentication=no", user="key")
        words[words.index(str(console.key))] = str(path)
        assert subprocess.run([*words, "whoami"], capture_output=True, check=False).stdout.startswith(b"key\n")
    with pytest.raises(Exception, match="uthentication"), console.paramiko(username="key", password=""):
        pass


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "text", "said"),
    [
        (("user", "add", "Bad Name", "--password-stdin"), "x\n", "a user name is 1 to 32 of"),
        (("user", "add", "plus+", "--password-stdin"), "x\n", "a user name is 1 to 32 of"),
        (("user", "add", "9lives", "--password-stdin"), "x\n", "begins with a letter"),
        (("user", "passwd", "\udcff", "--password-stdin"), "x\n", "a user name is 1 to 32 of"),
        (("user", "list"), "", "there is no store, neither"),
        (("user", "remove", "eve"), "", "ecss-console init makes one"),
        (("user", "passwd", "eve", "--password-stdin"), "x\n", "there is no store"),
        (("user", "add", "eve", "--password-stdin"), "\n", "a password is 1 to 1024 bytes"),
        (("user", "add", "eve"), "", "there is no terminal to ask for the password"),
        (("user", "add", "eve", "--authorized-key", "absent.pub"), "", "absent.pub: "),
        (("user", "add", "eve", "--authorized-key", "private"), "", "line 1 is a private key: give the .pub file"),
        (("user", "add", "eve", "--authorized-key", "cut.pub"), "", "line 1 is cut or damaged"),
        (("user", "add", "eve", "--authorized-key", "options"), "", "line 1 has options that are not supported"),
        (("user", "add", "eve", "--authorized-key", "dsa.pub"), "", "line 1 is too weak: DSA; use Ed25519"),
    ],
)
def test_invalid_users_are_refused(empty: ConsoleServer, words: tuple[str, ...], text: str, said: str) -> None:
    (empty.folder / "private").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    (empty.folder / "cut.pub").write_text("ssh-ed25519 AAAAC3Nz eve\n")
    (empty.folder / "options").write_text('command="sh" ssh-ed25519 AAAAC3Nz eve\n')
    (empty.folder / "dsa.pub").write_text("ssh-dss AAAAB3NzaC1kc3M= eve\n")
    ran = empty.program(*words, text=text)
    assert ran.returncode == 1
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not empty.database.exists()
    assert not (empty.folder / "keys").exists()


def test_a_password_that_cannot_be_shown_is_not_set(empty: ConsoleServer) -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [*PROGRAM, "init"],
            cwd=empty.folder,
            env=empty.environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert ran.returncode == 1
    assert b"the answer cannot be written: No space left on device" in ran.stderr
    assert b"Traceback" not in ran.stderr
    assert "Password, shown only now: " in empty.program("init").stdout


def test_closed_or_binary_standard_input_is_refused(empty: ConsoleServer) -> None:
    for words, given in ((["--password-stdin"], b"\xff\n"), ([], None), (["--password-stdin"], None)):
        ran = subprocess.run(
            [
                "sh",
                "-c",
                'exec "$@" <&-' if given is None else 'exec "$@"',
                "sh",
                *PROGRAM,
                "user",
                "add",
                "eve",
                *words,
            ],
            cwd=empty.folder,
            env=empty.environment(),
            input=given,
            capture_output=True,
            check=False,
        )
        assert ran.returncode == 1
        assert b"Traceback" not in ran.stderr


def test_a_port_in_use_is_reported_in_one_line(empty: ConsoleServer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (empty.folder / "config.yaml").write_text("listen: {host: 127.0.0.1}\n")
        environment = empty.environment(ECSS_CONSOLE_LISTEN__PORT=str(port))
        ran = subprocess.run(
            [*PROGRAM, "serve"],
            cwd=empty.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
    assert ran.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}: " in ran.stderr
    assert "Traceback" not in ran.stderr


def test_wrong_arguments_exit_with_2() -> None:
    for words in (("tea",), ("user",), ("serve", "now"), ("user", "add", "eve", "--role", "king")):
        assert subprocess.run([*PROGRAM, *words], capture_output=True, check=False).returncode == 2


def test_the_password_is_asked_twice_at_a_terminal(empty: ConsoleServer) -> None:
    for second, status in (("different", 1), (PASSWORD, 0)):
        child = pexpect.spawn(
            PROGRAM[0],
            [*PROGRAM[1:], "user", "add", "eve"],
            cwd=str(empty.folder),
            env=empty.environment(),
            encoding="utf-8",
            timeout=20,
        )
        child.expect("New password: ")
        child.sendline(PASSWORD)
        child.expect("Once more: ")
        child.sendline(second)
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == status
        assert PASSWORD not in str(child.before)
