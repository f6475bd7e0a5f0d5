"""metrics.jsonl, one line an epoch, and the same as a labelled record: dynamics.zarr/epochs."""

import json
import os
from typing import Any

import numpy as np

from gpz_jax.runs.folder import Run
from gpz_jax.runs.records import dynamics_store, write_text, write_zarr


def append_metrics(run: Run, record: dict[str, Any]) -> None:
    """Add one line to metrics.jsonl; on disk before this returns."""
    with run.metrics_file.open("a") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_metrics(run: Run) -> list[dict[str, Any]]:
    """The epochs of metrics.jsonl; a last line cut short by a crash is left out."""
    if not run.metrics_file.exists():
        return []
    records = []
    for line in run.metrics_file.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def keep_epochs(run: Run, epochs: int) -> None:
    """Drop what metrics.jsonl says of epochs after ``epochs``: a resumed run will write them again."""
    kept = [record for record in read_metrics(run) if record["epoch"] <= epochs]
    write_text(run.metrics_file, "".join(json.dumps(record) + "\n" for record in kept))


def epochs(run: Run):
    """The radius of every cut and class after every epoch, as an ``xarray.Dataset`` (epoch x layer x class)."""
    import xarray as xr

    records = read_metrics(run)
    cuts = list(records[0]["cuts"]) if records else []

    def stack(name: str) -> np.ndarray:
        return np.array([[record["cuts"][cut][name] for cut in cuts] for record in records], np.float64)

    scalars = [key for key in (records[0] if records else {}) if key not in ("epoch", "cuts")]
    return xr.Dataset(
        {
            "radius": (
                ("epoch", "cut", "class"),
                stack("radius"),
                {"long_name": "R_c^2", "units": "squared units of z"},
            ),
            "within": (("epoch", "cut"), stack("within"), {"long_name": "within-class scatter W"}),
            "rho": (("epoch", "cut"), stack("rho"), {"long_name": "rho = W / (W + B)", "units": "1"}),
            **{name: ("epoch", np.array([record[name] for record in records], np.float64)) for name in scalars},
        },
        coords={
            "epoch": [record["epoch"] for record in records],
            "cut": cuts,
            "class": np.arange(run.num_classes),
            "dimension": ("cut", [records[0]["cuts"][cut]["dimension"] for cut in cuts] if records else []),
        },
        attrs={"split": "validation", "labels": "true"},
    )


def write_epochs(run: Run):
    """Write :func:`epochs` to the run's dynamics.zarr, beside its steps if it has any; returns the ``Dataset``."""
    record = epochs(run)
    write_zarr(record, dynamics_store(run.folder) / "epochs")
    return record
