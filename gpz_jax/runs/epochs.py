"""metrics.jsonl, one line an epoch, and the same as a labelled record: dynamics.zarr/epochs."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpz_jax.atomic import write_bytes
from gpz_jax.errors import UserError
from gpz_jax.json_files import parse_json
from gpz_jax.runs.aside import keep_aside
from gpz_jax.runs.checkpoints import saved_epochs
from gpz_jax.runs.folder import Run
from gpz_jax.runs.records import SCHEMA_VERSION, NewerSchema, schema_of
from gpz_jax.runs.seals import with_check, without_check
from gpz_jax.runs.zarr_records import dynamics_store, write_zarr

#: Bytes that metrics.jsonl may have, and a line of it.
_LIMIT_BYTES, _LINE_BYTES = 2**30, 2**25


class _Line(NamedTuple):
    """A line of metrics.jsonl: its bytes, and its record or why it cannot be read."""

    data: bytes
    record: dict[str, Any] | None
    damage: str = ""


def append_metrics(run: Run, record: Mapping[str, Any]) -> None:
    """Add one line to metrics.jsonl, with a check of what it holds; on disk before this returns."""
    run.subfolder()  # or it was taken away
    line = json.dumps(with_check({"schema_version": SCHEMA_VERSION, **record})) + "\n"
    with run.metrics_file.open("ab") as file:
        file.write(line.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


def read_metrics(run: Run, on_problem: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """The epochs of metrics.jsonl, in today's words; a last line cut short by a crash is left out.

    Args:
      run: of the epochs.
      on_problem: told in words of a line that is damaged, which is left out, and of epochs that are missing; None:
        a damaged line is an error.

    Raises:
      UserError: a line of a newer schema; a damaged line.
    """
    records = []
    for number, line in enumerate(_lines(run), 1):
        if line.record is not None:
            records.append(line.record)
        elif line.data.endswith(b"\n"):  # else cut short
            why = f"line {number} of {run.metrics_file} is left out: {line.damage}"
            if on_problem is None:
                raise UserError(why.replace("is left out:", "cannot be read:"))
            on_problem(why)
    if on_problem is not None and (lost := _lost(run, [record["epoch"] for record in records])):
        on_problem(f"{run.metrics_file} has lost epoch {', '.join(map(str, lost))}")
    return records


def _lost(run: Run, epochs: Sequence[int]) -> list[int]:
    """Epochs that metrics.jsonl should hold and does not: up to the last that it holds or that has a checkpoint."""
    saved = saved_epochs(run.folder / "checkpoints")
    return [epoch for epoch in range(1, max([0, *saved, *epochs]) + 1) if epoch not in epochs]


def _lines(run: Run) -> list[_Line]:
    """Every line of metrics.jsonl; empty if there is no such file."""
    file = run.metrics_file
    if not file.exists():
        return []
    if not file.is_file() or file.stat().st_size > _LIMIT_BYTES:
        raise UserError(f"{file} is no file that gpz_jax wrote: {file.stat().st_size:,} bytes")
    return [_read_line(data, run) for data in file.read_bytes().splitlines(keepends=True)]


def _read_line(data: bytes, run: Run) -> _Line:
    try:
        record = parse_json(data[:_LINE_BYTES], run.metrics_file, finite=False)
        _check_structure(record, run)
        version = schema_of(record, run.metrics_file)
        record = without_check(record, run.metrics_file)
    except NewerSchema:
        raise
    except UserError as error:
        return _Line(data, None, str(error).partition(" is damaged: ")[2] or str(error))
    try:
        return _Line(data, _translated(record) if version == 1 else record)
    except (KeyError, TypeError):
        return _Line(data, None, "it holds something else than an epoch of gpz_jax 0.1.0")


def _check_structure(record: Any, run: Run) -> None:
    """Raise :class:`UserError` unless a line holds an epoch: numbers, and a summary of every cut."""
    where, damaged = run.metrics_file, f"{run.metrics_file} is damaged: it holds no epoch"
    if not isinstance(record, dict) or type(record.get("epoch")) is not int or record["epoch"] < 0:
        raise UserError(damaged)
    cuts, numbers = record.get("cuts"), {**record, "cuts": 0, "check": 0}
    if not isinstance(cuts, dict) or not cuts or not all(type(value) in (int, float) for value in numbers.values()):
        raise UserError(damaged)
    for cut in cuts.values():
        whole = isinstance(cut, dict) and isinstance(cut.get("radius"), list) and "dimension" in cut
        if not whole or len(cut["radius"]) != run.num_classes:
            raise UserError(f"{where} is damaged: it holds no radius of {run.num_classes} classes")
        if not all(type(value) in (int, float) for value in [*cut["radius"], *{**cut, "radius": 0}.values()]):
            raise UserError(f"{where} is damaged: it holds something else than numbers of a cut")


def _translated(record: dict[str, Any]) -> dict[str, Any]:
    """A line of gpz_jax 0.1.0 as it is written today: ``share`` is ``rho``, and ``between`` follows from the two."""

    def cut(old: dict[str, Any]) -> dict[str, Any]:
        rho = old["share"]
        between = old["within"] / rho - old["within"] if rho else float("nan")
        kept = {name: value for name, value in old.items() if name != "share"}
        return {**kept, "between": between, "rho": rho}

    cuts = {name: cut(old) for name, old in record["cuts"].items()}
    return {"schema_version": SCHEMA_VERSION, **record, "cuts": cuts}


def keep_epochs(run: Run, epochs: int, measured: Mapping[str, Any] | None = None) -> list[str]:
    """Make metrics.jsonl hold the epochs up to ``epochs`` alone: a resumed run will write the later ones again.

    Lines that are dropped, for they are damaged or of later epochs, are kept in the run's aside/.

    Args:
      run: of the epochs.
      epochs: how many lie behind the checkpoint that training goes on from.
      measured: the line of the last of them as its checkpoint keeps it, put in where the file has lost it.

    Returns:
      What there is to be said.
    """
    lines = _lines(run)
    kept = {line.record["epoch"]: line.record for line in lines if line.record and line.record["epoch"] <= epochs}
    told, damaged = [], [i for i, line in enumerate(lines, 1) if line.record is None and line.data.endswith(b"\n")]
    if measured is not None and measured.get("epoch") == epochs and "cuts" in measured:
        kept.setdefault(epochs, {"schema_version": SCHEMA_VERSION, **measured})
    text = "".join(json.dumps(with_check(kept[epoch])) + "\n" for epoch in sorted(kept)).encode("utf-8")
    before = b"".join(line.data for line in lines)
    if text == before:
        return []
    if damaged or any(line.record and line.record["epoch"] > epochs for line in lines):
        there = keep_aside(run.folder, "metrics.jsonl", before)
        what = f"with its damaged line{'s' if damaged[1:] else ''} {', '.join(map(str, damaged))}" if damaged else ""
        told.append(f"metrics.jsonl as it was{f', {what},' if what else ''} is set aside in {there}")
    if lost := [epoch for epoch in range(1, epochs + 1) if epoch not in kept]:
        told.append(f"metrics.jsonl has lost epoch {', '.join(map(str, lost))}; training goes on without")
    write_bytes(run.metrics_file, text)
    return told


#: Variables of every cut, beside the radius of its classes.
_OF_CUT = {
    "within": {"long_name": "within-class scatter W", "units": "squared units of z"},
    "between": {"long_name": "between-class scatter B", "units": "squared units of z"},
    "rho": {"long_name": "rho = W / (W + B)", "units": "1"},
}


def epochs(run: Run, on_problem: Callable[[str], None] | None = None):
    """The radius of every cut and class after every epoch, as an ``xarray.Dataset`` (epoch x cut x class)."""
    import xarray as xr

    records = read_metrics(run, on_problem)
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


def write_epochs(run: Run, on_problem: Callable[[str], None] | None = None):
    """Write :func:`epochs` to the run's dynamics.zarr, beside its steps if it has any; returns the ``Dataset``."""
    record = epochs(run, on_problem)
    write_zarr(record, dynamics_store(run.folder) / "epochs")
    return record
