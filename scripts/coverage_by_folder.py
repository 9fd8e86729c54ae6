"""Print how much of each folder of the server the last measured tests have run.

Exits with status 1 when a folder that must be tested thoroughly is below its share.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path, PurePath

import coverage

#: Rules without input or output: nothing keeps a test from reaching them.
_LEAST_PERCENT = {"grammar": 95.0, "model": 95.0, "shell": 95.0, "auth": 95.0}


def _measured() -> dict[str, tuple[int, int]]:
    """Return the reached and all lines and branches of each folder. Raises CoverageException without data."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        data = coverage.Coverage()
        data.load()
        data.json_report(outfile=str(report))
        files = json.loads(report.read_text())["files"]
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, entry in files.items():
        parts = PurePath(name).parts
        summary = entry["summary"]
        count = counts[parts[1] if len(parts) > 2 else "(top level)"]  # noqa: PLR2004  server/FOLDER/file.py
        count[0] += summary["covered_lines"] + summary["covered_branches"]
        count[1] += summary["num_statements"] + summary["num_branches"]
    return {folder: (reached, every) for folder, (reached, every) in sorted(counts.items())}


def run() -> int:
    """Print the table and return the exit status."""
    measured = _measured()
    measured["all"] = (sum(each[0] for each in measured.values()), sum(each[1] for each in measured.values()))
    status = 1 if _LEAST_PERCENT.keys() - measured.keys() else 0  # renamed, or not run at all
    for folder, (reached, every) in measured.items():
        percent = 100 * reached / every
        low = percent < _LEAST_PERCENT.get(folder, 0)
        status = 1 if low else status
        print(f"{folder:12} {percent:6.1f} %{'  below ' + str(_LEAST_PERCENT[folder]) + ' %' if low else ''}")
    return status


if __name__ == "__main__":
    sys.exit(run())
