"""What lies in a run folder beside its records: versions of packages, prices of the cuts."""

import csv
import json
import math
from pathlib import Path
from typing import Any

from gpz_jax.runs.folder import Run


def _json(file: Path) -> dict[str, Any]:
    """What a JSON file holds; empty if it is not there or cannot be read."""
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def versions(run: Run) -> dict[str, str]:
    """The packages that a run was trained with."""
    found = _json(run.folder / "config.json").get("versions")
    return {str(name): str(version) for name, version in found.items()} if isinstance(found, dict) else {}


def edge_milliseconds(run: Run) -> dict[str, float]:
    """Cut -> milliseconds that the edge takes for a batch, as ``cuts.csv`` has them; empty if nothing was timed."""
    try:
        with (run.folder / "cuts.csv").open(newline="") as file:
            found = {row["cut"]: float(row["edge_ms"] or "nan") for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return {}
    return {cut: value for cut, value in found.items() if math.isfinite(value)}
