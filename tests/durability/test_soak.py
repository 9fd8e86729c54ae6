"""Half a minute of the load that `make soak` runs for half an hour."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_half_a_minute_of_mixed_load_with_faults_loses_and_leaks_nothing() -> None:
    soak = subprocess.run(
        [sys.executable, ROOT / "bench" / "soak.py", "--seconds", "30"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests" / "support")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert soak.returncode == 0, soak.stdout + soak.stderr[-3000:]
    told = {name: count for name, _, count in (line.rpartition(" ") for line in soak.stdout.splitlines())}
    for what in ("own change acknowledged", "shared key replaced", "shared numbers set", "read", "vandal"):
        assert int(next(count for name, count in told.items() if name.strip() == what).replace(",", "")) > 0, what
