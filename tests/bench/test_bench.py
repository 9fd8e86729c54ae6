"""The benchmark runs every scene and store with tiny counts on the real server."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from speed.figures import Figures
from speed.scenes import adds, logins
from speed.stage import Counts
from speed.tables import put_between_marks
from speed.targets import judged

BENCH = Path(__file__).parents[2] / "bench"


def script(name: str, *words: str) -> str:
    ran = subprocess.run(
        [sys.executable, str(BENCH / name), *words], capture_output=True, text=True, check=False, timeout=100
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def only_result(folder: Path) -> tuple[Path, Any]:
    (path,) = folder.iterdir()
    return path, json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_benchmark_measures_every_row_that_has_a_target(tmp_path: Path) -> None:
    script("run.py", "--tiny", "--ours", "--results", str(tmp_path))
    path, result = only_result(tmp_path)
    assert result["kind"] == "bench"
    assert {"commit", "CPU", "kernel", "Python", "asyncssh"} <= set(result["machine"])
    for row, by_server in result["rows"].items():
        for measures in by_server.values():
            assert all(value > 0 for value in measures.get("cpu_ms", [1])), row
    figures = Figures(result["rows"])
    for verdict in judged(figures, Counts.tiny()):
        found = figures.median(verdict.target.row, "ecss-console", verdict.target.measure)
        no_compiler = adds.SLOW in verdict.target.row and shutil.which("cc") is None
        assert found is not None or no_compiler, verdict.target.row
    said = script("compare.py", str(path), str(path))
    assert "1.00" in said
    assert "list of 10,000" in said


def test_the_scaling_measures_every_store(tmp_path: Path) -> None:
    script("scaling.py", "--tiny", "--results", str(tmp_path))
    _, result = only_result(tmp_path)
    assert all(len(by_size) == 2 for by_size in result["rows"].values())
    assert len(result["rows"]) == 7


@pytest.mark.parametrize(("ours_ms", "word"), [(0.8, "met"), (0.81, "MISSED")])
def test_targets_against_peers_compare_medians(ours_ms: float, word: str) -> None:
    figures = Figures()
    for ours, peer in ((9.0, 1.0), (ours_ms, 1.0), (0.1, 1.0)):
        figures.note(logins.ROW, "ecss-console", cpu_ms=ours)
        figures.note(logins.ROW, "Erlang", cpu_ms=peer)
    words = {verdict.target.row: verdict.word for verdict in judged(figures, Counts())}
    assert words[logins.ROW] == word
    assert words["cold start, exec to the first banner"] == "not measured"


def test_a_table_is_written_between_its_marks_only(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n")
    assert put_between_marks(page, "bench", "new")
    assert page.read_text() == "before\n<!-- bench -->\nnew\n<!-- /bench -->\nafter\n"
    assert not put_between_marks(page, "scaling", "new")


def test_the_start_imports_no_interactive_modules() -> None:
    check = "import gc, sys, server.__main__; print(gc.isenabled(), 'prompt_toolkit' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.split() == ["True", "False"]
