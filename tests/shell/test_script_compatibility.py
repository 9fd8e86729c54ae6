"""Scripts from the field: logout, comments, shell syntax, key formats, prompts of older consoles."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import paramiko
import pexpect
import pytest
from console import PROMPT, ConsoleServer, read_until_end, read_until_suffix

from server.commands import command_tree
from server.config import load_config
from server.errors import ConfigurationError
from server.grammar.candidates import offer
from server.grammar.habits import habit_hints
from server.grammar.match import Incomplete, Ready, match
from server.grammar.tokens import tokenize
from server.model.access import Operator, Role

ROOT = command_tree()
ADMIN = Operator("admin", Role.ADMIN, "127.0.0.1:22", "00000000")
HERE = "domain/b/integrations/"
BLOB = "AAAAC3NzaC1lZDI1NTE5AAAAIFNCm5BTBpYMPntsDaOcenjoZ5ypNpm8ovhgjLtQJ1hz"
PUBLIC = f"ssh-ed25519 {BLOB}"


# logout


@pytest.mark.parametrize("word", ["exit", "quit", "logout"])
def test_field_a_tool_that_ends_with_logout_gets_its_status(shared_console: ConsoleServer, word: str) -> None:
    """A family of tools ends with `logout`, once unknown: they waited until the session ended."""
    assert shared_console.ssh(f"{word} 4").returncode == 4
    ran = shared_console.ssh(text=f"cd domain\n{word}\nwhoami\n")
    assert (ran.returncode, ran.stdout.decode()) == (0, PROMPT + PROMPT.replace("/$", "/domain$"))


# comments

SCRIPT = "# set a domain up\n\n  \t# indented: \"open ' | && \x01 \u00a0\nnonsense\n# the end\n#"


@pytest.mark.parametrize("options", [(), ("-tt",)])
def test_field_a_script_with_comments_runs_and_its_status_is_that_of_its_last_command(
    shared_console: ConsoleServer, options: tuple[str, ...]
) -> None:
    """Each line with a leading # was once an unknown command: 127, and the end under +strict."""
    ran = shared_console.ssh(text=SCRIPT.replace("\x01", "") + ("\n\x04" if options else ""), options=options)
    printed = ran.stdout.decode()
    assert ran.returncode == 127
    assert printed.count("[exec at: ") == 1
    assert printed.count("There is no such command: nonsense") == 1
    assert printed.count(PROMPT) == 7


@pytest.mark.parametrize(
    ("user", "lines", "status", "replies"),
    [
        ("admin", "# one", 0, 0),
        ("admin", "#", 0, 0),
        ("admin", "whoami\n# two\nnonsense\n# three", 127, 2),
        ("admin", "nonsense\n  #two", 127, 1),
        ("admin+strict", "# one\nwhoami\n#two\nwhoami", 0, 2),
        ("admin+strict", "#one\nnonsense\nwhoami", 127, 1),
        ("admin+json", "# one\n#two\nwhoami", 0, 1),
        ("admin+strict+json", "# one", 0, 0),
    ],
)
@pytest.mark.parametrize("way", ["exec", "script"])
def test_field_a_comment_has_no_reply_and_no_status(
    shared_console: ConsoleServer, user: str, lines: str, status: int, replies: int, way: str
) -> None:
    words = shared_console.ssh_words(user=user)
    given = ([*words, lines], b"") if way == "exec" else (words, lines.encode())
    ran = subprocess.run(given[0], input=given[1], capture_output=True, check=False, timeout=60)
    assert ran.returncode == status
    assert len(re.findall(rb"\[exec at: |\"exec\": ", ran.stdout)) == replies


def test_field_a_number_sign_inside_a_line_is_text(shared_console: ConsoleServer) -> None:
    assert shared_console.run("echo a #b # c").startswith("a #b # c\n")
    assert shared_console.run("echo '# a'").startswith("# a\n")
    ran = shared_console.ssh("domain/list # all of them")
    assert ran.returncode == 2
    assert b"A comment has # as the first character of its line" in ran.stdout


def test_field_a_comment_is_in_the_history_and_has_no_completion(console: ConsoleServer) -> None:
    """As in bash, # puts a half-typed line aside for later. A line with a secret is not kept."""
    with pexpect.spawn(console.ssh_words()[0], console.ssh_words("-tt")[1:], encoding="utf-8", timeout=20) as person:
        person.delaybeforesend = None
        secret = "k" * 64
        for line in ("#domain/declare later.local", f"# {secret}", "# my password is x"):
            person.expect_exact("$ ")
            for key in line:
                person.send(key)
            person.send("\r")
        person.expect_exact("$ ")
        person.send("exit\r")
        person.expect(pexpect.EOF)
    kept = console.run("history")
    assert "#domain/declare later.local" in kept
    assert secret not in kept
    assert "password" not in kept
    for text in ("#", "# ", "# dom", "  #domain/list | "):
        assert offer(ROOT, (), text, ADMIN).candidates == ()


