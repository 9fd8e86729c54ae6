"""The documents show the real output of the program."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from console import ConsoleServer

from server.commands import COMMANDS
from server.grammar.declare import Command
from server.render.examples import example

ROOT = Path(__file__).parents[2]
PAGES = (*sorted(ROOT.glob("*.md")), ROOT / "keys" / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
#: `test_file.py`, with or without `::test_name` behind it.
_NAMED = re.compile(r"\b(test_\w+\.py)(?:::(test_\w+))?")
_LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
#: `y.py`, `x/y.py` and `server/x`; `KeyFolder` and its like are classes.
_PATH = re.compile(r"(?<![\w/.])((?:\w+/)*\w+\.py|(?:server|tests)/\w+)\b")
_CLASS = re.compile(r"`([A-Z][a-z]\w*)`")
_CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_examples_and_picture_match_the_program_output() -> None:
    ran = subprocess.run(
        [sys.executable, "scripts/record_examples.py", "--check"], cwd=ROOT, capture_output=True, check=False
    )
    assert ran.returncode == 0, ran.stderr.decode()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.path)
def test_every_help_page_shows_its_examples(shared_console: ConsoleServer, command: Command) -> None:
    shown = shared_console.run(f"help {command.path.replace('<DOMAIN>', 'biysk.local')}")
    assert f"Permission: {command.permission.value}\n\nExample:\n  admin@ds1@ecss1:/$ " in shown
    for lines in command.examples:
        for line in lines.splitlines():
            if line.startswith("{"):  # a document, which is not echoed
                continue
            assert f"$ {line}\n" in shown
    assert all(f"  {line}".rstrip() in shown.splitlines() for line in example(command.path).splitlines())


def test_the_readme_opens_with_the_picture() -> None:
    opening = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## ")[0]
    assert "![" in opening
    assert "(docs/session.svg)" in opening


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 600


def test_the_commands_of_the_readme_work(console: ConsoleServer) -> None:
    """Run its block of commands, then the five commands in the order of their table."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (first,) = re.findall(r"^```\n(domain/declare .*?)\n```$", readme, re.MULTILINE | re.DOTALL)
    commands = re.findall(r"^\| `((?:add|list|set|replace|remove)\b.*?)` \|", readme, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["add", "list", "set", "replace", "remove"]
    words = console.ssh_words(user="admin+strict")
    script = "\n".join([first, *commands, ""]).encode()
    ran = subprocess.run(words, input=script, capture_output=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stdout.decode()
    assert ran.stdout.count(b"API key: ") == 2, "add and replace show a key each"
    for command in re.findall(r"127\.0\.0\.1 '(.*)'$", readme, re.MULTILINE):
        console.run(command)


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = _CODE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_has_a_target(page: Path) -> None:
    for target, anchor in _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8"))):
        if target.startswith(("http:", "https:")):
            continue
        there = page.parent / target if target else page
        assert there.exists(), target
        assert not anchor or anchor in _anchors(there), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_claim_names_a_test_that_exists(page: Path) -> None:
    for file, test in _NAMED.findall(page.read_text(encoding="utf-8")):
        (path,) = (ROOT / "tests").rglob(file)
        assert not test or f"def {test}(" in path.read_text(encoding="utf-8"), f"{file}::{test}"


@pytest.mark.parametrize("name", ["security.md", "automation.md", "reliability.md", "backup.md"])
def test_pages_that_promise_name_tests(name: str) -> None:
    named = _NAMED.findall((ROOT / "docs" / name).read_text(encoding="utf-8"))
    assert len({test for _, test in named if test}) > 10


def test_every_row_of_the_threat_model_names_a_test() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    part = page.split("## Who attacks")[1].split("## What does not")[0]
    claims = [row for row in part.splitlines() if row.startswith("| ") and not row.startswith("| claim")]
    assert all("::test_" in row for row in claims)


@pytest.mark.parametrize("name", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_path_and_class_that_is_named_exists(name: str) -> None:
    """Paths are below the root, `server/` or `tests/support/`; classes are those of the server."""
    text = (ROOT / name).read_text(encoding="utf-8")
    named = set(_PATH.findall(text))
    assert len(named) > 10
    roots = (ROOT, ROOT / "server", ROOT / "tests" / "support")
    assert {path for path in named if not any((root / path).exists() for root in roots)} == set()
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "server").rglob("*.py"))
    classes = set(re.findall(r"^class (\w+)", code, re.MULTILINE))
    assert set(_CLASS.findall(text)) - classes == set()
