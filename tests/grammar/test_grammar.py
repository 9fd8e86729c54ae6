"""Tokens, matching and completion: properties of any line."""

from __future__ import annotations

import re
import shlex

import pytest
from console import ADMIN
from hypothesis import given
from hypothesis import strategies as st

from server.commands import COMMANDS, command_tree
from server.grammar.candidates import offer
from server.grammar.explain import complaint
from server.grammar.match import Incomplete, Invalid, Ready, Unknown, match
from server.grammar.tokens import MOST_CHARACTERS, tokenize
from server.grammar.tree import commands_below, find, locate
from server.model.access import Operator, Role

ROOT = command_tree()
WORDS = st.sampled_from(
    [
        *("add", "list", "domain", "domain/", "..", ".", "/", "domain/x/integrations/add", "domain/x", "x", "ls", "cd"),
        *("--", "--service", "--numbers", "--numbers=1", "1{0-1}", "--help", "'a b'", '"', "|", "tester", "help"),
        *("exit", "--wid", "domain/calendar/", "domain/list/integrations/"),
    ]
)
LINES = st.lists(WORDS, max_size=6).map(" ".join) | st.text(max_size=60)
PLACES = st.sampled_from([(), ("domain",), ("domain", "x"), ("domain", "x", "integrations")])


@given(st.text("abc '\"", max_size=30))
def test_words_are_split_as_in_a_posix_shell(text: str) -> None:
    line = tokenize(text)
    try:
        expected = shlex.split(text)
    except ValueError:
        assert line.mistake is not None
        assert "is not closed" in line.mistake
        return
    assert line.mistake is None
    assert [word.text for word in line.words] == expected


@pytest.mark.parametrize(
    ("text", "words", "filters"),
    [
        ("  ls \t /domain  ", ["ls", "/domain"], []),
        ("echo \"a 'b' c\" 'd \"e\" f'", ["echo", "a 'b' c", 'd "e" f'], []),
        ("echo a\"b c\"d''", ["echo", "ab cd"], []),
        ("echo ''", ["echo", ""], []),
        ("list | count", ["list"], [["count"]]),
        ("echo \"|\" a|b '|'", ["echo", "|", "a|b", "|"], []),
        ("list|count", ["list|count"], []),
        ("|", [], [[]]),
    ],
)
def test_tokens(text: str, words: list[str], filters: list[list[str]]) -> None:
    line = tokenize(text)
    assert [word.text for word in line.words] == words
    assert [[word.text for word in stage] for stage in line.filters] == filters
    assert all(text[word.start :].startswith(word.typed) for word in line.words)


def test_a_line_beyond_the_limit_and_control_characters_are_mistakes() -> None:
    assert tokenize("x" * MOST_CHARACTERS).mistake is None
    assert "longer than 65,536 characters" in str(tokenize("x" * (MOST_CHARACTERS + 1)).mistake)
    assert tokenize("ls \x1b[A").mistake == "the line has the control character U+001B at column 4"
    assert tokenize("ls\tdomain").mistake is None


@given(LINES, PLACES)
def test_a_line_has_one_of_four_outcomes(text: str, here: tuple[str, ...]) -> None:
    line = tokenize(text)
    if line.words or line.filters or line.mistake:
        assert isinstance(match(ROOT, here, line), Ready | Incomplete | Invalid | Unknown)


@given(LINES, PLACES)
def test_every_completion_parses(text: str, here: tuple[str, ...]) -> None:
    offered = offer(ROOT, here, text, ADMIN)
    found = [candidate.text for candidate in offered.candidates]
    if offered.lookup is not None:
        name = offered.lookup.beginning + "a"
        if re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):  # names that the store can hold under either kind
            found.append(offered.lookup.before + name + offered.lookup.after)
    for candidate in found:
        assert candidate.startswith(offered.typed)
        line = tokenize(text[: offered.start] + candidate)
        outcome = match(ROOT, here, line)
        if isinstance(outcome, Unknown):
            where = find(ROOT, here, line.words[0].text)
            assert where is not None
            assert where.command is None, candidate
        else:
            assert not isinstance(outcome, Invalid), (text, candidate, outcome)