# shell syntax: hints for lines that fail


@pytest.mark.parametrize(
    ("command", "status", "hint"),
    [
        ("domain/list|count", 127, "A filter needs blanks around |, as in: domain/list | count"),
        ("domain/list |count", 2, "A filter needs blanks around |"),
        ("domain/list| count", 127, "A filter needs blanks around |"),
        ("domain/list | first 1|json", 2, "A filter needs blanks around |"),
        ("domain/list > domains.txt", 2, "Nothing is redirected here"),
        ("domain/list >domains.txt", 2, "Nothing is redirected here"),
        ("domain/list 2>&1", 2, "Nothing is redirected here"),
        ("whoami && date", 2, "A line has one command"),
        ("whoami; date", 127, "A line has one command"),
        ("whoami || true", 2, "A line has one command"),
        ("cd $HOME", 1, "There are no variables"),
        ("domain/${D}/integrations/list", 2, "There are no variables"),
        ("domain/`cat d`/integrations/list", 127, "no substitution"),
        ("domain/list | grep biysk", 2, "Did you mean | match?"),
        ("domain/list | wc -l", 2, "Did you mean | count?"),
        ("domain/list | tail -n 1", 2, "Did you mean | last?"),
    ],
)
def test_field_foreign_shell_syntax_is_named_in_the_error(
    shared_console: ConsoleServer, command: str, status: int, hint: str
) -> None:
    ran = shared_console.ssh(command)
    assert ran.returncode == status
    assert hint in ran.stdout.decode().split("\n\n[exec at: ")[0]


def test_field_hints_leave_every_kind_of_refusal_as_it_is(shared_console: ConsoleServer) -> None:
    """Hints once made a new error of the same class, which failed for a refusal that builds its own message."""
    ran = shared_console.ssh("cocon/user/lock admin | regex a|b;")
    printed = ran.stdout.decode()
    assert ran.returncode == 1
    assert printed.count("admin is the last administrator, make another one first; nothing was changed") == 1
    assert "A filter needs blanks around |" in printed
    assert "A line has one command" in printed


