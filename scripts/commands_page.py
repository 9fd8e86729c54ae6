"""Generate docs/commands.md from the declarations of the commands.

python scripts/commands_page.py            write it
python scripts/commands_page.py --check    fail when it is not up to date
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from server.commands import COMMANDS, command_tree
from server.grammar.declare import Command
from server.grammar.explain import page
from server.grammar.filters import FILTERS, FilterKind
from server.grammar.tree import Directory
from server.render.examples import example

TARGET = Path(__file__).parents[1] / "docs" / "commands.md"
INTRODUCTION = """\
# Commands

Generated from the declarations by `make docs`; do not edit.

The commands in `/` work in every directory. `PATH --help` and `help PATH` show the same at the console.

## Directories
"""

FILTERS_INTRODUCTION = """\
## Filters

Behind any command, chained as needed: `domain/list | match biysk | count`. On a table they work on its rows and keep
its header, else on the lines.
"""


def reference() -> str:
    """Return the whole page."""
    parts = [INTRODUCTION, "".join(f"- `{path}`: {text}\n" for path, text in _directories("/", command_tree()))]
    directory = ""
    for command in sorted(COMMANDS, key=lambda each: (each.directory, each.name)):
        here = command.path.removesuffix(command.name)
        if here != directory:
            directory = here
            parts.append(f"## `{directory}`\n")
        parts.append(_section(command))
    parts.append(FILTERS_INTRODUCTION)
    parts += [f"- `| {each.usage}`: {each.help}{_expected(each)}" for each in FILTERS]
    return "\n".join(parts) + "\n"


def _directories(path: str, directory: Directory) -> Iterator[tuple[str, str]]:
    yield path, directory.help
    for name, inside in sorted(directory.directories.items()):
        yield from _directories(f"{path}{name}/", inside)
    if directory.place is not None and directory.inside is not None:
        yield from _directories(f"{path}{directory.place.kind.metavar}/", directory.inside)


def _expected(each: FilterKind) -> str:
    return f"; `{each.kind.metavar}` is {each.kind.expected}" if each.kind else ""


def _section(command: Command) -> str:
    help_page = page(command)
    lines = [f"### {command.name}", "", help_page.summary]
    if help_page.details:
        lines += ["", help_page.details]
    lines += ["", f"    {help_page.usage}", ""]
    lines += [f"- `{word}`: {text}" for word, text in (*help_page.words, *help_page.options)]
    if command.also:
        lines.append(f"- also: {', '.join(f'`{name}`' for name in command.also)}")
    lines += [f"- permission: `{help_page.permission}`", ""]
    if shown := example(command.path):
        lines += ["```console", *shown.splitlines(), "```", ""]
    return "\n".join(lines)


def main() -> int:
    """Write the page, or say whether it is up to date."""
    text = reference()
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(text, encoding="utf-8")
        return 0
    if TARGET.exists() and TARGET.read_text(encoding="utf-8") == text:
        return 0
    print("docs/commands.md is not up to date: run make docs", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
