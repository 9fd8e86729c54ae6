"""Permissions of roles, grants for domains, and users with their passwords and keys."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing, suppress

import pytest
from console import PASSWORD, ConsoleServer, read_until_end, read_until_suffix

from server.commands import COMMANDS
from server.model.access import PERMISSIONS, Permission, Role

LIST = "integrations/list"


@pytest.mark.parametrize("user", ["oleg", "vera"])
def test_only_granted_domains_are_listed(staffed: ConsoleServer, user: str) -> None:
    status, shown = staffed.told(user, "domain/list")
    assert status == 0
    assert "open.local" in shown
    assert "shut.local" not in shown
    assert staffed.told(user, "ls domain")[1].splitlines()[0] == "open.local/"
    assert "cocon" not in staffed.told(user, "ls")[1]
    assert "cocon" not in staffed.told(user, "help")[1]


@pytest.mark.parametrize("user", ["oleg", "vera"])
@pytest.mark.parametrize(
    "line",
    [
        "domain/{}/integrations/list",
        "cd domain/{}",
        "ls domain/{}",
        "domain/{}/integrations/show tester",
        "ls domain/{}/integrations",
    ],
)
def test_an_ungranted_domain_looks_like_an_unknown_one(staffed: ConsoleServer, user: str, line: str) -> None:
    status, shown = staffed.told(user, line.format("shut.local"))
    assert status == 126
    assert shown == f"Command error: permission denied: domain shut.local is not granted to {user}\n"
    absent = staffed.told(user, line.format("nope.local"))
    assert absent == (status, shown.replace("shut.local", "nope.local"))


def test_an_operator_changes_granted_domains_only(staffed: ConsoleServer) -> None:
    assert staffed.told("oleg", "domain/open.local/integrations/add crm")[0] == 0
    assert staffed.told("oleg", "domain/open.local/integrations/remove crm")[0] == 0
    for line in ("add crm", "add crm --check", "remove tester", "replace tester", "set tester --service"):
        assert staffed.told("oleg", f"domain/shut.local/integrations/{line}")[0] == 126
    assert "tester" in staffed.run("domain/shut.local/integrations/list")


def test_a_viewer_sees_keys_masked_and_changes_nothing(staffed: ConsoleServer) -> None:
    status, shown = staffed.told("vera", "domain/open.local/integrations/list")
    assert status == 0
    assert "*" * 56 in shown
    assert staffed.told("vera", "domain/open.local/integrations/show tester --reveal")[0] == 126
    for line in ("add crm", "remove tester", "replace tester", "set tester --service"):
        assert staffed.told("vera", f"domain/open.local/integrations/{line}")[0] == 126


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.VIEWER])
def test_every_command_is_authorized(staffed: ConsoleServer, role: Role) -> None:
    user = {Role.OPERATOR: "oleg", Role.VIEWER: "vera"}[role]
    lines = {
        each.path: each.path.lstrip("/").replace("<DOMAIN>", "open.local")
        + "".join(f" {_word(a.kind.metavar)}" for a in each.arguments)
        for each in COMMANDS
        if each.permission not in PERMISSIONS[role]
    }
    assert {"/cocon/user/add", "/domain/remove", "/cocon/session/kill"} <= lines.keys()
    for path, line in lines.items():
        status, shown = staffed.told(user, line)
        assert status == 126, (path, shown)
        assert "permission denied" in shown


def _word(metavar: str) -> str:
    words = {"<DOMAIN>": "open.local", "<USER>": "admin", "<KEY>": "ssh-ed25519", "<ApiKey>": "k" * 64}
    return words.get(metavar, "tester")


def test_a_mistyped_domain_suggests_only_granted_domains(staffed: ConsoleServer) -> None:
    """A suggested domain for `cd` once turned out not to exist for the user."""
    for typed in ("domain/nosuch", "domain/nosuch/integrations/lst"):
        bare = f"There is no such command: {typed}\n"
        assert staffed.told("admin", typed) == (127, bare + "There is no domain nosuch.\n")
        assert staffed.told("oleg", typed) == (127, bare)


async def test_grants_and_revocations_apply_to_the_next_line_of_a_shell(console: ConsoleServer) -> None:
    console.run("domain/declare biysk.local")
    console.add_user("oleg", "operator")
    async with console.asyncssh(username="oleg") as connection:
        shell = await connection.create_process(term_type="vt100", encoding="utf-8")
        await shell.stdout.readuntil("$ ")

        async def answered(line: str) -> str:
            shell.stdin.write(line + "\n")
            return str(await shell.stdout.readuntil("$ "))

        assert "permission denied" in await answered("domain/biysk.local/integrations/add crm")
        await asyncio.to_thread(console.run, "cocon/user/grant oleg biysk.local")
        assert "New integration was added." in await answered("domain/biysk.local/integrations/add crm")
        await asyncio.to_thread(console.run, "cocon/user/set oleg --role viewer")
        assert "permission denied" in await answered("domain/biysk.local/integrations/remove crm")
        await asyncio.to_thread(console.run, "cocon/user/revoke oleg biysk.local")
        assert "permission denied" in await answered("domain/biysk.local/integrations/list")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["lock", "remove", "program"])
async def test_locking_or_removing_a_user_ends_sessions_at_once(console: ConsoleServer, way: str) -> None:
    console.add_user("oleg", "admin")
    async with console.asyncssh(username="oleg") as connection:
        shell = await connection.create_process(encoding="utf-8")
        await shell.stdout.readuntil("$ ")
        if way == "program":
            assert (await asyncio.to_thread(console.program, "user", "remove", "oleg")).returncode == 0
        else:
            await asyncio.to_thread(console.run, f"cocon/user/{way} oleg" + (" --force" if way == "remove" else ""))
            with suppress(BrokenPipeError):  # the look of each second was faster
                shell.stdin.write("domain/declare stolen.local\n")
        told = await asyncio.wait_for(shell.wait(), 10)
        assert "oleg may not work here any more" in str(told.stdout)
    assert "stolen" not in console.run("domain/list")


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "cocon/user/remove admin --force",
        "cocon/user/lock admin",
        "cocon/user/set admin --role operator",
        "cocon/user/set admin --expires 2100-01-01",
    ],
)
def test_the_last_administrator_cannot_be_removed(console: ConsoleServer, line: str) -> None:
    console.add_user("vera", "viewer")
    status, shown = console.told("admin", line)
    assert status == 1
    assert "admin is the last administrator" in shown
    assert console.run("whoami").startswith("admin\n")
    console.add_user("oleg", "admin")
    assert console.told("oleg", line)[0] == 0
    assert console.program("user", "remove", "oleg").returncode == 1
    assert console.told("oleg", "whoami")[0] == 0


def test_the_last_administrator_keeps_a_way_to_log_in(console: ConsoleServer) -> None:
    with closing(sqlite3.connect(console.database)) as database:
        database.execute("UPDATE users SET password_hash = NULL")
        database.commit()
    shown = console.run("cocon/user/key/list admin | json")
    print_ = json.loads(shown)["rows"][0]["fingerprint"]
    assert console.told("admin", f"cocon/user/key/remove admin {print_}")[0] == 1
    assert console.told("admin", "whoami") == (0, "admin\n")


def test_passwords_are_asked_for_and_never_shown(console: ConsoleServer) -> None:
    secret = "Zaehler-Uhr-77"
    with console.paramiko() as client:
        channel = client.invoke_shell(term="xterm")
        read_until_suffix(channel, "$ ")
        for typed, shown in (
            ("cocon/user/add oleg --role operator\r", "cocon/user/add oleg --role operator\r\nNew password of oleg: "),
            (f"{secret}\r", "\r\nOnce more: "),
        ):
            channel.sendall(typed.encode())
            assert read_until_suffix(channel, ": ").endswith(shown)
        channel.sendall(f"{secret}\rhistory\rexit\r".encode())
        assert secret not in read_until_end(channel)
    with console.paramiko(username="oleg", password=secret) as client:
        assert client.exec_command("whoami")[1].read().startswith(b"oleg\n")
    console.stop()
    assert secret.encode() not in console.database.read_bytes()
    assert secret not in "".join(console.log)
    console.start()


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ("one\ntwo\n", "the two passwords differ; nothing was changed"),
        ("\n", "a password is 1 to 1024 bytes; nothing was changed"),
        ("", "no answer, nothing was changed"),
    ],
)
def test_a_password_that_cannot_be_set_changes_nothing(console: ConsoleServer, answers: str, told: str) -> None:
    ran = console.ssh(text=f"cocon/user/add oleg\n{answers}")
    assert f"Command error: {told}\n".encode() in ran.stdout
    assert "oleg" not in console.run("cocon/user/list")
    refused = console.told("admin", "cocon/user/add oleg | json")
    assert "nothing can be asked under json" in refused[1]


def test_everybody_changes_their_own_password(console: ConsoleServer) -> None:
    console.add_user("vera", "viewer")
    console.ssh(text="cocon/user/passwd vera\nfirst\nfirst\n")
    refused = console.ssh(text="passwd\nwrong\nsecond\nsecond\n", options=["-l", "vera"])
    assert b"that is not your password; nothing was changed" in refused.stdout
    changed = console.ssh(text="passwd\nfirst\nsecond\nsecond\n", options=["-l", "vera"])
    assert b"Your password was changed" in changed.stdout
    with console.paramiko(username="vera", password="second") as client:
        assert client.exec_command("whoami")[1].read().startswith(b"vera\n")


def test_keys_of_users_are_managed_at_the_console(console: ConsoleServer) -> None:
    line = (console.folder / "id_admin.pub").read_text().strip()
    assert console.program("user", "add", "vera", "--password-stdin", text="x\n").returncode == 0
    added = console.run(f"cocon/user/key/add vera {line} --from 127.0.0.2,10.0.0.0/8 --expires 2100-01-01Z")
    assert added.startswith("Key SHA256:")
    (row,) = json.loads(console.run("cocon/user/key/list vera | json"))["rows"]
    assert row["from"] == ["127.0.0.2", "10.0.0.0/8"]
    assert row["expires_at"] == "2100-01-01T00:00:00.000+00:00"
    assert console.told("vera", "whoami")[0] == 255
    console.run(f"cocon/user/key/remove vera {row['fingerprint']}")
    console.run(f"cocon/user/key/add vera {line}")
    assert console.told("vera", "whoami")[0] == 0
    for wrong in ("rubbish", "ssh-ed25519 AAAA", f'command="sh" {line}'):
        assert console.told("admin", f"cocon/user/key/add vera '{wrong}'")[0] == 2


def test_each_role_adds_permissions() -> None:
    assert PERMISSIONS[Role.ADMIN] == frozenset(Permission)
    assert PERMISSIONS[Role.VIEWER] < PERMISSIONS[Role.OPERATOR] < PERMISSIONS[Role.ADMIN]
    assert PASSWORD


@pytest.mark.parametrize(
    "line",
    [
        "cocon/user/add z --key 'ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAAABcA=='",
        "cocon/user/add z --key 'sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29t'",
        "cocon/user/set admin --expires 9999-12-31T23:59",
        "cocon/user/set admin --expires 0001-01-01",
    ],
)
def test_malformed_keys_and_times_are_argument_errors(shared_console: ConsoleServer, line: str) -> None:
    assert shared_console.told("admin", f"{line} --check")[0] in {1, 2}
    assert "incident" not in "".join(shared_console.log)


@pytest.mark.parametrize("password", ["\u1e9eharp", "tab\there", "smile\U0001f600", "a\u05d0b", "\u00ad"])
def test_a_password_that_some_clients_cannot_send_is_refused(console: ConsoleServer, password: str) -> None:
    ran = console.program("user", "passwd", "admin", "--password-stdin", text=password + "\n")
    assert ran.returncode == 1
    assert "a password" in ran.stderr
