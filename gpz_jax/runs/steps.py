"""dynamics.zarr/steps: the ledger of single training steps, appended to while a run trains and read afterwards.

Dims step, cut (every one, in order), class; a row of every variable is one step. How many rows there are stands in the
attribute ``rows``, written after them: rows beyond it are what a crash left half written, and no reader sees them. The
attribute ``seal`` beside it is of all that these rows hold.
"""

import hashlib
import json
import shutil
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from gpz_jax.analysis import bounds
from gpz_jax.errors import UserError
from gpz_jax.runs.records import SCHEMA_VERSION, schema_of
from gpz_jax.runs.zarr_records import UNREADABLE, check_format, unreadable

_Z = "squared units of z"


class Variable(NamedTuple):
    """A variable of the ledger: its dims after ``step``, its unit, and what it is."""

    dims: tuple[str, ...]
    units: str
    formula: str


_CLASSES = ("cut", "class")
VARIABLES = {
    "radius": Variable(_CLASSES, _Z, "R_c^2 = (1/N_c) sum ||z_i - mu_c||^2, before the step"),
    "feature_correct": Variable(_CLASSES, _Z, "-(2 gamma/N_c) sum (p_ic - q_ic) T_ci, T_ki = (z_i - mu_c).J_i^T e_k"),
    "feature_wrong": Variable(_CLASSES, _Z, "-(2 gamma/N_c) sum_i sum_{k != c} (p_ik - q_ik) T_ki"),
    "feature_second": Variable(_CLASSES, _Z, "(gamma^2/N_c) sum ||g_i - mean g||^2, g_i = J_i^T (p_i - q_i)"),
    "parameter_correct": Variable(_CLASSES, _Z, "first-order change along -gamma grad of the loss through own logits"),
    "parameter_wrong": Variable(_CLASSES, _Z, "first-order change along -gamma grad of the loss through other logits"),
    "optimiser": Variable(_CLASSES, _Z, "first-order change along theta' - theta, the update that was made"),
    "statistics": Variable(_CLASSES, _Z, "R_c^2(theta', s') - R_c^2(theta', s), s the statistics of batch norms"),
    "realised": Variable(_CLASSES, _Z, "R_c^2(theta', s') - R_c^2(theta, s)"),
    "residual": Variable(_CLASSES, _Z, "realised - optimiser - statistics: curvature along the step"),
    "within": Variable(("cut",), _Z, "W = sum_c (N_c/N) R_c^2, before the step"),
    "between": Variable(("cut",), _Z, "B = sum_c (N_c/N) ||mu_c - mu||^2, before the step"),
    "rho": Variable(("cut",), "1", "rho = W/(W + B), before the step"),
    "decision_bound": Variable(("cut",), "nats", "sum_c P(c) D/2 ln(2 pi e R_c^2/D) + H(Y) >= h(Z), before the step"),
    "coefficient": Variable(("class",), "1", "mean correct-class coefficient p_c - q_c = p_c - 1 + alpha"),
    "past_flip": Variable(("class",), "1", "share of images with p_c > 1 - alpha"),
    "output_entropy": Variable(("class",), "nats", "mean H(p)"),
    "accuracy": Variable(("class",), "1", "share of images classified right"),
    "loss": Variable(("class",), "nats", "mean cross-entropy against the soft targets"),
    "interference": Variable(
        ("interference_cut", "class", "output"), _Z, "-(2 gamma/N_c) sum_{i in c} (p_ik - q_ik) T_ki; k: output"
    ),
    "alpha": Variable((), "1", "label smoothing of the step"),
    "step_size": Variable((), "1", "gamma: the learning rate of the step"),
    "epoch": Variable((), "1", "epoch that the step belongs to, from 1"),
}
#: What ``ledger="feature"`` leaves out.
PARAMETER_TERMS = ("parameter_correct", "parameter_wrong", "optimiser", "statistics", "residual")

#: Rows a chunk: few files, and little to write again when a chunk is filled up.
CHUNK = 64

#: What gpz_jax 0.1.0 called it -> what it is called now.
_RENAMED = {"share": "rho", "layer": "cut", "interference_layer": "interference_cut", "images_of_class": "count"}


