"""Record the transcript in docs/cluster.md with two real consoles on a real PostgreSQL.

python scripts/cluster_page.py            write it
python scripts/cluster_page.py --check    fail when it differs in more than numbers and keys
"""

from __future__ import annotations

import re
import signal
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

from console import ConsoleServer, without_wildcards  # noqa: E402  tests are no package
from databases import console_on  # noqa: E402
from postgresql import free_port, is_installed, postgresql_server  # noqa: E402

TARGET = ROOT / "docs" / "cluster.md"
_TRANSCRIPT = re.compile(r"(?<=<!-- transcript -->\n).*?(?=<!-- /transcript -->)", re.DOTALL)
_NUMBER = re.compile(r"\d+")
#: The node that runs a line, and the line.
_LINES = (
    (1, "domain/declare biysk.local"),
    (1, "domain/biysk.local/integrations/add tester"),
    (2, "domain/biysk.local/integrations/list"),
    (2, "node/list"),
    (2, "date --on all"),
)
_AFTER = ((1, "date --on all"), (1, "node/list"))


def transcript(folder: Path) -> str:
    """Return the recorded session."""
    with postgresql_server() as postgresql:
        database = postgresql.database("ecss")
        nodes = [console_on(database, folder / f"ds{number}", name=f"ds{number}@ecss1") for number in (1, 2)]
        first, second = nodes
        first.prepare()
        try:
            _start(first)
            _share_keys(first, second)
            _start(second)
            shown = [_typed(nodes, number, line) for number, line in _LINES]
            second.stop()
            shown += ["# ds2: systemctl stop ecss-console", *(_typed(nodes, number, line) for number, line in _AFTER)]
            _start(second)
            second.stop(signal.SIGKILL)
            shown += ["# ds2: started again, and killed", *(_typed(nodes, number, line) for number, line in _AFTER)]
        finally:
            for each in nodes:
                if each.process is not None:
                    each.stop()
    return "\n".join(shown)


def _start(node: ConsoleServer) -> None:
    """Start a node on a port that node/list shows from its first moment on."""
    node.start(ECSS_CONSOLE_LISTEN__PORT=str(free_port()))


def _share_keys(first: ConsoleServer, second: ConsoleServer) -> None:
    """Give the second node the keys of the first, and the key of `admin` for the client."""
    keys = second.folder / "keys"
    keys.mkdir(mode=0o700)
    copied = [(key, keys / key.name) for key in (first.folder / "keys").iterdir()] + [(first.key, second.key)]
    for source, target in copied:
        target.touch(0o600)
        target.write_bytes(source.read_bytes())


def _typed(nodes: list[ConsoleServer], number: int, line: str) -> str:
    """Run a line on a node; return it as typed, the reply, and the exit status unless it is 0."""
    ran = nodes[number - 1].ssh(line)
    status = f"(exit status {ran.returncode})\n" if ran.returncode else ""
    return f"$ ssh -p 8023 admin@ds{number}.example '{line}'\n{ran.stdout.decode()}{status}"


def main() -> int:
    """Write the transcript."""
    if not is_installed():
        print("PostgreSQL's server is not installed: apt-get install postgresql", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        recorded = transcript(Path(folder))
    before = TARGET.read_text(encoding="utf-8")
    after = _TRANSCRIPT.sub(lambda _found: f"```text\n{recorded}```\n", before)
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(after, encoding="utf-8")
    elif _steady(before) != _steady(after):
        print(f"{TARGET.relative_to(ROOT)} is not up to date: make cluster-page", file=sys.stderr)
        return 1
    return 0


def _steady(text: str) -> str:
    return _NUMBER.sub("N", without_wildcards(text))


if __name__ == "__main__":
    sys.exit(main())
