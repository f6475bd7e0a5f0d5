"""metrics.jsonl, one line an epoch, and the same as a labelled record: dynamics.zarr/epochs."""

import json
import os
from typing import Any

import numpy as np

from gpz_jax.runs.folder import Run
from gpz_jax.runs.records import SCHEMA_VERSION, dynamics_store, schema_of, write_text, write_zarr


def append_metrics(run: Run, record: dict[str, Any]) -> None:
    """Add one line to metrics.jsonl; on disk before this returns."""
    with run.metrics_file.open("a") as file:
        file.write(json.dumps({"schema_version": SCHEMA_VERSION, **record}) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_metrics(run: Run) -> list[dict[str, Any]]:
    """The epochs of metrics.jsonl, in today's words; a last line cut short by a crash is left out.

    Raises:
      UserError: a line of a newer schema.
    """
    if not run.metrics_file.exists():
        return []
    records = []
    for line in run.metrics_file.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            break
        records.append(_translated(record) if schema_of(record, run.metrics_file) == 1 else record)
    return records


def _translated(record: dict[str, Any]) -> dict[str, Any]:
    """A line of gpz_jax 0.1.0 as it is written today: ``share`` is ``rho``, and ``between`` follows from the two."""

    def cut(old: dict[str, Any]) -> dict[str, Any]:
        rho = old["share"]
        between = old["within"] / rho - old["within"] if rho else float("nan")
        kept = {name: value for name, value in old.items() if name != "share"}
        return {**kept, "between": between, "rho": rho}

    cuts = {name: cut(old) for name, old in record["cuts"].items()}
    return {"schema_version": SCHEMA_VERSION, **record, "cuts": cuts}


def keep_epochs(run: Run, epochs: int) -> None:
    """Drop what metrics.jsonl says of epochs after ``epochs``: a resumed run will write them again."""
    kept = [record for record in read_metrics(run) if record["epoch"] <= epochs]
    write_text(run.metrics_file, "".join(json.dumps(record) + "\n" for record in kept))


#: Variables of every cut, beside the radius of its classes.
_OF_CUT = {
    "within": {"long_name": "within-class scatter W", "units": "squared units of z"},
    "between": {"long_name": "between-class scatter B", "units": "squared units of z"},
    "rho": {"long_name": "rho = W / (W + B)", "units": "1"},
}


def epochs(run: Run):
    """The radius of every cut and class after every epoch, as an ``xarray.Dataset`` (epoch x cut x class)."""
    import xarray as xr

    records = read_metrics(run)
    first = records[0] if records else {"cuts": {}}
    cuts = list(first["cuts"])

    def stack(name: str) -> np.ndarray:
        return np.array([[record["cuts"][cut][name] for cut in cuts] for record in records], np.float64)

    scalars = [key for key in first if key not in ("schema_version", "epoch", "cuts")]
    radius = {"long_name": "R_c^2", "units": "squared units of z"}
    return xr.Dataset(
        {
            "radius": (("epoch", "cut", "class"), stack("radius"), radius),
            **{name: (("epoch", "cut"), stack(name), about) for name, about in _OF_CUT.items()},
            **{name: ("epoch", np.array([record[name] for record in records], np.float64)) for name in scalars},
        },
        coords={
            "epoch": [record["epoch"] for record in records],
            "cut": cuts,
            "class": np.arange(run.num_classes),
            "dimension": ("cut", [first["cuts"][cut]["dimension"] for cut in cuts]),
        },
        attrs={"split": "validation", "labels": "true"},
    )


def write_epochs(run: Run):
    """Write :func:`epochs` to the run's dynamics.zarr, beside its steps if it has any; returns the ``Dataset``."""
    record = epochs(run)
    write_zarr(record, dynamics_store(run.folder) / "epochs")
    return record
