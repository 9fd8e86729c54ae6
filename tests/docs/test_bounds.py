"""The table of bounds in docs/security.md has the values of the code, and its tests exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import asyncssh.connection
import pytest

from server.config.schema import Config

ROOT = Path(__file__).parents[2]
#: `module.NAME` or `limits.name`, followed by its value.
_BOUND = re.compile(r"`(\w+)\.(\w+)` (\([\d, ]+\)|[\d,.:]*\d)(?: (KiB|MiB|ms|s)\b)?")
_UNITS = {"": 1, "KiB": 1024, "MiB": 1024 * 1024, "s": 1, "ms": 0.001}
_TEST = re.compile(r"`(test_\w+\.py)::(test_\w+)`")
_CELLS = 6


def _rows() -> Iterator[list[str]]:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    part = page.split("\n## What one client may cost\n")[1].split("\n## ")[0]
    for line in part.splitlines():
        if line.startswith("| ") and not line.startswith("| input "):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


ROWS = [*_rows()]
#: Modules that handle client input, and their constants that bound other things.
ROOMS = ("auth", "commands", "grammar", "http", "transport")
NO_INPUT = {
    "penalties.MOST_SECONDS": "how long a penalty may get, as in OpenSSH",
    "weak_keys.MOST_NAMED": "lines of the log at the start",
    "filters._MOST_ROWS": "the largest number that a filter takes",
    "secrets._MOST_WORDS": "how many words of a line may be a mistyped command",
    "screen._MOST_BACKSPACES": "how the cursor is moved",
    "reader._MOST_CHARACTERS_PER_KEY": "how typed lines are told from pasted ones",
}
_CONSTANT = re.compile(r"^(_?MOST_\w+)(?:, (_?MOST_\w+))?(?:: \w+)? = ", re.MULTILINE)


def _in_code(place: str, name: str) -> object:
    """Return the constant of the one module of this name that has it, or the configuration default."""
    if place == "limits":
        return getattr(Config().limits, name)
    if place == "asyncssh":
        return getattr(asyncssh.connection, name)
    paths = (path.relative_to(ROOT).with_suffix("") for path in (ROOT / "server").rglob(f"{place}.py"))
    modules = [vars(import_module(".".join(path.parts))) for path in paths]
    (value,) = {module[name] for module in modules if name in module}  # another may import it
    return value


def _written(text: str, unit: str) -> float:
    return float(text.replace(",", "")) * _UNITS[unit]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_bound_is_a_constant_with_this_value(row: list[str]) -> None:
    assert len(row) == _CELLS
    assert all(row), "an empty cell states no bound"
    bounds = _BOUND.findall(row[4])
    assert len(bounds) == row[4].count("`") // 2 > 0
    for place, name, text, unit in bounds:
        value = _in_code(place, name)
        if isinstance(value, int | float):
            assert value == pytest.approx(_written(text, unit)), f"{place}.{name}"
        else:
            assert str(value) == text, f"{place}.{name}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_bound_names_a_test_that_exists(row: list[str]) -> None:
    tests = _TEST.findall(row[5])
    assert len(tests) == row[5].count("`") // 2 > 0
    for file, test in tests:
        (path,) = (ROOT / "tests").rglob(file)
        assert f"def {test}(" in path.read_text(encoding="utf-8"), f"{file}::{test}"


def test_no_bound_of_an_input_is_missing() -> None:
    """A new `MOST_…` in input handling needs a row in the table, or a reason why it bounds no input."""
    stated = {f"{place}.{name}" for row in ROWS for place, name, _, _ in _BOUND.findall(row[4])}
    paths = [path for room in ROOMS for path in (ROOT / "server" / room).rglob("*.py")]
    found = {
        f"{path.stem}.{name}"
        for path in paths
        for names in _CONSTANT.findall(path.read_text(encoding="utf-8"))
        for name in names
        if name
    }
    assert len(found) > 25
    assert found - stated - NO_INPUT.keys() == set()


def test_the_table_of_bounds_loses_no_row() -> None:
    """A section moved outside the parsed part of the page would go unchecked."""
    assert len(ROWS) >= 50
    named = {row[0] for row in ROWS}
    assert {"password, answer to a question, change of a password", "output that is not taken", "a line"} <= named


def test_the_last_line_is_the_units() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    unit = (ROOT / "systemd" / "ecss-console.service").read_text(encoding="utf-8").splitlines()
    stated = re.findall(r"`((?:Memory|Tasks)\w+=\w+)`", page)
    assert len(stated) == 3
    assert all(line in unit for line in stated)
