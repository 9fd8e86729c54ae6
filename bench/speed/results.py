"""Results as files: figures with the circumstances of their measurement."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from speed.figures import Figures

FOLDER = Path(__file__).parent.parent / "results"


@dataclass(frozen=True)
class Result:
    """One run: its kind (`bench` or `scaling`), circumstances and figures."""

    kind: str
    machine: Mapping[str, str]
    figures: Figures

    def write(self, folder: Path = FOLDER) -> Path:
        """Write it to a file that is named after kind, date and commit, and return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        moment = self.machine["measured"].removesuffix(" UTC").replace(" ", "T").replace(":", "")
        commit = self.machine["commit"].replace("+", "-changed") or "no-commit"
        path = folder / f"{self.kind}-{moment}-{commit}.json"
        content = {"kind": self.kind, "machine": dict(self.machine), "rows": _rounded(self.figures.rows)}
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return path

    @classmethod
    def read(cls, path: Path) -> Result:
        """Read one result. Raises ValueError or KeyError for an invalid file."""
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(content["kind"], content["machine"], Figures(content["rows"]))


def _rounded(found: object) -> object:
    """Round to the precision of measurement: a tenth of a microsecond."""
    if isinstance(found, dict):
        return {name: _rounded(value) for name, value in found.items()}
    if isinstance(found, list):
        return [round(value, 4) for value in found]
    return found
