"""OpenSSH, paramiko and asyncssh, the clients of the field: the stream that each of them gets."""

from __future__ import annotations

import asyncio
import re
import subprocess

import asyncssh
import paramiko
import pexpect
import pytest
from console import PROMPT, ConsoleServer, read_until_end, read_until_suffix, without_wildcards

from server.model.integrations import Integration, IntegrationType, new_key

SURE = "Are you sure?: yes/no ?> "


def test_paramiko_sends_ten_commands_and_exit_at_once(shared_console: ConsoleServer) -> None:
    """The pattern of public automation: one sendall, wait for the status, read, cut at `:/$ exit`."""
    commands = [f"echo reply {number}" for number in range(10)]
    with shared_console.paramiko() as client:
        channel = client.invoke_shell()
        channel.sendall("\n".join([*commands, "exit\n"]).encode())
        received = read_until_end(channel)
    assert "\x1b" not in received
    for number, command in enumerate(commands):
        assert received.count(f"{PROMPT}{command}\r\nreply {number}\r\n\r\n[exec at:") == 1
    assert re.findall(r"^reply (\d)", received, re.MULTILINE) == [str(number) for number in range(10)]
    assert received.endswith(f"{PROMPT}exit\r\n")


def test_paramiko_answers_the_question_of_domain_remove(console: ConsoleServer) -> None:
    console.run("domain/declare biysk.local")
    with console.paramiko() as client:
        channel = client.invoke_shell()
        assert read_until_suffix(channel, PROMPT) == PROMPT
        channel.sendall(b"domain/remove biysk.local\n")
        assert read_until_suffix(channel, SURE).endswith(f"\r\n{SURE}")
        channel.sendall(b"yes\n")
        assert read_until_suffix(channel, PROMPT).startswith("yes\r\nDomain biysk.local removed\r\n\r\n[exec at:")
    assert "biysk" not in console.run("domain/list")


@pytest.mark.parametrize("pty", [False, True])
def test_paramiko_exec_command(shared_console: ConsoleServer, pty: bool) -> None:  # noqa: FBT001  a parameter of pytest
    with shared_console.paramiko() as client:
        _, stdout, stderr = client.exec_command("whoami", get_pty=pty)
        line_end = "\r\n" if pty else "\n"
        expected = f"admin{line_end}{line_end}[exec at: TIME, nodes: ds1@ecss1 v.3.14.7.585]{line_end}"
        assert without_wildcards(stdout.read().decode()) == expected
        assert stderr.read() == b""
        assert stdout.channel.recv_exit_status() == 0


