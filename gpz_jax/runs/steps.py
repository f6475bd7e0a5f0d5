"""dynamics.zarr/steps: the ledger of single training steps, appended to while a run trains and read afterwards.

Dims step, layer (every cut, in order), class; a row of every variable is one step. The coordinate ``step`` is written
last of a row's variables: rows beyond its length are what a crash left half written, and no reader sees them.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpz_jax.analysis import bounds
from gpz_jax.errors import UserError

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
#: What ``--ledger feature`` leaves out.
PARAMETER_TERMS = ("parameter_correct", "parameter_wrong", "optimiser", "statistics", "residual")

#: Rows a chunk: few files, and little to write again when a chunk is filled up.
CHUNK = 64


def steps_folder(run_folder: Path) -> Path:
    """Where a run keeps its ledger."""
    return run_folder / "dynamics.zarr" / "steps"


class StepRecord:
    """A run's ledger, open to be appended to. Every file of it is replaced whole, so that a kill damages no old row."""

    def __init__(self, group: Any):
        self._group = group

    @classmethod
    def open(
        cls,
        run_folder: Path,
        *,
        cuts: Sequence[str],
        dimensions: Sequence[int],
        images_of_class: Sequence[int],
        interference_cuts: Sequence[str],
        variables: Sequence[str],
        attributes: Mapping[str, Any],
        keep_steps: int,
    ) -> "StepRecord":
        """The run's ledger as it is, without the steps from ``keep_steps`` on; a new one if there is none to continue.

        Args:
          run_folder: of the run.
          cuts: names of the cuts.
          dimensions: D of each.
          images_of_class: N_c of the probe batch.
          interference_cuts: cuts at which the interference is kept.
          variables: those of :data:`VARIABLES` to keep.
          attributes: what else is said of the record.
          keep_steps: steps that lie behind the checkpoint that training continues from; 0 starts a new ledger.
        """
        import zarr

        folder = steps_folder(run_folder)
        if keep_steps and (folder / "zarr.json").is_file():
            try:
                group = zarr.open_group(str(folder), mode="r+")
                if _are_there(group, variables):
                    record = cls(group)
                    record._cut(int(np.searchsorted(_whole(group["step"]), keep_steps)))
                    return record
            except _UNREADABLE as error:
                raise _unreadable(folder, error) from None
        sizes = {
            "cut": len(cuts), "class": len(images_of_class), "output": len(images_of_class),
            "interference_cut": len(interference_cuts),
        }  # fmt: skip
        group = zarr.open_group(str(folder), mode="w", attributes=dict(attributes))
        zarr.open_group(str(folder.parent), mode="a")  # so that the groups below can be opened as one tree
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zarr 3 warns that its strings are not final; xarray reads them
            constant = {
                "cut": ("cut", np.array(cuts, dtype=np.dtypes.StringDType())),
                "dimension": ("cut", np.array(dimensions, np.int64)),
                "class": ("class", np.arange(sizes["class"])),
                "output": ("output", np.arange(sizes["class"])),
                "images_of_class": ("class", np.array(images_of_class, np.int64)),
                "interference_cut": (
                    "interference_cut",
                    np.array(interference_cuts, dtype=np.dtypes.StringDType()),
                ),
            }
            for name, (dim, values) in constant.items():
                group.create_array(name, data=values, dimension_names=(dim,))
        for name in variables:
            about = VARIABLES[name]
            shape = tuple(sizes[dim] for dim in about.dims)
            group.create_array(
                name,
                shape=(0, *shape),
                chunks=(CHUNK, *shape),
                dtype="float32",
                fill_value=float("nan"),
                dimension_names=("step", *about.dims),
                attributes={"units": about.units, "long_name": about.formula},
            )
        group.create_array("step", shape=(0,), chunks=(4096,), dtype="int64", fill_value=-1, dimension_names=("step",))
        return cls(group)

    def append(self, rows: Mapping[str, np.ndarray]) -> None:
        """Add rows: ``step`` ``(n,)`` and every variable, ``(n, …)``; once ``step`` is written, last, they count."""
        rows = {**rows, "decision_bound": self._bounds(rows["radius"])}
        begin = self._group["step"].shape[0]
        end = begin + len(rows["step"])
        for name in (*(name for name in rows if name != "step"), "step"):
            self._resize(name, end)
            self._group[name][begin:end] = rows[name]

    def _bounds(self, radius: np.ndarray) -> np.ndarray:
        """The decision-level bound of every step and layer, ``(n, L)``, of radii ``(n, L, K)``."""
        counts, dimensions = np.asarray(self._group["images_of_class"]), np.asarray(self._group["dimension"])
        found = [
            [bounds.decision_bound(r, counts, int(d)) for r, d in zip(cuts, dimensions, strict=True)] for cuts in radius
        ]
        return np.array(found, np.float32).reshape(radius.shape[:2])

    def _cut(self, length: int) -> None:
        # Numbers beyond it go first: they would be back when the array grows, before the rows are.
        if self._group["step"].shape[0] > length:
            self._group["step"][length:] = -1
        self._resize("step", length)

    def _resize(self, name: str, length: int) -> None:
        array = self._group[name]
        if array.shape[0] != length:
            array.resize((length, *array.shape[1:]))


def _whole(steps: Any) -> np.ndarray:
    """The numbers of the whole steps: those before the first that was not written yet."""
    steps = np.asarray(steps[:])
    unwritten = np.flatnonzero(steps < 0)
    return steps[: unwritten[0]] if len(unwritten) else steps


_UNREADABLE = (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError)  # the last: of the codecs


def _unreadable(folder: Path, error: Exception) -> UserError:
    return UserError(f"{folder} cannot be read ({type(error).__name__}: {error}); train the run again")


def _are_there(group: Any, variables: Sequence[str]) -> bool:
    return "step" in group and all(name in group for name in variables)


def read_steps(run_folder: Path):
    """A run's ledger as an ``xarray.Dataset``, up to the last whole step.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    import xarray as xr
    import zarr

    folder = steps_folder(run_folder)
    if not (folder / "zarr.json").is_file():
        raise UserError(f"{run_folder} holds no ledger of steps; train a run with --track-every 1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            group: Any = zarr.open_group(str(folder), mode="r")
            length = len(_whole(group["step"]))
            found = {}
            for name in group.array_keys():
                array: Any = group[name]
                dims = array.metadata.dimension_names
                whole = dims[0] != "step"
                if not whole and array.shape[0] < length:
                    raise ValueError(f"{name} holds {array.shape[0]} of {length} steps")
                values = np.asarray(array[:] if whole else array[:length])
                values = np.array(values.tolist(), str) if values.dtype.kind == "T" else values
                found[name] = (dims, values, dict(array.attrs))
            coords = {name: found.pop(name) for name in ("step", *_COORDINATES)}
            return xr.Dataset(found, coords, dict(group.attrs))
    except _UNREADABLE as error:
        raise _unreadable(folder, error) from None


_COORDINATES = ("cut", "dimension", "class", "output", "images_of_class", "interference_cut")
