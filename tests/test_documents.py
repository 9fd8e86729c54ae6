"""What the documents show is what the program prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from console import ConsoleServer

from server.commands import COMMANDS
from server.grammar.declare import Command
from server.render.examples import example

ROOT = Path(__file__).parent.parent


def test_examples_and_picture_are_what_the_program_prints_today() -> None:
    ran = subprocess.run([sys.executable, "docs/record.py", "--check"], cwd=ROOT, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr.decode()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.path)
def test_every_help_page_shows_its_examples(shared_console: ConsoleServer, command: Command) -> None:
    shown = shared_console.run(f"help {command.path.replace('<DOMAIN>', 'biysk.local')}")
    assert f"Permission: {command.permission.value}\n\nExample:\n  admin@ds1@ecss1:/$ " in shown
    for lines in command.examples:
        for line in lines.splitlines():
            assert f"$ {line}\n" in shown
    assert all(f"  {line}".rstrip() in shown.splitlines() for line in example(command.path).splitlines())


def test_the_readme_opens_with_the_picture() -> None:
    opening = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## ")[0]
    assert "![" in opening
    assert "(docs/session.svg)" in opening
