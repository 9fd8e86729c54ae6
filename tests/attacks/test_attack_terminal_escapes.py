"""Text of other users cannot control an administrator's terminal or break a parser."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
import unicodedata
from contextlib import closing
from pathlib import Path

import pytest
from console import ConsoleServer
from hypothesis import given
from hypothesis import strategies as st

from server.escaping import escaped, escaped_json
from server.render.reply import Column, Table
from server.render.table import table_rows

#: Text that reverses direction, breaks lines for parsers, hides, and imitates a terminal prompt.
_ODD = "a\u202eb\u2028c\u2029d\u200be\u061cf\u2066g\x85h\x9bi\x7fj\xadk\ufeffl\U000e0041m"
#: Without control characters, which a line refuses.
_TYPED = re.sub("[\x7f-\x9f]", "", _ODD)
_LETTERS = "Prüfung → gut │ e\u0301 𝄞 عربي 電話 \xa0"


def _is_safe(text: str) -> bool:
    return escaped(text, keep="\n\t") == text and len(text.splitlines()) == text.count("\n")


def _all_of_unicode() -> str:
    return "".join(map(chr, range(sys.maxunicode + 1)))


def test_attack_every_unsafe_character_is_escaped() -> None:
    every = _all_of_unicode()
    kept = [each for each in every if escaped(each) == each]
    assert not [each for each in kept if unicodedata.category(each) in {"Cc", "Zl", "Zp", "Cs"}]
    assert not [each for each in kept if unicodedata.bidirectional(each) in {"LRE", "RLE", "LRO", "RLO", "PDF"}]
    assert not [each for each in kept if unicodedata.bidirectional(each) in {"LRI", "RLI", "FSI", "PDI"}]
    shown = {each for each in kept if unicodedata.category(each) == "Cf"}
    assert all(unicodedata.name(each).startswith(("ARABIC", "SYRIAC", "KAITHI", "EGYPTIAN")) for each in shown)
    assert "".join(kept).splitlines() == ["".join(kept)]
    gone = [each for each in every if escaped(each) != each]
    assert not [each for each in gone if unicodedata.category(each)[0] in "LNPS"]


@given(st.text(st.characters()))
def test_attack_an_escaped_document_is_the_same_on_one_line(text: str) -> None:
    document = json.dumps({"text": text}, ensure_ascii=False)
    safe = escaped_json(document)
    assert json.loads(safe) == {"text": text}
    assert len(safe.splitlines()) == 1
    assert escaped(safe) == safe


def test_attack_a_cell_keeps_its_own_lines_and_no_others() -> None:
    columns = (Column("a", "A", escaped), Column("b", "B", "\n".join))
    table = Table(columns, [("x\n│forged│", ("1", "2\u202e3"))])
    assert "".join(table_rows(table)).splitlines()[3:5] == [
        r"│x\x0a│forged││1       │",
        r"│             │2\u202e3│",
    ]
    assert table.texts(table.rows[0]) == [r"x\x0a│forged│", "1\n2\\u202e3"]


@pytest.fixture
def attacked(console: ConsoleServer) -> ConsoleServer:
    """A console with hostile text in its audit, sessions and keys."""
    console.add_user("eve", "viewer")
    with closing(sqlite3.connect(console.database, timeout=10)) as database:  # accepted by an earlier release
        database.execute("UPDATE user_keys SET comment = ? WHERE user_name = 'eve'", (f"{_ODD}\n│forged│",))
        database.commit()
    return console


@pytest.mark.slow
@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_attack_one_line_of_a_key_file_does_not_bring_in_two_keys(console: ConsoleServer, end: str) -> None:
    """A reader of the file saw a comment. The console saw a line break and a second user's key."""
    mine = Path(f"{console.key}.pub").read_text("utf-8").strip()
    other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFNCm5BTBpYMPntsDaOcenjoZ5ypNpm8ovhgjLtQJ1hz"
    file = console.folder / "eve.pub"
    file.write_text(f"{mine} laptop{end}{other}\n", encoding="utf-8")
    added = console.program("user", "add", "eve", "--authorized-key", str(file))
    assert added.returncode == 1
    assert "line 1 has a comment with control characters" in added.stderr
    assert "│eve" not in console.run("cocon/user/list")


