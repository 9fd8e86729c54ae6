"""The circumstances of the figures: machine, versions, commit."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sqlite3
import ssl
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
_LIBRARIES = ("asyncssh", "prompt_toolkit", "aiosqlite", "cryptography", "pydantic", "rich")
_ERLANG = ("erl", "-noshell", "-eval", "io:put_chars(erlang:system_info(otp_release)), halt().")


def circumstances() -> dict[str, str]:
    """Return the circumstances that a reader of the figures needs, in display order."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    found = {
        "measured": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "CPU": f"{model[1] if model else platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
        "OpenSSL": ssl.OPENSSL_VERSION.split()[1],
    }
    found |= {name: version(name) for name in _LIBRARIES}
    peers = {"Erlang/OTP": _said(*_ERLANG), "Go": _said("go", "env", "GOVERSION").removeprefix("go")}
    return found | {name: said for name, said in peers.items() if said}


def commit() -> str:
    """Return the short name of the commit, with `+` when the server differs from it; empty outside a repository."""
    name = _said("git", "rev-parse", "--short", "HEAD")
    return name + ("+" if name and _said("git", "status", "--porcelain", "--", "server") else "")


def _said(*words: str) -> str:
    if shutil.which(words[0]) is None:
        return ""
    ran = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    return ran.stdout.strip() if ran.returncode == 0 else ""
