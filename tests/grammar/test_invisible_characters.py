"""Invisible characters and lookalike letters are refused by name wherever they are in a line."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from urllib.parse import quote

import pytest
from console import ConsoleServer

from server.commands import command_tree
from server.grammar.match import Invalid, Ready, match
from server.grammar.tokens import tokenize
from server.model.names import unseen

ROOT = command_tree()
HERE = "domain/biysk.local/integrations/"
WORD = {
    "no-break space": "\u00a0",
    "soft hyphen": "\u00ad",
    "zero width space": "\u200b",
    "right-to-left override": "\u202e",
    "byte order mark": "\ufeff",
    "ideographic space": "\u3000",
    "line separator": "\u2028",
    "hangul filler": "\u3164",
    "variation selector": "\ufe0f",
    "tag": "\U000e0041",
}
PLACES = (
    "{}domain/list",
    "domain/li{}st",
    "domain/list{}",
    "domain/list {} | count",
    "domain/biysk{}.local/integrations/list",
    HERE + "add cr{}m",
    HERE + "add crm --{}service",
    HERE + "add crm --service{} --numbers 1",
    HERE + "add crm --service --numbers 24010{}0",
    HERE + "add crm --service --numbers=24010{}0",
    "domain/list | match{} te",
    "domain/list | match te{}ster",
    "domain/list |{} count",
    "domain/list | first 1{}",
    "domain/list | json{}",
    "cd {}domain",
    "cocon/user/add e{}ve --role admin",
    "echo 'quoted' a{}b",
    "{}",
)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", WORD)
def test_field_an_invisible_character_is_named_with_its_column(place: str, name: str) -> None:
    """A filter with one found nothing and ended with 0; a number range gave no reason."""
    text = place.format(WORD[name])
    outcome = match(ROOT, (), tokenize(text))
    assert isinstance(outcome, Invalid)
    code = f"U+{ord(WORD[name]):04X} ({unicodedata.name(WORD[name])})"
    assert outcome.message.startswith(f"the line has {code} at column {place.index('{}') + 1}, which is invisible")


def test_field_a_filter_with_an_invisible_character_is_refused(
    shared_console: ConsoleServer,
) -> None:
    ran = shared_console.ssh("help | match Command\u200bs")
    assert ran.returncode == 2
    assert ran.stdout.decode().startswith(
        "Invalid command's arguments: the line has U+200B (ZERO WIDTH SPACE) at column 21"
    )
    asked = subprocess.run(
        [*shared_console.ssh_words(), "domain/list\u00a0| match x | json"], capture_output=True, check=False, timeout=60
    )
    assert asked.returncode == 2
    assert b'"kind": "arguments", "message": "the line has U+00A0 (NO-BREAK SPACE) at column 12' in asked.stdout


@pytest.mark.parametrize("name", WORD)
def test_field_an_invisible_character_in_quotes_is_text(shared_console: ConsoleServer, name: str) -> None:
    for quoted in (f'echo "a{WORD[name]}b"', f"echo 'a{WORD[name]}b'", f"echo x 'a{WORD[name]}b'"):
        document = json.loads(shared_console.run(f"{quoted} | json"))  # a text reply shows it as an escape
        assert f"a{WORD[name]}b" in document["lines"][0]


def test_field_controls_are_refused_in_quotes_too_and_a_quote_that_is_open_is_named_first() -> None:
    assert tokenize("echo 'a\x85b'").mistake == "the line has the control character U+0085 at column 8"
    assert "the quote ' at column 6 is not closed" in str(tokenize("echo 'a\u00a0b").mistake)
    assert "U+00A0" in str(tokenize("echo a\u00a0b 'c").mistake)


def test_field_every_blank_and_format_character_is_listed_as_invisible() -> None:
    """Compare the list with the interpreter's Unicode tables to notice new characters."""
    unprinted = [
        each
        for each in map(chr, range(0x80, sys.maxunicode + 1))
        if unicodedata.category(each) in {"Cf", "Zs", "Zl", "Zp"}
    ]
    assert len(unprinted) > 150
    assert [f"{ord(each):04X}" for each in unprinted if unseen(each) is None] == []
    assert unseen("".join(map(chr, range(0x20, 0x7F)))) is None
    assert unseen("Бийск ☎ é e\u0301 漢字 אבג नमस्ते ♥ ½ №") is None


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (HERE + "add crm --service --numbers 24\u041e100", "U+041E (CYRILLIC CAPITAL LETTER O) at place 3"),
        (HERE + "add crm --service --numbers 24010{\u041e-1}", "U+041E (CYRILLIC CAPITAL LETTER O) at place 7"),
        (HERE + "add crm --service --numbers " + "1," * 100 + "\uff11", "U+FF11 (FULLWIDTH DIGIT ONE) at place 201"),
        (HERE + "add crm --s\u0435rvice", "U+0435 (CYRILLIC SMALL LETTER IE) at place 4"),
        (HERE + "add \u0441rm", "U+0441 (CYRILLIC SMALL LETTER ES) at place 1"),
        (HERE + "adopt crm " + "\u0410" * 64, "U+0410 (CYRILLIC CAPITAL LETTER A) at place 1"),
        (
            "domain/b\u0456ysk.local/integrations/list",
            "U+0456 (CYRILLIC SMALL LETTER BYELORUSSIAN-UKRAINIAN I) at place 2",
        ),
        ("domain/list \uff5c count", "U+FF5C (FULLWIDTH VERTICAL LINE) at place 1"),
        ("domain/list \u2014json", "U+2014 (EM DASH) at place 1"),
        ("domain/list | c\u043eunt", "U+043E (CYRILLIC SMALL LETTER O) at place 2"),
        ("domain/list | first 1\u041e", "U+041E (CYRILLIC CAPITAL LETTER O) at place 2"),
        ("domain/list | last \u0661", "U+0661 (ARABIC-INDIC DIGIT ONE) at place 1"),
        ("d\u043emain/list", "U+043E (CYRILLIC SMALL LETTER O) at place 2"),
        ("cd d\u043emain", "U+043E (CYRILLIC SMALL LETTER O) at place 2"),
        ("cd domain/b\u0456ysk.local", "U+0456 (CYRILLIC SMALL LETTER BYELORUSSIAN-UKRAINIAN I) at place 2"),
        ("help d\u043emain", "U+043E (CYRILLIC SMALL LETTER O) at place 2"),
        ("exit 1\u041e", "U+041E (CYRILLIC CAPITAL LETTER O) at place 2"),
        ("sleep 1\u066b5", "U+066B (ARABIC DECIMAL SEPARATOR) at place 2"),
        ("cocon/user/add \u0435ve", "U+0435 (CYRILLIC SMALL LETTER IE) at place 1"),
        ("cocon/user/add eve --role \u0430dmin", "U+0430 (CYRILLIC SMALL LETTER A) at place 1"),
        ("cocon/user/add eve --expires 2\u041e30-01-01", "U+041E (CYRILLIC CAPITAL LETTER O) at place 2"),
        ("cocon/user/key/remove admin SH\u0410256:x", "U+0410 (CYRILLIC CAPITAL LETTER A) at place 3"),
        ("cocon/user/key/add admin ssh-\u0435d25519 AAAA", "U+0435 (CYRILLIC SMALL LETTER IE) at place 5"),
        ("cocon/audit/list --last 1\u041e", "U+041E (CYRILLIC CAPITAL LETTER O) at place 2"),
        ("cocon/session/kill \u0430b", "U+0430 (CYRILLIC SMALL LETTER A) at place 1"),
    ],
    ids=lambda text: quote(text)[:60],
)
def test_field_a_lookalike_letter_is_named(shared_console: ConsoleServer, line: str, named: str) -> None:
    """`24O100` with a Cyrillic O was "no number range", without a visible cause."""
    ran = shared_console.ssh(line)
    assert ran.returncode in {1, 2, 127}
    assert named in ran.stdout.decode()