@given(LINES, PLACES)
def test_completion_offers_only_permitted_commands(text: str, here: tuple[str, ...]) -> None:
    viewer = Operator("eve", Role.VIEWER, "127.0.0.1:22", "00000000", {"biysk.local": "biysk.local"})
    offered = offer(ROOT, here, text, viewer)
    assert not any("cocon" in candidate.text for candidate in offered.candidates)
    for candidate in offered.candidates:
        found = find(ROOT, here, text[: offered.start] + candidate.text)
        assert found is None or found.command is None or viewer.may(found.command.permission)


@pytest.mark.parametrize(
    ("here", "text", "expected"),
    [
        ((), "d", ["domain/", "date"]),
        ((), "domain/d", ["domain/declare"]),
        (("domain", "x"), "i", ["integrations/"]),
        (("domain", "x"), "domain/li", ["domain/list"]),
        (("domain", "x"), "./d", []),
        (("domain", "x"), "integrations/l", ["integrations/list"]),
        (("domain", "x", "integrations"), "",
         [
            "add", "adopt", "cd", "date", "echo", "exit", "export", "help", "history", "import", "list", "logout",
            "ls", "man", "passwd", "pwd", "quit", "remove", "replace", "set", "show", "sleep", "whoami",
        ]),
        ((), "domain/x/integrations/add a --", ["--widget", "--service", "--check", "--help"]),
        ((), "domain/x/integrations/add a --service --", ["--numbers", "--check", "--help"]),
        ((), "domain/x/integrations/add a --widget ", ["--check"]),
        ((), "domain/x/integrations/add a b ", []),
        ((), "cd do", ["domain/"]),
        ((), "cd domain/l", []),
        ((), "help domain/l", ["domain/list"]),
        ((), "nonsense ", []),
        ((), "domain/calendar/integrations/", []),
        ((), "domain/list/integrations/a", []),
        ((), "ls domain/.x/", []),
    ],
)  # fmt: skip
def test_offer(here: tuple[str, ...], text: str, expected: list[str]) -> None:
    assert [candidate.text for candidate in offer(ROOT, here, text, ADMIN).candidates] == expected


@pytest.mark.parametrize("typed", ["../../..", "/", "", "./.", "//"])
def test_the_parent_of_the_root_is_the_root(typed: str) -> None:
    assert locate(typed, ("domain",) if typed.startswith("..") else ())[0] == ()


def test_a_domain_named_like_a_command_hides_no_command() -> None:
    outcome = match(ROOT, ("domain",), tokenize("ls"))
    assert isinstance(outcome, Ready)
    assert outcome.command.path == "/ls"
    inside = match(ROOT, (), tokenize("domain/ls/integrations/list"))
    assert isinstance(inside, Ready)
    assert inside.arguments == {"domain": "ls"}


def test_values_with_leading_dashes_need_equals_or_end_of_options() -> None:
    assert isinstance(match(ROOT, (), tokenize("echo -- --help")), Ready)
    outcome = match(ROOT, (), tokenize("echo -- --help"))
    assert isinstance(outcome, Ready)
    assert (outcome.rest, outcome.help_wanted) == (("--help",), False)
    missing = match(ROOT, (), tokenize("domain/x/integrations/add a --service --numbers"))
    assert isinstance(missing, Incomplete)
    assert missing.message.startswith("--numbers needs a value, <NumberRange>: ")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.path)
def test_every_command_shows_its_help_with_any_other_words(command: object) -> None:
    for each in commands_below(ROOT):
        path = each.path.replace("<DOMAIN>", "x")
        for line in (f"{path} --help", f"{path} wrong words --help --no-such-option"):
            outcome = match(ROOT, (), tokenize(line))
            assert isinstance(outcome, Ready)
            assert outcome.help_wanted
    assert command in commands_below(ROOT)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("domain/list | m", ["match"]),
        ("domain/list | first 5 | co", ["count"]),
        ("nonsense | ", []),
        ("domain/list too many | ", []),
        ("domain/list | json | ", []),
        ("domain/list | nonsense | c", []),
        ("domain/list | | c", []),
        ("domain/.x/integrations/list --help ", []),
    ],
)
def test_filters_are_offered_only_after_a_valid_command(text: str, expected: list[str]) -> None:
    assert [candidate.text for candidate in offer(ROOT, (), text, ADMIN).candidates] == expected