class Layout(NamedTuple):
    """What all rows of a ledger have in common.

    Attributes:
      cuts: names of the cuts, in order.
      dimensions: D of each.
      count: N_c of the probe batch.
      interference_cuts: cuts at which the interference is kept.
      variables: those of :data:`VARIABLES` that are kept.
      attributes: what else is said of the record.
    """

    cuts: Sequence[str]
    dimensions: Sequence[int]
    count: Sequence[int]  # pyright: ignore[reportIncompatibleMethodOverride]
    interference_cuts: Sequence[str]
    variables: Sequence[str]
    attributes: Mapping[str, Any]

    @property
    def coordinates(self) -> dict[str, tuple[str, np.ndarray]]:
        """Name -> (dim, values)."""
        classes = np.arange(len(self.count))
        return {
            "cut": ("cut", np.array(self.cuts, str)),
            "dimension": ("cut", np.array(self.dimensions, np.int64)),
            "class": ("class", classes),
            "output": ("output", classes),
            "count": ("class", np.array(self.count, np.int64)),
            "interference_cut": ("interference_cut", np.array(self.interference_cuts, str)),
        }

    @property
    def stamped(self) -> dict[str, Any]:
        """The attributes, with the schema version."""
        return {"schema_version": SCHEMA_VERSION, **self.attributes}

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Shape of a variable in one row."""
        coordinates = self.coordinates
        return tuple(len(coordinates[dim][1]) for dim in VARIABLES[name].dims)


def _described(name: str) -> dict[str, str]:
    return {"units": VARIABLES[name].units, "long_name": VARIABLES[name].formula}


def steps_dataset(layout: Layout, rows: Mapping[str, np.ndarray]):
    """Rows as an ``xarray.Dataset``: what :func:`read_steps` gives of them once they are appended.

    Args:
      layout: of the ledger.
      rows: ``step`` ``(n,)`` and every variable but ``decision_bound``, ``(n, …)``.
    """
    import xarray as xr

    rows = {**rows, "decision_bound": decision_bounds(rows["radius"], layout.count, layout.dimensions)}
    variables = {
        name: (("step", *VARIABLES[name].dims), np.asarray(rows[name], np.float32), _described(name))
        for name in layout.variables
    }
    return xr.Dataset(variables, {"step": np.asarray(rows["step"], np.int64), **layout.coordinates}, layout.stamped)


def decision_bounds(
    radius: Float[np.ndarray, "n L K"], count: Sequence[int], dimensions: Sequence[int]
) -> Float[np.ndarray, "n L"]:
    """The decision-level bound of every step and cut, nats."""
    counts = np.asarray(count)
    found = [
        [bounds.decision_bound(r, counts, int(d)) for r, d in zip(cuts, dimensions, strict=True)] for cuts in radius
    ]
    return np.array(found, np.float32).reshape(radius.shape[:2])


def steps_folder(run_folder: Path) -> Path:
    """Where a run keeps its ledger."""
    return run_folder / "dynamics.zarr" / "steps"


class StepRecord:
    """A run's ledger, open to be appended to. Every file of it is replaced whole, so that a kill damages no old row."""

    def __init__(self, group: Any, digests: Sequence[int] = ()):
        self._group = group
        self._digests = list(digests)

    @classmethod
    def open(cls, run_folder: Path, layout: Layout, *, keep_steps: int) -> "StepRecord":
        """The run's ledger as it is, without the steps from ``keep_steps`` on; a new one if there is none to continue.

        Args:
          run_folder: of the run.
          layout: of the ledger.
          keep_steps: steps that lie behind the checkpoint that training continues from; 0 starts a new ledger.

        Raises:
          UserError: the ledger that is to be continued cannot be read, is damaged, of a newer schema, or of other cuts.
        """
        import zarr

        folder = steps_folder(run_folder)
        if keep_steps and (folder / "zarr.json").is_file():
            try:
                check_format(folder)
                group = zarr.open_group(str(folder), mode="r+")
                if schema_of(group.attrs, folder) < SCHEMA_VERSION:
                    group = _rewritten(run_folder, layout)
                if _are_there(group, layout.variables):
                    _check_coordinates(group, layout, folder)
                    kept = read_steps(run_folder)  # which holds the rows against their seal
                    record = cls(group, _digests_of(kept))
                    record._cut(int(np.searchsorted(kept["step"].values, keep_steps)))
                    return record
            except UNREADABLE as error:
                raise _damaged(folder, error) from None
        zarr.open_group(str(folder.parent), mode="a")  # so that the groups below can be opened as one tree
        return cls(_new_group(folder, layout))

    def append(self, rows: Mapping[str, np.ndarray]) -> None:
        """Add rows: ``step`` ``(n,)`` and every variable, ``(n, …)``; they count once the number of rows is written."""
        count, dimensions = np.asarray(self._group["count"]), np.asarray(self._group["dimension"])
        rows = {**rows, "decision_bound": decision_bounds(rows["radius"], count.tolist(), dimensions.tolist())}
        begin = len(self._digests)
        end = begin + len(rows["step"])
        for name in (*(name for name in rows if name != "step"), "step"):
            self._resize(name, end)
            self._group[name][begin:end] = rows[name]
        written = {name: np.asarray(values, self._group[name].dtype) for name, values in rows.items()}
        self._digests += _row_digests(written)
        self._seal()

    def _cut(self, length: int) -> None:
        if len(self._digests) > length:
            del self._digests[length:]
            self._seal()  # before the rows go: what is beyond it counts for nothing
        self._resize("step", length)

    def _resize(self, name: str, length: int) -> None:
        array = self._group[name]
        if array.shape[0] != length:
            array.resize((length, *array.shape[1:]))

    def _seal(self) -> None:
        plain = {**dict(self._group.attrs), "rows": len(self._digests)}
        coordinates = {name: np.asarray(self._group[name][:]).tolist() for name in _COORDINATES}
        # In one file, at once: attrs.update would write it for every name in turn.
        self._group = self._group.update_attributes({**plain, "seal": _seal_of(plain, coordinates, self._digests)})