def test_field_text_in_other_scripts_is_accepted(shared_console: ConsoleServer) -> None:
    assert shared_console.run("echo Бийск ☎ —json").startswith("Бийск ☎ —json\n")
    assert shared_console.run("echo Бийск | match БИЙ").startswith("Бийск\n")
    assert isinstance(match(ROOT, (), tokenize("domain/list | match Бийск")), Ready)


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ('{"rows":\u00a0[]}', "character 9, which is U+00A0 (NO-BREAK SPACE)"),
        ('[{"client_id": "j\u0430", "type": "widget", "api_key": "x"}]', "U+0430 (CYRILLIC SMALL LETTER A) at place 2"),
        (
            '[{"client_id": "j", "type": "service", "api_key": "' + "k" * 64 + '", "numbers": ["1", "2\u041e"]}]',
            "it has U+041E (CYRILLIC CAPITAL LETTER O) at place 2",
        ),
        (
            '[{"client_id": "j", "type": "widget", "api_key": "' + "\u041a" * 64 + '"}]',
            "U+041A (CYRILLIC CAPITAL LETTER KA)",
        ),
    ],
)
def test_field_a_document_names_invisible_characters(shared_console: ConsoleServer, document: str, told: str) -> None:
    ran = shared_console.ssh("domain/nowhere/integrations/import", text=document)
    assert ran.returncode == 2
    assert told in ran.stdout.decode()