@pytest.mark.slow
async def test_paramiko_waits_for_the_status_before_it_reads_five_megabytes(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    rows = [(Integration(f"client{number:05}", IntegrationType.WIDGET), new_key()) for number in range(15_000)]
    await console.seed("biysk.local", rows)
    console.start()
    with console.paramiko() as client:
        for pty in (False, True):
            _, stdout, _ = client.exec_command("domain/biysk.local/integrations/list", get_pty=pty)
            stdout.channel.settimeout(60)
            assert stdout.channel.recv_exit_status() == 0
            printed = stdout.read()
            assert len(printed) > 5_000_000
            assert printed.count(b"client") == 15_000


def test_exec_asks_on_standard_input_and_the_end_of_input_is_no(console: ConsoleServer) -> None:
    console.run("domain/declare biysk.local")
    refused = console.ssh("domain/remove biysk.local")
    assert refused.returncode == 1
    assert f"{SURE}Command error: not confirmed\n" in refused.stdout.decode()
    wrong = console.ssh("domain/remove biysk.local", text="y\nyes\n")
    assert wrong.returncode == 1
    confirmed = console.ssh("domain/remove biysk.local", text="yes\n")
    assert confirmed.returncode == 0
    assert f"{SURE}Domain biysk.local removed\n" in confirmed.stdout.decode()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_openssh_pipes_a_script_with_any_line_ending(shared_console: ConsoleServer, end: str) -> None:
    ran = shared_console.ssh(text=end.join(["echo one", "nonsense", "echo half typed"]))
    printed = without_wildcards(ran.stdout.decode())
    footer = "\n[exec at: TIME, nodes: ds1@ecss1 v.3.14.7.585]\n"
    assert printed == (
        f"{PROMPT}one\n{footer}{PROMPT}There is no such command: nonsense\n{footer}{PROMPT}half typed\n{footer}{PROMPT}"
    )
    assert ran.returncode == 0


def test_a_piped_script_ends_with_the_status_of_its_last_command(shared_console: ConsoleServer) -> None:
    assert shared_console.ssh(text="whoami\nnonsense\n").returncode == 127
    assert shared_console.ssh(text="nonsense\nwhoami\n").returncode == 0
    assert shared_console.ssh(text="nonsense\nexit\nwhoami\n").returncode == 0
    assert shared_console.ssh(text="exit 5").returncode == 5
    assert shared_console.ssh(text="nonsense\n", options=["-tt"]).returncode == 127


def test_two_thousand_piped_lines_all_run_in_order(shared_console: ConsoleServer) -> None:
    lines = "".join(f"echo line {number} of many\n" for number in range(2000))
    for options in ([], ["-tt"]):
        ran = shared_console.ssh(text=lines, options=options)
        found = re.findall(r"^(?:admin@ds1@ecss1:/\$ )?line (\d+) of many", ran.stdout.decode(), re.MULTILINE)
        assert found == [str(number) for number in range(2000)]


def test_a_line_beyond_the_limit_is_refused_whole(shared_console: ConsoleServer) -> None:
    long = "echo " + "x" * 65_536
    for options in ([], ["-tt"]):
        ran = shared_console.ssh(text=f"{long}\necho after\n", options=options)
        printed = ran.stdout.decode()
        refusal = "Invalid command's arguments: the line is longer than 65,536 characters; none of it was run"
        assert printed.count(refusal) == 1
        assert "\nafter" in printed.replace(PROMPT, "\n").replace("\r", "")


@pytest.mark.parametrize("term", [None, "dumb", "vt100", "xterm", "xterm-256color", "screen-256color"])
async def test_asyncssh_shell(shared_console: ConsoleServer, term: str | None) -> None:
    async with shared_console.asyncssh() as connection:
        process = await connection.create_process(term_type=term, encoding="utf-8")
        assert await process.stdout.readuntil(PROMPT) == PROMPT
        process.stdin.write("whoami\n")
        end = "\r\n" if term is not None else "\n"
        echo = "whoami\r\n" if term is not None else ""
        reply = await process.stdout.readuntil(PROMPT)
        footer = f"[exec at: TIME, nodes: ds1@ecss1 v.3.14.7.585]{end}"
        assert without_wildcards(reply) == f"{echo}admin{end}{end}{footer}{PROMPT}"
        process.stdin.write("exit 4\n")
        assert (await process.wait()).exit_status == 4


@pytest.mark.parametrize("how", ["byte", "signal", "break"])
async def test_ctrl_c_ends_the_command_and_the_session_lives(shared_console: ConsoleServer, how: str) -> None:
    async with shared_console.asyncssh() as connection:
        process = await connection.create_process(term_type="xterm", encoding="utf-8")
        await process.stdout.readuntil(PROMPT)
        process.stdin.write("sleep 60\necho typed before\n")
        await process.stdout.readuntil("sleep 60\r\n")
        await asyncio.to_thread(shared_console.runs_a_command)
        if how == "byte":
            process.stdin.write("\x03")
        elif how == "signal":
            process.send_signal("INT")
        else:
            process.channel.send_break(100)
        assert await process.stdout.readuntil(PROMPT) == f"^C\r\n{PROMPT}"
        process.stdin.write("whoami\n")
        assert (await process.stdout.readuntil(PROMPT)).startswith("whoami\r\nadmin\r\n")
        process.stdin.write("sleep 60\n")
        await process.stdout.readuntil("sleep 60\r\n")
        await asyncio.to_thread(shared_console.runs_a_command)
        process.stdin.write("\x03\x04")
        assert (await process.wait()).exit_status == 130


async def test_ctrl_c_at_the_question_leaves_the_domain(console: ConsoleServer) -> None:
    console.run("domain/declare biysk.local")
    async with console.asyncssh() as connection:
        process = await connection.create_process("domain/remove biysk.local", term_type="xterm", encoding="utf-8")
        await process.stdout.readuntil(SURE)
        process.stdin.write("ye\x03")
        done = await process.wait()
        assert (done.exit_status, done.stdout) == (130, "^C\r\n")
    assert "biysk.local" in console.run("domain/list")


async def test_several_channels_share_one_connection(shared_console: ConsoleServer) -> None:
    async with shared_console.asyncssh() as connection:
        slow = await connection.create_process("sleep 3")
        ran = await asyncio.gather(*(connection.run(f"echo {number}") for number in range(20)))
        assert [str(each.stdout).splitlines()[0] for each in ran] == [str(number) for number in range(20)]
        assert slow.exit_status is None
        assert (await slow.wait()).exit_status == 0


async def test_text_in_utf_8_goes_both_ways_also_cut_within_a_character(shared_console: ConsoleServer) -> None:
    async with shared_console.asyncssh() as connection:
        process = await connection.create_process(encoding=None)
        for byte in "echo Бийск ☎\n".encode():
            process.stdin.write(bytes([byte]))
            await asyncio.sleep(0.001)
        process.stdin.write(b"echo \xff\xfe\n\0")
        process.stdin.write_eof()
        printed = (await process.wait()).stdout
    assert isinstance(printed, bytes)
    assert "Бийск ☎\n".encode() in printed
    assert "��\n".encode() in printed


async def test_unsupported_requests_are_refused_and_the_connection_lives(shared_console: ConsoleServer) -> None:
    async with shared_console.asyncssh() as connection:
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.start_sftp_client()
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_connection("127.0.0.1", 22)
        with pytest.raises(asyncssh.ChannelListenError):
            await connection.forward_remote_port("127.0.0.1", 0, "127.0.0.1", 9)
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_unix_connection("/tmp/agent")  # noqa: S108  refused before anything is opened
        assert str((await connection.run("whoami")).stdout).startswith("admin")
    assert b"There is no such command: scp" in shared_console.ssh("scp -t /tmp").stdout


def test_scp_fails_and_says_so(shared_console: ConsoleServer) -> None:
    words = ["scp", "-P", str(shared_console.port), *shared_console.ssh_words()[5:-1]]
    copied = subprocess.run([*words, __file__, "admin@127.0.0.1:"], capture_output=True, check=False, timeout=20)
    assert copied.returncode != 0
    assert copied.stderr


def test_login_by_password_over_a_terminal(shared_console: ConsoleServer) -> None:
    words = shared_console.ssh_words("-o", "PubkeyAuthentication=no")
    child = pexpect.spawn(words[0], words[1:], encoding="utf-8", timeout=20)
    child.expect("assword: ?$")
    child.sendline("wrong")
    child.expect("assword: ?$")
    child.sendline("correct horse battery staple")
    child.expect_exact(PROMPT)
    child.sendline("exit")
    child.expect(pexpect.EOF)


def test_wrong_password_and_unknown_user_look_the_same(shared_console: ConsoleServer) -> None:
    said = []
    for user in ("admin", "nobody", "x" * 200, "admin+no+such"):
        with (
            pytest.raises(paramiko.AuthenticationException) as refused,
            shared_console.paramiko(username=user, password="wrong"),
        ):
            pass
        said.append(str(refused.value))
    assert len(set(said)) == 1


def test_wrong_login_options_are_refused_with_a_reason_after_the_login(shared_console: ConsoleServer) -> None:
    with shared_console.paramiko(username="admin+tea") as client:
        channel = client.invoke_shell()
        said = read_until_end(channel)
        assert "there is no login option +tea; known are +plain (" in said
        for option in ("+rich (", "+json (", "+strict ("):
            assert option in said
        assert channel.recv_exit_status() == 2