def test_field_hints_are_part_of_the_document(shared_console: ConsoleServer) -> None:
    ran = subprocess.run(
        [*shared_console.ssh_words(user="admin+json"), "domain/list|count"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert b'"A filter needs blanks around |' in ran.stdout


@pytest.mark.parametrize("text", ["echo a|b && c; d > e $F `g` 2>&1", "echo # x | match '|'", "help domain/list"])
def test_field_hints_do_not_change_valid_lines(shared_console: ConsoleServer, text: str) -> None:
    assert isinstance(match(ROOT, (), tokenize(text)), Ready)
    printed = shared_console.run(text)
    assert not any(hint in printed for hint in ("needs blanks", "redirected", "one command", "variables"))


def test_field_quotes_and_long_lines_get_no_hint() -> None:
    assert habit_hints(tokenize("nonsense 'a|b' \"$x; y\" '> z'")) == ()
    line = tokenize("nonsense " + "secret|secret " * 4_000)
    assert all("secret" not in hint for hint in habit_hints(line))
    assert habit_hints(tokenize("nonsense " + "x" * 60_000 + "|y")) == ()


# keys without quotes or in another format


@pytest.mark.parametrize(
    "line",
    [
        f"cocon/user/add zoe --key {PUBLIC} --check",
        f"cocon/user/add zoe --key {PUBLIC} zoe at her desk --role viewer --check",
        f"cocon/user/add --key {PUBLIC} zoe@desk --check zoe",
        f"cocon/user/add --key '{PUBLIC} zoe@desk' zoe --check",
        f"cocon/user/add zoe --check --key={PUBLIC} two words",
    ],
)
def test_field_a_public_key_that_lost_its_quotes_is_taken(shared_console: ConsoleServer, line: str) -> None:
    """`--key ssh-ed25519 AAAA… comment` once failed with "one word too many"."""
    assert "SHA256:4xMQbuWtqNt3TftX8zakRiS1fqyiVzjfkarIn4NkSyc" in shared_console.run(line)


def test_field_an_unquoted_key_ends_at_the_next_option() -> None:
    ready = match(ROOT, (), tokenize(f"cocon/user/add zoe --key {PUBLIC} at home --role viewer"))
    assert isinstance(ready, Ready)
    assert (ready.arguments["key"].comment, ready.arguments["role"]) == ("at home", Role.VIEWER)
    swallowed = match(ROOT, (), tokenize(f"cocon/user/add --key {PUBLIC} zoe"))
    assert isinstance(swallowed, Incomplete)  # a comment's words look the same as a name
    assert "<USER> is missing" in swallowed.message
    open_value = offer(ROOT, (), f"cocon/user/add zoe --key {PUBLIC} ", ADMIN)
    assert (open_value.lookup, open_value.expected and open_value.expected.metavar) == (None, "<KEY>")
    options = offer(ROOT, (), f"cocon/user/add zoe --key {PUBLIC} x --r", ADMIN)
    assert [each.text for each in options.candidates] == ["--role"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("---- BEGIN SSH2 PUBLIC KEY ----", "RFC 4716, as PuTTYgen saves it: ssh-keygen -i -f FILE prints its line"),
        ("'---- BEGIN SSH2 PUBLIC KEY ---- Comment: x'", "RFC 4716"),
        ("PuTTY-User-Key-File-3: ssh-ed25519 Encryption: none", "is a private key of PuTTY"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "is a private key: give the .pub file"),
        ("-----BEGIN PUBLIC KEY-----", "ssh-keygen -i -m PKCS8 -f FILE"),
        ("-----BEGIN RSA PUBLIC KEY-----", "ssh-keygen -i -m PEM -f FILE"),
        ("SHA256:NFuJ4z6VV8Diy/AkSx5MkAObPPRqXkgx9v1fAaZLfa0", "is the fingerprint of a key"),
        ("256 SHA256:NFuJ4z6VV8Diy/AkSx5MkAObPPRqXkgx9v1fAaZLfa0 eve@desk (ED25519)", "is the fingerprint of a key"),
        ("2048 MD5:16:27:ac:a5:76:28:2d:36:63:1b:56:4d:eb:df:a6:48 x (RSA)", "is the fingerprint of a key"),
        (BLOB, "has no algorithm in front"),
        (f"ssh-ed25519-cert-v01@openssh.com {BLOB}", "is a certificate"),
        (f'from="10.0.0.0/8" {PUBLIC}', "Put '…' around a line with options"),
    ],
)
def test_field_a_value_that_is_no_public_key_is_named(shared_console: ConsoleServer, words: str, told: str) -> None:
    ran = shared_console.ssh(f"cocon/user/key/add admin {words}")
    assert ran.returncode == 2
    assert told in ran.stdout.decode()
    quoted = words.strip("'").replace('"', "")
    if "=" not in words:
        ran = shared_console.ssh(f"cocon/user/add zoe --key '{quoted}'")
        assert ran.returncode == 2
        assert told in ran.stdout.decode()


@pytest.mark.parametrize("comment", ["-----BEGIN CERTIFICATE-----", "PuTTY-User-Key-File-3", "SHA256:x of mine"])
def test_field_a_comment_of_a_key_may_speak_of_formats(shared_console: ConsoleServer, comment: str) -> None:
    line = f"cocon/user/key/add admin '{PUBLIC} {comment}' --check"
    assert "Nothing was changed" in shared_console.run(line)


PUTTYGEN = f"""---- BEGIN SSH2 PUBLIC KEY ----\r
Subject: eve\r
Comment: "a comment of many words that \\\r
goes on"\r
{BLOB[:40]}\r
{BLOB[40:]}\r
---- END SSH2 PUBLIC KEY ----\r
"""


def test_field_a_puttygen_key_file_works(stopped_console: ConsoleServer) -> None:
    """Keys saved by PuTTYgen's button (RFC 4716) were once "no public key of a known kind"."""
    console = stopped_console
    made = subprocess.run(["ssh-keygen", "-e", "-f", f"{console.key}.pub"], capture_output=True, text=True, check=True)
    (console.folder / "exported").write_text(made.stdout + "\n# and one of OpenSSH\n" + PUBLIC + " last\n")
    (console.folder / "saved").write_bytes(PUTTYGEN.encode())
    words = ("user", "add", "eve", "--authorized-key", "exported", "--authorized-key", "saved", "--role", "admin")
    added = console.program(*words)
    assert added.returncode == 0, added.stderr
    console.start()
    assert console.told("eve", "whoami")[:2] == (0, "eve\n")
    listed = console.run("cocon/user/key/list eve | json")
    assert '"comment": "a comment of many words that goes on"' in listed  # the last of two comments of one key applies


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "told"),
    [
        (PUTTYGEN.replace("---- END", "---- AND"), "line 1 begins a key that is cut"),
        (PUTTYGEN.replace("AAAAC3", "!!!!C3"), "line 1 begins a key that is cut or damaged"),
        (PUTTYGEN.replace(BLOB[40:], ""), "line 1 is cut or damaged"),
        ("PuTTY-User-Key-File-3: ssh-ed25519\r\nEncryption: none\r\n", "line 1 is a private key of PuTTY"),
        ("# mine\n-----BEGIN PUBLIC KEY-----\nMIIB\n", "line 2 is a key in PEM"),
        ("SHA256:NFuJ4z6VV8Diy/AkSx5MkAObPPRqXkgx9v1fAaZLfa0\n", "line 1 is the fingerprint of a key"),
    ],
)
def test_field_a_file_that_holds_no_key_is_named(stopped_console: ConsoleServer, text: str, told: str) -> None:
    (stopped_console.folder / "file").write_text(text)
    ran = stopped_console.program("user", "add", "eve", "--authorized-key", "file")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert f"file: {told}" in ran.stderr


