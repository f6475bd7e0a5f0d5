"""What lies in a run folder beside its records: versions of packages, prices of the cuts."""

import csv
import math

from gpz_jax.errors import UserError
from gpz_jax.json_files import read_json
from gpz_jax.runs.folder import Run


def versions(run: Run) -> dict[str, str]:
    """The packages that a run was trained with."""
    try:
        found = dict(read_json(run.folder / "config.json")).get("versions")
    except (UserError, ValueError, TypeError):
        return {}
    return {str(name): str(version) for name, version in found.items()} if isinstance(found, dict) else {}


def edge_milliseconds(run: Run) -> dict[str, float]:
    """Cut -> milliseconds that the edge takes for a batch, as ``cuts.csv`` has them; empty if nothing was timed."""
    try:
        with (run.folder / "cuts.csv").open(newline="", encoding="utf-8") as file:
            found = {row["cut"]: float(row["edge_ms"] or "nan") for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return {}
    return {cut: value for cut, value in found.items() if math.isfinite(value)}
