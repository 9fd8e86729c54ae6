"""Generate docs/configuration.md from the schema of the configuration.

python scripts/configuration_page.py            write it
python scripts/configuration_page.py --check    fail when it is not up to date
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from server.config import Config
from server.config.current import declared

TARGET = Path(__file__).parents[1] / "docs" / "configuration.md"
INTRODUCTION = """\
# Configuration

Generated from the schema by `make docs`; do not edit.

`systemctl reload ecss-console`, or `kill -HUP`, reads the configuration, the host keys and the keys of
`auth.trusted_user_ca_keys` again. With any mistake in them nothing changes, and the log names all mistakes. Otherwise
the log names the keys that count now and those that wait for a restart, the audit records it (`host.change`), and
`node/info` lists the waiting keys. Environment variables override as at the start, with the values of the start.

The last column says when a changed value counts.

| key | default | meaning | a change counts |
|---|---|---|---|
"""


def reference() -> str:
    """Return the whole page."""
    defaults = Config()
    rows = []
    for section, key, when in declared():
        values = getattr(defaults, section)
        default = json.dumps(getattr(values, key), ensure_ascii=False)
        meaning = str(type(values).model_fields[key].description).replace("|", "\\|")
        rows.append(f"| `{section}.{key}` | `{default}` | {meaning} | {when.value} |\n")
    return INTRODUCTION + "".join(rows)


def main() -> int:
    """Write the page, or with --check tell whether it is up to date."""
    text = reference()
    if "--check" in sys.argv[1:]:
        if TARGET.exists() and TARGET.read_text(encoding="utf-8") == text:
            return 0
        print(f"{TARGET} is not up to date: make docs")
        return 1
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
