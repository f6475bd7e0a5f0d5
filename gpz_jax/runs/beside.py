"""What lies in a run folder beside its records: versions, names of the classes, prices of the cuts, guarantees."""

import csv
import json
import math
from collections.abc import Mapping
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


def class_names(run: Run) -> tuple[str, ...]:
    """A name a class: those in config.json's ``class_names``, or the numbers of the classes where it has none."""
    found = _json(run.folder / "config.json").get("class_names")
    if isinstance(found, list) and len(found) == run.num_classes:
        return tuple(map(str, found))
    return tuple(map(str, range(run.num_classes)))


def edge_milliseconds(run: Run) -> dict[str, float]:
    """Cut -> milliseconds that the edge takes for a batch, as ``cuts.csv`` has them; empty if nothing was timed."""
    try:
        with (run.folder / "cuts.csv").open(newline="") as file:
            found = {row["cut"]: float(row["edge_ms"] or "nan") for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return {}
    return {cut: value for cut, value in found.items() if math.isfinite(value)}


def guarantees(run: Run) -> dict[str, Mapping[str, float]]:
    """Cut -> numbers of ``attacks/guarantees.json`` by name; empty if there are none."""
    cuts = _json(run.folder / "attacks" / "guarantees.json").get("cuts")
    found = {}
    for cut, numbers in (cuts if isinstance(cuts, dict) else {}).items():
        if isinstance(numbers, dict):
            found[str(cut)] = {
                name: float(value) for name, value in numbers.items() if isinstance(value, int | float)
            }  # fmt: skip
    return found