def _row_digests(rows: Mapping[str, np.ndarray]) -> list[int]:
    """One number a row, of all its variables; their order does not count."""
    names = sorted(rows)
    values = {name: np.ascontiguousarray(rows[name]) for name in names}
    found = []
    for i in range(len(values["step"])):
        digest = 0
        for name in names:
            digest = zlib.crc32(values[name][i].tobytes(), zlib.crc32(name.encode(), digest))
        found.append(digest)
    return found


def _digests_of(kept) -> list[int]:
    """The digests of rows that were read."""
    return _row_digests({"step": kept["step"].values, **{name: kept[name].values for name in kept.data_vars}})


def _seal_of(attributes: Mapping[str, Any], coordinates: Mapping[str, Any], digests: Sequence[int]) -> str:
    """SHA-256 of what a ledger holds: what is said of it, its coordinates, and the digests of its rows."""
    plain = {str(name): value for name, value in attributes.items() if name != "seal"}
    return hashlib.sha256(json.dumps([plain, coordinates, list(digests)], sort_keys=True).encode()).hexdigest()


def _new_group(folder: Path, layout: Layout) -> Any:
    """A ledger without rows, in place of what the folder holds."""
    import zarr

    group = zarr.open_group(str(folder), mode="w", attributes={**layout.stamped, "rows": 0})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr 3 warns that its strings are not final; xarray reads them
        for name, (dim, values) in layout.coordinates.items():
            values = values.astype(np.dtypes.StringDType()) if values.dtype.kind == "U" else values
            group.create_array(name, data=values, dimension_names=(dim,))
    for name in layout.variables:
        group.create_array(
            name,
            shape=(0, *layout.shape_of(name)),
            chunks=(CHUNK, *layout.shape_of(name)),
            dtype="float32",
            fill_value=float("nan"),
            dimension_names=("step", *VARIABLES[name].dims),
            attributes=dict[str, Any](_described(name)),
        )
    group.create_array("step", shape=(0,), chunks=(4096,), dtype="int64", fill_value=-1, dimension_names=("step",))
    return group


def _rewritten(run_folder: Path, layout: Layout) -> Any:
    """The ledger of an older schema, written anew in today's words."""
    import zarr

    old, folder = read_steps(run_folder), steps_folder(run_folder)
    partial = folder.with_name("steps.partial")
    group = _new_group(partial, layout)
    if _are_there(old, layout.variables):
        names = ("step", *(name for name in layout.variables if name != "decision_bound"))
        StepRecord(group).append({name: old[name].values for name in names})
    shutil.rmtree(folder)
    partial.rename(folder)
    return zarr.open_group(str(folder), mode="r+")


