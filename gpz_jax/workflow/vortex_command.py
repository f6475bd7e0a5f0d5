"""Read the ledger of one or several runs: what moved R_c², and whether the predictions came true. Needs no device."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from gpz_jax import runs
from gpz_jax.analysis.attribution import agreement, over_classes, sign_change
from gpz_jax.errors import UserError, did_you_mean
from gpz_jax.reporting import ledger_figures, tables

#: Terms of the ledger, by the account that they belong to.
FEATURE = ("feature_correct", "feature_wrong", "feature_second")
GRADIENT = ("parameter_correct", "parameter_wrong")
STEP = ("optimiser", "statistics", "residual")

#: What is held against the realised change, step by step, and the terms that it is the sum of.
PREDICTIONS = {
    "feature": FEATURE,
    "gradient": GRADIENT,
    "optimiser": ("optimiser",),
    "both": ("optimiser", "statistics"),
}


class Read(NamedTuple):
    """One run's ledger, read.

    Attributes:
      name: of the run.
      folder: of the run.
      curves: the ledger without its classes (:func:`over_ledger`), an ``xarray.Dataset``.
      rows: what it comes to (:func:`summarise`).
    """

    name: str
    folder: Path
    curves: Any
    rows: list[dict[str, Any]]


def read_ledgers(folders: Sequence[str]) -> list[Read]:
    """Open the ledgers of runs, or of folders that hold runs trained together.

    Raises:
      UserError: no folder given; one that is no run or holds no ledger; ledgers of different layers (says which).
    """
    if not folders:
        raise UserError("a run folder is missing, such as: python -m gpz_jax.vortex runs/NAME")
    paths = [path for given in folders for path in _members(Path(given))]
    for path in paths:
        if paths.count(path) > 1:
            raise UserError(f"run {path} is given twice")
    found = []
    for folder in paths:
        run = runs.open_run(folder)
        record = runs.read_steps(run.folder)
        if not record.sizes["step"]:
            raise UserError(f"{folder} holds a ledger without a whole step yet; continue the run with --resume")
        curves = over_ledger(record)
        found.append(Read(run.folder.name, run.folder, curves, summarise(curves)))
    _check_layers(found)
    return found


def _members(folder: Path) -> list[Path]:
    inside = sorted(file.parent for file in folder.glob("*/config.json")) if folder.is_dir() else []
    return inside if inside and not (folder / "config.json").exists() else [folder]


def _check_layers(found: Sequence[Read]) -> None:
    first = found[0]
    ours = [str(layer) for layer in first.curves.cut.values]
    for other in found[1:]:
        theirs = [str(layer) for layer in other.curves.cut.values]
        if ours == theirs:
            continue
        differ = [f"only {first.name} has {name}" for name in ours if name not in theirs]
        differ += [f"only {other.name} has {name}" for name in theirs if name not in ours]
        shown = "; ".join(differ[:6]) + (f"; and {len(differ) - 6} more" if len(differ) > 6 else "")
        raise UserError(f"{first.name} and {other.name} have different layers and cannot be compared: {shown}")


def over_ledger(record):
    """A ledger with every variable averaged over the classes, images weighing the same; the interference as it is.

    Args:
      record: what ``runs.read_steps`` returns.

    Returns:
      An ``xarray.Dataset`` of dims step and layer; its attribute ``turn`` is the first step at which the correct-class
      coefficient is positive (None: never), its attribute ``few`` the classes with fewer than two images, left out.
    """
    counts = record.images_of_class.values
    curves = record.copy()
    for name, values in record.data_vars.items():
        if "class" in values.dims and name != "interference":
            dims = tuple(dim for dim in values.dims if dim != "class")
            curves[name] = (dims, over_classes(values.transpose(*dims, "class").values, counts), values.attrs)
    change = sign_change(curves.coefficient.values)
    turn = None if change is None else int(record.step.values[change])
    few = [f"{c} ({n})" for c, n in enumerate(counts) if n < 2]
    return curves.assign_attrs(turn=turn, few=few)


def summarise(curves, phases: Mapping[str, slice] | None = None) -> list[dict[str, Any]]:
    """What a ledger comes to: a row for every layer and phase.

    Args:
      curves: what :func:`over_ledger` returns.
      phases: name -> the rows of the ledger that it spans; default: all, and those before and after the coefficient's
        change of sign.

    Returns:
      Rows with the sums over the phase's steps of every term (``sum_…``, squared units of z), R_c² and ρ at its ends,
      ``net`` = |Σ realised| / Σ |realised|, ``falling`` the share of steps on which R_c² fell, and the agreement of
      each of :data:`PREDICTIONS` with the realised change. Terms that were not kept are NaN.
    """
    steps = curves.sizes["step"]
    if phases is None:
        phases = {"all": slice(0, steps)}
        if (turn := curves.attrs["turn"]) is not None:
            change = int(np.searchsorted(curves.step.values, turn))
            phases = {**phases, "before": slice(0, change), "after": slice(change, steps)}
    names = (*FEATURE, *GRADIENT, *STEP, "realised", "radius")
    missing = np.full((steps, curves.sizes["cut"]), np.nan)
    terms = {name: curves[name].values if name in curves else missing for name in names}  # (T, L) each
    rows = []
    for i, layer in enumerate(curves.cut.values):
        for phase, part in phases.items():
            if part.start == part.stop:
                continue
            at = {name: values[part, i] for name, values in terms.items()}
            row = {
                "cut": str(layer),
                "phase": phase,
                "steps": part.stop - part.start,
                "first_step": int(curves.step.values[part.start]),
                "radius_first": at["radius"][0],
                "radius_last": at["radius"][-1] + at["realised"][-1],
                "rho_first": float(curves.rho.values[part.start, i]),
                "rho_last": float(curves.rho.values[part.stop - 1, i]),
                "net": _ratio(abs(at["realised"].sum()), np.abs(at["realised"]).sum()),
                "falling": float(np.mean(at["realised"] < 0)),
            }
            row |= {f"sum_{name}": float(values.sum()) for name, values in at.items() if name != "radius"}
            for name, parts in PREDICTIONS.items():
                predicted = np.sum([at[term] for term in parts], axis=0)
                row |= {f"{name}_{key}": value for key, value in agreement(predicted, at["realised"])._asdict().items()}
            rows.append(row)
    return rows


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else math.nan


def report_ledgers(
    found: Sequence[Read], console: Console, *, layers: Sequence[str] = (), out: str | None = None
) -> list[Path]:
    """Print the tables of every ledger, write them as CSV, draw the figures; several runs are overlaid as well.

    Args:
      found: what :func:`read_ledgers` returned.
      console: where to print.
      layers: those whose terms are drawn; default: up to six, evenly spread, the last among them.
      out: folder for what compares several runs; default: ``vortex`` beside the first run.

    Returns:
      The figures.

    Raises:
      UserError: a layer that the runs do not have.
    """
    known = [str(layer) for layer in found[0].curves.cut.values]
    for layer in layers:
        if layer not in known:
            raise UserError(f"unknown layer {layer!r}{did_you_mean(layer, known)}")
    spread = np.unique(np.linspace(0, len(known) - 1, min(6, len(known))).astype(int))
    chosen = list(layers) or [known[i] for i in spread]
    written = []

    def draw(curves: dict[str, Any], folder: Path, prefix: str = "") -> None:
        files = [folder / f"{prefix}{name}.png" for name in ("overview", "terms", "interference")]
        ledger_figures.overview_figure(curves, files[0])
        ledger_figures.terms_figure(curves, chosen, files[1])
        ledger_figures.interference_figure(curves, files[2])
        written.extend(files)

    for read in found:
        for table in ledger_figures.ledger_tables(read.name, read.curves, read.rows):
            console.print(table)
        for line in said_of(read.curves):
            console.print(line, markup=False, highlight=False)
        tables.write_csv(read.rows, read.folder / "vortex.csv")
        draw({read.name: read.curves}, runs.make_folder(read.folder / "figures"), "vortex-")
    if len(found) > 1:
        folder = runs.make_folder(Path(out) if out else found[0].folder.parent / "vortex")
        draw({read.name: read.curves for read in found}, folder)
        tables.write_csv([{"run": read.name, **row} for read in found for row in read.rows], folder / "vortex.csv")
    return written


def said_of(curves) -> list[str]:
    """What a ledger says in a few lines: what was left out of it, and the sign change."""
    lines = []
    if few := curves.attrs["few"]:
        lines.append(f"classes with fewer than two images in the probe batch, left out of every sum: {', '.join(few)}")
    every = int(curves.attrs.get("track_every", 1))
    if every > 1:
        lines.append(f"one step in {every} was entered: sums are over those {curves.sizes['step']} steps alone")
    coefficient = curves.coefficient.values
    if curves.attrs["turn"] is None:
        lines.append(f"the correct-class coefficient p_c - 1 + alpha stays negative (at most {coefficient.max():.3g})")
        return lines
    change = int(np.searchsorted(curves.step.values, curves.attrs["turn"]))
    lines.append(
        f"the correct-class coefficient p_c - 1 + alpha turns positive at step {curves.attrs['turn']} (epoch "
        f"{curves.epoch.values[change]:g}) and is so on {np.mean(coefficient[change:] > 0):.0%} of the steps from "
        f"there; at the end {curves.past_flip.values[-1]:.0%} of the images are past p_c > 1 - alpha"
    )
    return lines
