"""Each known idea of gaining more rights than granted, as a test."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import asyncssh
import pytest
from console import ConsoleServer, read_until_end, read_until_suffix


@pytest.mark.parametrize(
    "line",
    [
        "domain/SHUT.local/integrations/list",
        "domain/open.local/../shut.local/integrations/list",
        "/domain/./shut.local//integrations/list",
        "domain/'shut.local'/integrations/list",
        "domain/shut.local/integrations/list | count",
    ],
)
def test_escalation_no_path_spelling_bypasses_authorization(staffed: ConsoleServer, line: str) -> None:
    assert staffed.told("oleg", line)[0] == 126


def test_escalation_relative_paths_are_authorized(staffed: ConsoleServer) -> None:
    lines = "cd domain/open.local/integrations\n../../shut.local/integrations/list\n"
    ran = staffed.ssh(text=lines, options=["-l", "oleg"])
    assert b"permission denied: domain shut.local" in ran.stdout


def test_escalation_json_output_reveals_no_more_than_text(staffed: ConsoleServer) -> None:
    status, shown = staffed.told("oleg", "domain/shut.local/integrations/list | json")
    document = json.loads(shown)
    assert (status, document["status"], document["error"]["kind"]) == (126, 126, "permission")


async def test_escalation_completion_offers_nothing_unauthorized(staffed: ConsoleServer) -> None:
    async with staffed.asyncssh(username="oleg+rich") as connection:
        shell = await connection.create_process(term_type="xterm", encoding="utf-8")
        await shell.stdout.readuntil("$ ")
        for typed in ("domain/shut.local/integrations/remove t", "domain/sh", "coc"):
            shell.stdin.write(f"{typed}\t\t")
            await asyncio.sleep(0.7)
            shown = await shell.stdout.read(1 << 16)
            assert shown.endswith(typed)
            assert "\n" not in shown
            shell.stdin.write("\x15")
            await asyncio.sleep(0.1)


def test_escalation_suggestions_name_no_unauthorized_command(staffed: ConsoleServer) -> None:
    """Running it was refused, but the suggestion named it."""
    assert staffed.told("admin", "cocon/user/lst") == (
        127,
        "There is no such command: cocon/user/lst\nDid you mean cocon/user/list?\n",
    )
    assert staffed.told("oleg", "cocon/user/lst") == (127, "There is no such command: cocon/user/lst\n")
    assert "Did you mean domain/list?" in staffed.told("oleg", "domain/lst")[1]


def test_escalation_login_options_do_not_change_the_user(staffed: ConsoleServer) -> None:
    assert staffed.told("oleg+plain", "whoami")[1] == "oleg\n"
    assert "there is no login option +admin" in staffed.told("oleg+admin", "whoami")[1]


def test_escalation_a_redeclared_domain_inherits_no_grant(console: ConsoleServer) -> None:
    console.run("domain/declare biysk.local")
    console.add_user("oleg", "operator", "biysk.local")
    assert console.told("oleg", "domain/biysk.local/integrations/add crm")[0] == 0
    console.run("domain/remove biysk.local --force")
    console.run("domain/declare biysk.local")
    assert console.told("oleg", "domain/biysk.local/integrations/list")[0] == 126


def test_escalation_a_readded_user_inherits_no_grant_or_key(console: ConsoleServer) -> None:
    console.run("domain/declare biysk.local")
    console.add_user("oleg", "operator", "biysk.local")
    console.run("cocon/user/remove oleg --force")
    assert console.program("user", "add", "oleg", "--password-stdin", text="a password\n").returncode == 0
    assert console.told("oleg", "whoami")[0] == 255
    assert "biysk" not in console.run("cocon/user/list")


async def test_escalation_a_demoted_user_cannot_confirm_a_pending_question(console: ConsoleServer) -> None:
    """A demoted user cannot answer yes to a question from before."""
    console.run("domain/declare biysk.local")
    console.add_user("oleg", "admin")
    async with console.asyncssh(username="oleg") as connection:
        shell = await connection.create_process(encoding="utf-8")
        shell.stdin.write("domain/remove biysk.local\n")
        await shell.stdout.readuntil("?> ")
        await asyncio.to_thread(console.run, "cocon/user/set oleg --role viewer")
        shell.stdin.write("yes\n")
        assert "permission denied" in await shell.stdout.readuntil("585]\n")
    assert "biysk.local" in console.run("domain/list")


async def test_escalation_queued_commands_cannot_undo_a_demotion(console: ConsoleServer) -> None:
    """A user demoted during the wait for the store could once become an administrator again."""
    console.add_user("oleg", "admin")
    async with console.asyncssh(username="oleg") as oleg, console.asyncssh() as admin:

        async def again() -> None:
            for _ in range(40):
                await oleg.run("cocon/user/set oleg --role admin")

        queued = [asyncio.create_task(again()) for _ in range(3)]
        set_again = "change user oleg from admin"
        await asyncio.to_thread(
            console.recorded, lambda records: sum(set_again in str(each["detail"]) for each in records) > len(queued)
        )
        demoted = await admin.run("cocon/user/set oleg --role viewer")
        assert demoted.exit_status == 0
        await asyncio.gather(*queued)
        rows = json.loads(str((await admin.run("cocon/user/list | json")).stdout))["rows"]
    assert {row["user"]: row["role"] for row in rows}["oleg"] == "viewer"


async def test_escalation_a_readded_user_inherits_no_session(
    console: ConsoleServer,
) -> None:
    key = (console.folder / "id_admin.pub").read_text().strip()
    console.add_user("oleg", "viewer")
    async with console.asyncssh(username="oleg") as old, console.asyncssh() as admin:
        await admin.run("cocon/user/remove oleg --force", check=True)
        await admin.run(f"cocon/user/add oleg --role admin --key '{key}'", check=True)
        with suppress(asyncssh.ChannelOpenError, asyncssh.DisconnectError):  # the look of each second was faster
            ran = await old.run("domain/declare stolen.local")
            assert ran.exit_status in {75, 126}
    assert "stolen" not in console.run("domain/list")


def test_escalation_a_concurrent_password_reset_is_not_overwritten(console: ConsoleServer) -> None:
    console.add_user("vera", "viewer")
    console.ssh(text="cocon/user/passwd vera\nfirst\nfirst\n")
    with console.paramiko(username="vera", password="first") as client:
        channel = client.invoke_shell(term="xterm")
        read_until_suffix(channel, "$ ")
        channel.sendall(b"passwd\r")
        read_until_suffix(channel, "Your password: ")
        channel.sendall(b"first\r")
        read_until_suffix(channel, "New password of vera: ")
        console.ssh(text="cocon/user/passwd vera\nreset\nreset\n")
        channel.sendall(b"mine\rmine\r")
        assert "was changed meanwhile; nothing was changed now" in read_until_suffix(channel, "$ ")
    with console.paramiko(username="vera", password="reset") as client:
        assert client.exec_command("whoami")[1].read().startswith(b"vera\n")


def test_a_secret_typed_ahead_of_a_failed_question_is_not_run(console: ConsoleServer) -> None:
    with console.paramiko() as client:
        channel = client.invoke_shell(term="xterm")
        read_until_suffix(channel, "$ ")
        channel.sendall(b"passwd\rwrong\rNewSecret77\rNewSecret77\r")
        shown = read_until_suffix(channel, "$ ")
        assert "that is not your password" in shown
        channel.sendall(b"history\rexit\r")
        assert "NewSecret77" not in shown + read_until_end(channel)


def test_a_restricted_key_does_not_count_as_the_last_administrators_login(console: ConsoleServer) -> None:
    key = (console.folder / "id_admin.pub").read_text().strip()
    console.run(f"cocon/user/add oleg --role admin --key '{key}' --expires never")
    console.run(
        "cocon/user/key/remove oleg "
        + json.loads(console.run("cocon/user/key/list oleg | json"))["rows"][0]["fingerprint"]
    )
    console.run(f"cocon/user/key/add oleg {key} --from 192.0.2.1")
    assert console.told("admin", "cocon/user/lock admin")[0] == 1
    escape = "ssh-ed25519 " + key.split()[1] + " \x1b]0;pwned\x07"
    (console.folder / "bad.pub").write_text(escape + "\n")
    added = console.program("user", "add", "vera", "--authorized-key", "bad.pub")
    assert "has a comment with control characters" in added.stderr


async def test_escalation_a_readded_user_inherits_no_history(console: ConsoleServer) -> None:
    """Lines of the last half second and of an open session once went to the next user of that name."""
    key = (console.folder / "id_admin.pub").read_text().strip()
    console.add_user("vera", "viewer")
    async with console.asyncssh(username="vera+rich") as old, console.asyncssh() as admin:
        shell = await old.create_process(term_type="xterm", term_size=(80, 24))
        await shell.stdout.readuntil("vera@ds1@ecss1:/$ ")
        for key_typed in "echo old-plan\r":
            shell.stdin.write(key_typed)
            await asyncio.sleep(0.01)
        await shell.stdout.readuntil("nodes:")
        await admin.run(f"cocon/user/remove vera --force\ncocon/user/add vera --key '{key}'", check=True)
    await asyncio.sleep(1.5)
    async with console.asyncssh(username="vera") as new:
        assert "old-plan" not in str((await new.run("history")).stdout)