def _printed(console: ConsoleServer, command: str) -> str:
    return console.ssh(command).stdout.decode()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["cocon/audit/list", "cocon/audit/list --brief", "cocon/user/key/list eve"])
def test_attack_stored_text_sends_no_terminal_controls(attacked: ConsoleServer, command: str) -> None:
    for line in (f"echo '{_TYPED}'", f"help '{_TYPED}'"):  # in the arguments of a record, and in its detail
        attacked.told("eve", line)
    shown = _printed(attacked, command)
    assert _is_safe(shown)
    assert r"a\u202eb\u2028c\u2029d\u200be\u061cf\u2066g" in shown
    widths = {len(line) for line in shown.splitlines() if line[:1] in set("│├┌└")}
    assert len(widths) == 1, "no row breaks out of the table"
    document = _printed(attacked, f"{command} | json")
    assert _is_safe(document)
    assert document.count("\n") == 1
    assert _ODD[:12] in json.dumps(json.loads(document), ensure_ascii=False), "a program gets what was typed"
    filtered = _printed(attacked, f"{command} | match u202e")
    assert _is_safe(filtered)
    assert r"\u202e" in filtered


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("echo '{}'", "{}"),
        ("'{}'", "There is no such command: "),
        ("domain/list '{}'", "Invalid command's arguments: "),
        ("domain/declare '{}'", "Invalid command's arguments: "),
        ("cocon/audit/list --user '{}'", "Invalid command's arguments: "),
        ("help '{}'", "there is no command or directory "),
        ("cd '{}'", "there is no directory "),
        ("domain/list | match '{}' | '{}'", "Invalid command's arguments: "),
        ("domain/'{}'/integrations/list", "Invalid command's arguments: "),
        ("help domain/'{}'", "Directory /domain/"),
    ],
)
def test_attack_replies_that_repeat_input_send_no_terminal_controls(
    attacked: ConsoleServer, line: str, told: str
) -> None:
    """`echo` escapes too: script logs and shared screens show its output to other people."""
    line = line.replace("{}", _TYPED)
    shown = _printed(attacked, line)
    assert told.replace("{}", escaped(_TYPED)) in shown
    assert _is_safe(shown)
    document = _printed(attacked, line + " | json") if "|" not in line else _printed(attacked, line)
    assert _is_safe(document)


def test_attack_the_history_sends_no_terminal_controls(attacked: ConsoleServer) -> None:
    ran = attacked.ssh(text=f"echo '{_TYPED}'\necho 'a\tb'\nhistory\nhistory | json\n").stdout.decode()
    assert _is_safe(ran.rpartition("\n")[0] + "\n")
    assert f"    1  echo '{escaped(_TYPED)}'\n" in ran
    assert "a\tb\n" in ran, "a tab is a blank"


def test_attack_letters_of_all_scripts_are_not_escaped(attacked: ConsoleServer) -> None:
    shown = attacked.ssh(f"echo '{_LETTERS}'").stdout
    assert shown.startswith(f"{_LETTERS}\n".encode())
    document = attacked.ssh(f"echo '{_LETTERS}' | json").stdout
    assert f'"{_LETTERS}"'.encode() in document


def test_attack_a_damaged_record_sends_no_terminal_controls(attacked: ConsoleServer) -> None:
    """Write access to the database cannot forge a line of `audit/verify` through a node's name."""
    with closing(sqlite3.connect(attacked.database, timeout=10)) as database:
        values = f"2021\u2028{_ODD}", f"node\n{_ODD}: 9 records are whole", "login", _ODD
        database.execute(
            "INSERT INTO audit (at, node, event, user_name, source, session_id, command, arguments, status, detail,"
            " duration_ms, seq, mac) VALUES (?, ?, ?, ?, '', '', '', '{}', 0, '', 0, 1, 'x')",
            values,
        )
        database.commit()
    for command in ("cocon/audit/list", "cocon/audit/verify", "cocon/audit/verify | json"):
        shown = attacked.ssh(command).stdout.decode()
        assert _is_safe(shown)
        assert "\n│9 records" not in shown
        assert "\na" not in shown
