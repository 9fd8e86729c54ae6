"""The line editor in a real terminal (tmux) over OpenSSH, and its leaks in a long-lived process."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from console import PROMPT, ConsoleServer, needs, read_until_suffix
from terminals import Person


@pytest.fixture
def person(console: ConsoleServer) -> Iterator[Person]:
    """A person at the prompt of a console with two domains."""
    needs("tmux")
    for command in ("domain/declare biysk.local", "domain/declare barnaul.local"):
        console.run(command)
    console.run("domain/biysk.local/integrations/add tester")
    someone = Person(console, str(console.folder / "tmux"))
    yield someone
    someone.leaves()


def test_tab_completes_paths_domains_client_ids_and_options(person: Person) -> None:
    person.types("dom", "Tab", "bi", "Tab")
    person.sees_at_end(f"{PROMPT}domain/biysk.local/")
    person.types("int", "Tab", "rem", "Tab", "t", "Tab")
    person.sees_at_end(f"{PROMPT}domain/biysk.local/integrations/remove tester")
    person.types("C-u", "domain/biysk.local/integrations/add x --s", "Tab", "--n", "Tab", "7", "Enter")
    screen = person.sees("New integration was added.")
    assert f"{PROMPT}domain/biysk.local/integrations/add x --service --numbers 7\n" in screen


def test_a_second_tab_lists_the_completions(person: Person) -> None:
    person.types("domain/b", "Tab")
    person.sees_at_end("domain/b")
    person.types("Tab")
    listed = r"^barnaul\.local/ +One domain, a virtual PBX\.\nbiysk\.local/ +One domain, a virtual PBX\.\n"
    person.sees_all(listed + re.escape(f"{PROMPT}domain/b") + r"\Z")
    person.types("i", "Tab", "integrations/", "Tab", "Tab")
    person.sees_all(r"^list     List the integrations of the domain with their keys\.\n(.*\n)*replace  Replace")


@pytest.mark.slow
@pytest.mark.parametrize("here", ["/", "/domain", "/domain/biysk.local/integrations", "/cocon/user"])
def test_help_teaches_the_console_on_one_screen_of_80_by_24(console: ConsoleServer, here: str) -> None:
    needs("tmux")
    console.run("domain/declare biysk.local")
    someone = Person(console, str(console.folder / "tmux"), columns=80, rows=24)
    prompt = PROMPT.replace(":/", f":{here}").rstrip()
    someone.types(f"cd {here}", "Enter", "help", "Enter")
    someone.sees("\n[exec at: ")
    someone.sees_at_end(f"\n{prompt}")
    screen = someone.screen()
    someone.leaves()
    told = console.ssh(text=f"cd {here}\nhelp\n").stdout.decode().partition("Commands form")[2].split("\n\n[exec at")[0]
    assert f"Commands form{told}\n\n[exec at: " in screen  # whole, without a line wrapped by the terminal
    words = (
        "cd domain",
        "domain/list",
        "help PATH",
        "Tab",
        "?",
        "--check",
        "| FILTER",
        "regex <RE>",
        "cocon/",
        "whoami",
    )
    assert all(word in told for word in words)
    assert ("  here " in told) == (here != "/")


def test_editing_in_the_midst_of_a_line_and_history(person: Person) -> None:
    person.types("echo two", "C-a", "M-f", " one", "Enter")
    person.sees("\none two\n")
    person.types("ehco x", "Home", "Right", "Delete", "Right", "h", "C-e", "BSpace", "done", "Enter")
    person.sees("\ndone\n")
    person.types("Up", "Up")
    person.sees_at_end(f"{PROMPT}echo one two")
    person.types("Down", "C-c")
    person.sees_at_end(f"{PROMPT}echo done^C\n{PROMPT.rstrip()}")
    person.types("echo o", "Up", "C-w", "C-w", "C-k", "kept", "Enter")
    person.sees("\nkept\n")


def test_a_line_longer_than_the_terminal_is_edited_and_survives_a_resize(person: Person) -> None:
    person.pastes("echo " + "x" * 130)
    person.sees_at_end(PROMPT + "echo " + "x" * 76 + "\n" + "x" * 54)
    person.types("C-a", "M-f", "y", "C-e", "z", "BSpace", "BSpace")
    person.sees_at_end(PROMPT + "echoy " + "x" * 75 + "\n" + "x" * 54)
    person.resizes(60)
    person.types("C-a", "C-e")  # tmux has put the first row above its window: the line is drawn whole at the next move
    person.sees_at_end(PROMPT + "echoy " + "x" * 35 + "\n" + "x" * 60 + "\n" + "x" * 34)
    person.types("C-a", "C-k")
    person.sees_at_end(PROMPT.rstrip())
    person.types("whoami", "Enter")
    person.sees("\nadmin\n")


def test_wide_and_combining_characters_keep_the_cursor_where_it_belongs(person: Person) -> None:
    person.types("echo Бийск 漢字")
    person.sees("漢字")
    person.stands_at(len(PROMPT) + len("echo Бийск ") + 4)
    person.types("Left", "Left", "Left")
    person.stands_at(len(PROMPT) + len("echo Бийск"))
    person.types("!", "C-e", "e\u0301", "Enter")
    person.sees("\nБийск! 漢字e\u0301\n")  # noqa: RUF001  Russian text


def test_a_paste_of_many_lines_runs_them_one_by_one(person: Person) -> None:
    person.pastes("".join(f"echo pasted {number}\n" for number in range(6)) + "echo half")
    person.sees_all(r"^pasted 2\n(.*\n)*pasted 3\n(.*\n)*pasted 4\n(.*\n)*pasted 5\n(.*\n)*.*echo half\Z")
    person.types(" way", "Enter")
    person.sees("\nhalf way\n")


def test_ctrl_l_clears_and_ctrl_d_leaves_an_empty_line_only(person: Person) -> None:
    person.types("whoami", "Enter", "echo ab", "C-l")
    deadline = time.monotonic() + 15
    while (screen := person.screen()) != f"{PROMPT}echo ab":
        assert time.monotonic() < deadline, screen
        time.sleep(0.05)
    person.types("Left", "C-d", "Enter")
    person.sees("\na\n")
    person.types("C-d")
    person.sees("status 0")


def _remembered(console: ConsoleServer, line: str) -> None:
    """Wait until the store has a line of the history."""
    deadline = time.monotonic() + 15
    with closing(sqlite3.connect(console.database)) as database:
        while not database.execute("SELECT 1 FROM history WHERE line = ?", (line,)).fetchall():
            assert time.monotonic() < deadline, f"{line!r} is not kept"
            time.sleep(0.05)


def test_history_is_kept_across_sessions(console: ConsoleServer, person: Person) -> None:
    person.types("echo remembered", "Enter")
    person.sees("\nremembered\n")
    person.types("exit", "Enter")
    person.sees("status 0")
    _remembered(console, "echo remembered")
    assert "echo remembered" in console.run("history")
    other = Person(console, str(console.folder / "tmux2"))
    try:
        other.types("Up", "Up")
        other.sees_at_end(f"{PROMPT}echo remembered")
    finally:
        other.leaves()


def test_history_keeps_a_thousand_lines_and_no_password(console: ConsoleServer, person: Person) -> None:
    person.pastes("".join(f"echo n{number}\n" for number in range(1003)))
    person.sees("\nn1002\n")
    person.types("cocon/user/add eve --password hunter2", "Enter")
    person.sees("no option --password")
    person.types("password hunter3", "Enter")
    person.sees("There is no such command: password")
    person.types("echo password expired", "Enter")
    person.sees("\npassword expired\n")
    for _ in range(2):  # of the session and of the store
        lines = [line.split("  ")[-1] for line in console.run("history").split("\n\n")[0].splitlines()]
        assert lines == [*(f"echo n{number}" for number in range(4, 1003)), "echo password expired"]
        _remembered(console, "echo password expired")
    person.types("history | count", "Enter")
    person.sees("Count: 1000")
    with sqlite3.connect(console.database) as database:
        assert database.execute("SELECT count(*) FROM history").fetchone() == (1000,)
    database.close()


def test_a_question_mark_at_the_start_of_a_word_lists_the_completions(person: Person) -> None:
    person.types("sleep ", "?")
    person.sees_all(r"^<SECONDS>  seconds from 0 to 86400, as in 0\.5\n")
    person.sees_at_end(f"{PROMPT}sleep")
    person.types("0 ", "?")
    person.sees_all(r"^Enter  run the command\n")
    person.types("C-u", "domain/biysk.local/integrations/add ", "?")
    person.sees("<ClientId>  client id, 1 to 64 of")
    person.types("x ", "?")
    person.sees_all(r"^Enter +run the command\n--widget +runs in a subscriber's browser")
    person.types("C-u", "echo who", "?", "Enter")
    person.sees("\nwho?\n")
    person.pastes("echo a ? b\n")
    person.sees("\na ? b\n")


def test_ctrl_r_searches_the_history(person: Person) -> None:
    for word in ("first", "second", "third"):
        person.types(f"echo {word}", "Enter")
        person.sees(f"\n{word}\n")
    person.types("C-r", "f", "i")
    person.sees_at_end("(reverse-i-search)'fi': echo first")
    person.types("BSpace", "BSpace", "se")
    person.sees_at_end("(reverse-i-search)'se': echo second")
    person.types("Enter")
    person.sees_at_end(f"{PROMPT}echo second")
    person.types("C-e", " again", "Enter")
    person.sees("\nsecond again\n")
    person.types("kept", "C-r", "zzz", "C-g")
    person.sees_at_end(f"{PROMPT}kept")
    person.types("C-r", "thi", "C-c")
    person.sees_at_end(f"{PROMPT}kept")


def test_banner_and_message_of_the_day_are_for_people(stopped_console: ConsoleServer) -> None:
    needs("tmux")
    console = stopped_console
    (console.folder / "config.yaml").write_text(
        'greeting: {banner: "Authorized use only.", motd: "Maintenance on Sunday.\\nCall 112."}\n'
    )
    console.start()
    someone = Person(console, str(console.folder / "tmux"))
    try:
        assert someone.screen() == f"Maintenance on Sunday.\nCall 112.\n{PROMPT.rstrip()}"
    finally:
        someone.leaves()
    words = console.ssh_words()
    words[words.index("LogLevel=ERROR")] = "LogLevel=INFO"
    ran = subprocess.run([*words, "whoami"], capture_output=True, text=True, check=True)
    assert "Authorized use only.\n" in ran.stderr.replace("\r", "")
    assert "Maintenance" not in ran.stdout + ran.stderr
    assert b"Maintenance" not in console.ssh(text="whoami\n").stdout


def test_automation_never_receives_escape_sequences(console: ConsoleServer) -> None:
    """Lines sent whole need no editor: the stream is the same as with the plain editor."""
    plain = console.ssh(text="whoami\necho x\nexit\n", options=["-tt", "-o", "SetEnv=X=1"])
    assert b"\x1b" not in plain.stdout


def test_long_work_shows_progress_to_its_own_session(person: Person) -> None:
    person.types(*"sleep", "Space", "3", "Enter")
    assert "━━━━━━━━━━  " in person.sees("1 of 3 s")
    screen = person.sees("[exec at")
    assert "of 3 s" not in screen
    person.types(*"sleep", "Space", *"60", "Enter")
    person.sees("1 of 60 s")
    person.types("C-c")
    person.sees_at_end(f"sleep 60\n^C\n{PROMPT.rstrip()}")


def test_a_coloured_prompt_is_for_people_only(stopped_console: ConsoleServer, tmp_path: Path) -> None:
    console = stopped_console
    console.start(ECSS_CONSOLE_PROMPT__COLOUR="green")
    needs("tmux")
    painted = "\x1b[32madmin@ds1@ecss1:/\x1b[39m$"
    person = Person(console, str(tmp_path / "tmux"))
    assert person.screen(colours=True) == painted
    person.types(*"who", "C-r", "C-g", "C-a", "C-l", "C-e", *"ami", "Enter")
    person.sees("\nadmin\n")
    person.sees_at_end(f"]\n{PROMPT.rstrip()}")
    assert person.screen(colours=True).count(painted) == 2
    person.leaves()
    plain = console.ssh(text="whoami\n", options=["-tt"])
    assert plain.stdout.count(b"\x1b") == 0
    with console.paramiko() as client:
        channel = client.invoke_shell(term="xterm")
        assert read_until_suffix(channel, PROMPT) == PROMPT