# prompt.format


def _configured(console: ConsoleServer, prompt: str) -> None:
    (console.folder / "config.yaml").write_text(f"prompt:\n  format: '{prompt}'\n", encoding="utf-8")


def test_field_a_script_that_waits_for_the_prompt_of_an_older_console(stopped_console: ConsoleServer) -> None:
    """One public script waits for `]:/$ `. The older prompt format serves it with and without a terminal."""
    console = stopped_console
    _configured(console, "{user}@[{node}]:{path}$ ")
    console.start()
    with console.paramiko() as client:
        channel = client.invoke_shell(term="xterm")
        assert read_until_suffix(channel, "]:/$ ") == "admin@[ds1@ecss1]:/$ "
        channel.sendall(b"cd domain\nexit 5\n")
        assert "admin@[ds1@ecss1]:/domain$ exit 5" in read_until_end(channel)
    assert console.ssh(text="cd domain").stdout == b"admin@[ds1@ecss1]:/$ admin@[ds1@ecss1]:/domain$ "


def test_field_a_prompt_may_name_another_node_and_a_reload_counts_at_the_next_prompt(
    stopped_console: ConsoleServer,
) -> None:
    console = stopped_console
    _configured(console, "{user}@old-name:{path}$ ")
    console.start()
    assert console.process is not None
    with console.paramiko() as client:
        channel = client.invoke_shell(term="xterm")
        read_until_suffix(channel, "admin@old-name:/$ ")
        _configured(console, "{user}:{path}:{node}$ ")
        console.process.send_signal(signal.SIGHUP)
        assert console.logs("reloaded")
        channel.sendall(b"whoami\n")
        seen = read_until_suffix(channel, "admin:/:ds1@ecss1$ ")
        assert "nodes: ds1@ecss1 v." in seen
        _configured(console, "no field, no dollar> ")
        console.log.clear()
        console.process.send_signal(signal.SIGHUP)
        assert console.logs("not reloaded")
        channel.sendall(b"exit\n")
        assert isinstance(channel, paramiko.Channel)


def test_field_the_editor_draws_a_configured_prompt_with_its_colour(stopped_console: ConsoleServer) -> None:
    console = stopped_console
    (console.folder / "config.yaml").write_text("prompt: {format: '[{user}] {path}$ ', colour: green}\n")
    console.start()
    with pexpect.spawn("ssh", console.ssh_words("-tt")[1:], encoding="utf-8", timeout=20) as person:
        person.expect_exact("\x1b[32m[admin] /\x1b[0m$ ")
        for key in "logout":
            person.send(key)
        person.send("\r")
        person.expect(pexpect.EOF)


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("{user}> ", "it must end in a dollar sign and a blank"),
        ("{user}$", "it must end in a dollar sign and a blank"),
        ("{host}$ ", "unknown field {host}; use {user}, {node} and {path}"),
        ("{user!r}$ ", "unknown field {user!r}"),
        ("{user:>99999999}$ ", "unknown field {user:>99999999}"),
        ("{}$ ", "unknown field {}"),
        ("{{user}}$ ", "unknown field {}"),
        ("user}$ ", "unknown field }"),
        ("two\\nlines$ ", "one line of visible characters is expected"),
        ("\\e[31m$ ", "one line of visible characters is expected"),
        ("a\\u200b$ ", "one line of visible characters is expected"),
        ("a\\tb$ ", "one line of visible characters is expected"),
        ("x" * 200 + "$ ", "at most 200 characters"),
    ],
)
def test_field_a_prompt_that_scripts_could_not_wait_for_is_refused(tmp_path: Path, prompt: str, told: str) -> None:
    (tmp_path / "config.yaml").write_text(f'prompt: {{format: "{prompt}"}}\n', encoding="utf-8")
    with pytest.raises(ConfigurationError, match=re.escape(told)):
        load_config(tmp_path / "config.yaml", {})


def test_field_field_syntax_in_a_value_is_text(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("node: {name: '{path}'}\n", encoding="utf-8")
    config = load_config(tmp_path / "config.yaml", {"ECSS_CONSOLE_PROMPT__FORMAT": "[{node}]{user}$ "})
    assert config.prompt.text(user="eve", node=config.node.name, path="/") == "[{path}]eve$ "
