"""Record the program's real output: the examples of the help pages, and the picture in the README.

python scripts/record_examples.py            write changed examples; times and keys alone are no change
python scripts/record_examples.py --check    fail when an example has changed
"""

from __future__ import annotations

import asyncio
import io
import re
import sys
import tempfile
from pathlib import Path

import asyncssh
from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from console import ConsoleServer, without_wildcards  # noqa: E402  tests are no package

from server.commands import COMMANDS  # noqa: E402

EXAMPLES = ROOT / "server" / "render" / "examples.txt"
PICTURE = ROOT / "docs" / "session.svg"
_FOOTER = re.compile(r"\n\[exec at: .*\]\n")
_DATE = re.compile(
    r'\d\d\.\d\d\.\d{4} \d\d:\d\d:\d\d [+-]\d{4}|"at": "[^"]*", "time_ms": \d+|\d+ records are whole, head \d+'
)
_SESSION = re.compile(
    r"(?<=│)\d+ *(?=│\d{4}-)|\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ(?=│)|"  # number and time of a record
    r'textLength="[\d.]+"|'  # how wide a footer is depends on its milliseconds
    r"[A-Za-z0-9]{4}\*{56}[A-Za-z0-9]{4}|[0-9a-f]{8}(?=│)|127\.0\.0\.1(:| port )\d+ *|"
    r"\d\d\.\d\d\.\d{4} \d\d:\d\d:\d\d(?=│)"
)
_FONT = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)
_KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIPEVPWG4+g4EdxKpPS7wj1frid73wG5yEVQcgUbVRUaX"
#: The starting state of every example, whatever the example before it has done.
_SCENE = (
    "domain/remove biysk.local --force",
    "domain/remove moscow.local --force",
    "domain/remove barnaul.local --force",
    "cocon/user/remove eve --force",
    "domain/declare biysk.local",
    "domain/biysk.local/integrations/add tester",
    "domain/biysk.local/integrations/add servint --service --numbers 24010{0-1}",
    "domain/declare barnaul.local",
    f"cocon/user/add eve --key 'ssh-ed25519 {_KEY} eve@desk' --expires 2030-12-31Z",
    "cocon/user/grant eve barnaul.local",
)
_PICTURED = (
    "domain/declare biysk.local",
    "cd domain/biysk.local/integrations",
    "add tester",
    "add servint --service --numbers 24010{0-1}",
    "list",
    "list | match widget | count",
    "remove testr",
)
_COLUMNS = 96


async def recorded(connection: asyncssh.SSHClientConnection, lines: str) -> str:
    """Type lines at a terminal and return its display, with the prompt after the last reply."""
    shell = await connection.create_process(term_type="xterm", term_size=(_COLUMNS, 40))
    shell.stdin.write(lines + "\n")
    shell.stdin.write_eof()
    return str((await shell.wait()).stdout).replace("\r\n", "\n").rstrip("\n")


async def examples(connection: asyncssh.SSHClientConnection) -> str:
    """Return the sessions of all examples, each below a line with its command's path; without footers."""
    parts = []
    for command in COMMANDS:
        parts.append(f"== {command.path}\n")
        for lines in command.examples:
            for line in _SCENE:
                await connection.run(line)
            shown = _FOOTER.sub("", await recorded(connection, lines))
            parts.append(shown[: shown.rindex("\n") + 1] if shown.endswith("$ ") else shown + "\n")
    return "".join(parts)


def drawn(session: str) -> str:
    """Return a picture of a session."""
    console = Console(record=True, width=_COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(session), soft_wrap=True)
    title = "ssh -p 8023 admin@ds1"
    svg = console.export_svg(title=title, theme=SVG_EXPORT_THEME, unique_id="ecss-console")
    return _FONT.sub("", svg)  # the picture must not load a font from another host


async def record(server: ConsoleServer) -> dict[Path, str]:
    """Return every recorded file's text."""
    async with server.asyncssh() as connection:
        told = await examples(connection)
        await connection.run(_SCENE[0])
    async with server.asyncssh(client_version="OpenSSH_9.9") as connection:
        pictured = await recorded(connection, "\n".join(_PICTURED))
    return {EXAMPLES: told, PICTURE: drawn(pictured)}


def same(one: str, other: str) -> bool:
    """Tell whether two records differ in times and keys only."""
    first, second = (_steady(text) for text in (one, other))
    return first == second


def _steady(text: str) -> str:
    return _SESSION.sub("S", _DATE.sub("DATE", without_wildcards(text.replace("&#160;", " "))))


def main() -> int:
    """Write the records, or say whether they are up to date."""
    with tempfile.TemporaryDirectory() as folder:
        server = ConsoleServer(Path(folder))
        server.prepare()
        server.start(ECSS_CONSOLE_PROMPT__COLOUR="green")
        try:
            found = asyncio.run(record(server))
        finally:
            server.stop()
    stale = [path for path, text in found.items() if not path.exists() or not same(path.read_text("utf-8"), text)]
    for path in stale:
        if "--check" in sys.argv[1:]:
            print(f"{path.relative_to(ROOT)} is not up to date: run make docs", file=sys.stderr)
        else:
            path.write_text(found[path], encoding="utf-8")
    return 1 if stale and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