def test_filters_are_not_offered_after_a_command_without_permission() -> None:
    viewer = Operator("eve", Role.VIEWER, "127.0.0.1:22", "00000000")
    assert offer(ROOT, (), "cocon/user/list | ", viewer).candidates == ()


@pytest.mark.parametrize("text", ["whoami |", "whoami | match", "whoami | json | ", "whoami | first 1 | regex"])
def test_a_last_filter_without_its_argument_is_incomplete(text: str) -> None:
    expected = Invalid if "json" in text else Incomplete
    assert isinstance(match(ROOT, (), tokenize(text)), expected)


def test_found_by_fuzzing_thousands_of_expressions_in_one_line_are_not_compiled() -> None:
    """Any user could once block the server for a minute and use two gigabytes."""
    line = "echo" + "".join(f" | regex \\pL{{40}}{number}" for number in range(1300))
    outcome = match(ROOT, (), tokenize(line))
    assert isinstance(outcome, Invalid)
    assert outcome.message == "a line has at most 10 filters, this one has 1300"


def test_found_by_fuzzing_a_long_expression_is_not_compiled() -> None:
    """Sixteen thousand classes in one expression took seconds at any memory limit of the engine."""
    outcome = match(ROOT, (), tokenize("echo | regex " + "\\pL|" * 16_000))
    assert isinstance(outcome, Invalid)
    assert outcome.message == "| regex: the expression is longer than 500 characters"


def test_found_by_fuzzing_completion_keeps_the_line_limit() -> None:
    assert offer(ROOT, (), " " * (MOST_CHARACTERS - 1) + "d", ADMIN).candidates == ()
    assert offer(ROOT, (), " " * (MOST_CHARACTERS - 1000) + "d", ADMIN).candidates != ()


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("domain/b/integrations/add \u0430dmin", "U+0430 (CYRILLIC SMALL LETTER A) at place 1 is none of them"),
        ("domain/b/integrations/add 't\u200b'", "U+200B (ZERO WIDTH SPACE) at place 2 is none of them"),
        ("domain/b/integrations/add " + "x" * 65, "begins with a letter or digit; this one has 65"),
        ("domain/b/integrations/add a,b", "; , at place 2 is none of them"),
        ("domain/declare bi\u0443sk.local", "U+0443 (CYRILLIC SMALL LETTER U) at place 3 is none of them"),
        ("domain/b/integrations/add t —service", "did you mean --service?; it has U+2014 (EM DASH) at place 1"),
        ("domain/b/integrations/add t -service", "-service is one word too many, did you mean --service?"),
        ("domain/b/integrations/list --json", "there is no option --json, did you mean | json?"),
        ("domain/b/integrations/add t --force", "there is no option --force"),
        ("cocon/user/key/add eve", "<KEY> is missing: line of a .pub file"),
    ],
)
def test_a_hard_to_see_mistake_is_named(line: str, hint: str) -> None:
    outcome = match(ROOT, (), tokenize(line))
    assert isinstance(outcome, Incomplete | Invalid)
    assert outcome.message.endswith(hint)


@pytest.mark.parametrize(
    ("line", "hints"),
    [
        (
            "who\u0430mi",
            ("It has U+0430 (CYRILLIC SMALL LETTER A) at place 4, which no command has.", "Did you mean whoami?"),
        ),
        ("delete /domain/b/integrations/list", ("Did you mean /domain/b/integrations/list?",)),
    ],
)
def test_unknown_words_get_suggestions(line: str, hints: tuple[str, ...]) -> None:
    outcome = match(ROOT, (), tokenize(line))
    assert isinstance(outcome, Unknown)
    assert complaint(outcome)[1] == hints