def _whole(steps: Any) -> np.ndarray:
    """The numbers of the whole steps: those before the first that was not written yet."""
    steps = np.asarray(steps[:])
    unwritten = np.flatnonzero(steps < 0)
    return steps[: unwritten[0]] if len(unwritten) else steps


def _damaged(folder: Path, error: Exception) -> UserError:
    if isinstance(error, UserError) and "damaged" not in str(error):
        return error
    why = str(unreadable(folder, error))
    return UserError(f"{why}; move {folder} away, and --resume begins a new ledger where training goes on")


def _are_there(group: Any, variables: Sequence[str]) -> bool:
    return "step" in group and all(name in group for name in variables)


def _check_coordinates(group: Any, layout: Layout, folder: Path) -> None:
    for name, (_, values) in layout.coordinates.items():
        if np.asarray(group[name][:]).tolist() != values.tolist():
            raise UserError(f"{folder} holds a ledger of another {name}; keep this one in another folder")


def read_steps(run_folder: Path):
    """A run's ledger as an ``xarray.Dataset``, up to the last whole step; one of gpz_jax 0.1.0 in today's words.

    Raises:
      UserError: there is none, it cannot be read, or it is of a newer schema.
    """
    import xarray as xr
    import zarr

    folder = steps_folder(run_folder)
    if not (folder / "zarr.json").is_file():
        raise UserError(f"{run_folder} holds no ledger of steps; train a run with track_every 1", field="track_every")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_format(folder)
            group: Any = zarr.open_group(str(folder), mode="r")
            attributes = dict(group.attrs)
            version = schema_of(attributes, folder)
            rows = attributes.pop("rows", None)
            found = _arrays(group, len(_whole(group["step"])) if rows is None else rows)
            if version == 1:
                _add_between(found)
            needed = ("step", "radius", *_COORDINATES, *(() if rows is not None else ("within", "rho")))
            if missing := [name for name in needed if name not in found]:
                raise UserError(f"{folder} is damaged: it holds no {missing[0]}")
            coords = {name: found.pop(name) for name in ("step", *_COORDINATES)}
            record = xr.Dataset(found, coords, attributes)
        if rows or "seal" in attributes:
            coordinates = {name: record[name].values.tolist() for name in _COORDINATES}
            plain = {**{name: value for name, value in attributes.items() if name != "seal"}, "rows": rows}
            if attributes.get("seal") != _seal_of(plain, coordinates, _digests_of(record)):
                raise UserError(f"{folder} is damaged: its {rows} steps are not what was written")
        return record.drop_attrs(deep=False).assign_attrs({k: v for k, v in attributes.items() if k != "seal"})
    except UNREADABLE as error:
        raise _damaged(folder, error) from None


_COORDINATES = ("cut", "dimension", "class", "output", "count", "interference_cut")


def _arrays(group: Any, length: int) -> dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, Any]]]:
    """(dims, values, attributes) of every array by its name of today, those along ``step`` up to ``length``."""
    found = {}
    for name in group.array_keys():
        array: Any = group[name]
        dims = tuple(_RENAMED.get(dim, dim) for dim in array.metadata.dimension_names)
        known = VARIABLES.get(_RENAMED.get(str(name), str(name)))
        if known is not None and dims != ("step", *known.dims):
            raise ValueError(f"{name} has the dims {', '.join(map(str, dims))}")
        whole = dims[0] != "step"
        if not whole and array.shape[0] < length:
            raise ValueError(f"{name} holds {array.shape[0]} of {length} steps")
        values = np.asarray(array[:] if whole else array[:length])
        values = np.array(values.tolist(), str) if values.dtype.kind == "T" else values
        found[_RENAMED.get(name, name)] = (dims, values, dict(array.attrs))
    return found


def _add_between(found: dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, Any]]]) -> None:
    """B = W/rho - W, which 0.1.0 did not store."""
    dims, within, _ = found["within"]
    with np.errstate(divide="ignore", invalid="ignore"):
        between = within / found["rho"][1] - within
    found["between"] = (dims, between, _described("between"))
