"""Read the ledger of one or several runs: what moved R_c², and whether the predictions came true. Needs no device."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from gpz_jax import runs
from gpz_jax.analysis.attribution import over_ledger, summarise_ledger
from gpz_jax.atomic import make_folder
from gpz_jax.errors import UserError, did_you_mean
from gpz_jax.reporting import ledger_figures, ledger_tables, tables


class Read(NamedTuple):
    """One run's ledger, read.

    Attributes:
      name: of the run.
      folder: of the run.
      curves: the ledger without its classes (``attribution.over_ledger``), an ``xarray.Dataset``.
      rows: what it comes to (``attribution.summarise_ledger``).
    """

    name: str
    folder: Path
    curves: Any
    rows: list[dict[str, Any]]


def read_ledgers(folders: Sequence[str]) -> list[Read]:
    """Open the ledgers of runs, of folders that hold the runs of a sweep, or of trackers (``Tracker.append_to``).

    Raises:
      UserError: no folder given; one that is no run or holds no ledger; ledgers of different cuts (says which).
    """
    if not folders:
        raise UserError("a run folder is missing, such as: python -m gpz_jax.vortex runs/NAME")
    paths = [path for given in folders for path in _runs_in(Path(given))]
    for path in paths:
        if paths.count(path) > 1:
            raise UserError(f"run {path} is given twice")
    found = [_read(folder) for folder in paths]
    _check_cuts(found)
    return found


def _runs_in(folder: Path) -> list[Path]:
    inside = sorted(file.parent for file in folder.glob("*/config.json")) if folder.is_dir() else []
    return inside if inside and not (folder / "config.json").exists() else [folder]


def _read(folder: Path) -> Read:
    names: tuple[str, ...] = ()
    if (folder / "config.json").exists() or not runs.steps_folder(folder).exists():  # a tracker's has no config.json
        names = runs.open_run(folder).class_names or ()
    record = runs.read_steps(folder)
    if not record.sizes["step"]:
        raise UserError(f"{folder} holds a ledger without a whole step yet; continue the run with --resume")
    if not {"coefficient", "feature_correct"} <= set(record):
        raise UserError(
            f"{folder} was tracked without alpha or step size, so that no prediction is in it; "
            "its readings are there for xarray: gpz_jax.runs.read_steps"
        )
    curves = over_ledger(record, names)
    return Read(folder.absolute().name, folder.absolute(), curves, summarise_ledger(curves))


def _check_cuts(found: Sequence[Read]) -> None:
    first = found[0]
    ours = [str(cut) for cut in first.curves.cut.values]
    for other in found[1:]:
        theirs = [str(cut) for cut in other.curves.cut.values]
        if ours == theirs:
            continue
        differ = [f"only {first.name} has {name}" for name in ours if name not in theirs]
        differ += [f"only {other.name} has {name}" for name in theirs if name not in ours]
        shown = "; ".join(differ[:6]) + (f"; and {len(differ) - 6} more" if len(differ) > 6 else "")
        raise UserError(f"{first.name} and {other.name} have different cuts and cannot be compared: {shown}")


def report_ledgers(
    found: Sequence[Read],
    console: Console,
    *,
    cuts: Sequence[str] = (),
    out: str | None = None,
    wide: bool = False,
) -> list[Path]:
    """Print the tables of every ledger, write them as CSV, draw the figures; several runs are overlaid as well.

    Args:
      found: what :func:`read_ledgers` returned.
      console: where to print.
      cuts: those whose terms are drawn; default: up to six, evenly spread, the last among them.
      out: folder for what compares several runs; default: ``vortex`` beside the first run.
      wide: print all columns, not only those that decide.

    Returns:
      The figures.

    Raises:
      UserError: a cut that the runs do not have.
    """
    chosen = _cuts_to_draw([str(cut) for cut in found[0].curves.cut.values], cuts)
    written = []
    for read in found:
        for sheet in ledger_tables.ledger_sheets(read.name, read.curves, read.rows, wide=wide):
            console.print(sheet)
        for line in said_of(read.curves):
            console.print(line, markup=False, highlight=False)
        tables.write_csv(read.rows, read.folder / "vortex.csv")
        written += _draw({read.name: read.curves}, chosen, make_folder(read.folder / "figures"), "vortex-")
    if len(found) > 1:
        folder = make_folder(Path(out) if out else found[0].folder.parent / "vortex")
        written += _draw({read.name: read.curves for read in found}, chosen, folder)
        tables.write_csv([{"run": read.name, **row} for read in found for row in read.rows], folder / "vortex.csv")
    return written


def _cuts_to_draw(known: Sequence[str], asked: Sequence[str]) -> list[str]:
    for cut in asked:
        if cut not in known:
            raise UserError(f"unknown cut {cut!r}{did_you_mean(cut, known)}")
    spread = np.unique(np.linspace(0, len(known) - 1, min(6, len(known))).astype(int))
    return list(asked) or [known[int(i)] for i in spread]


def _draw(curves: dict[str, Any], cuts: Sequence[str], folder: Path, prefix: str = "") -> list[Path]:
    files = [folder / f"{prefix}{name}.png" for name in ("overview", "terms", "interference")]
    ledger_figures.overview_figure(curves, files[0])
    ledger_figures.terms_figure(curves, cuts, files[1])
    ledger_figures.interference_figure(curves, files[2])
    return files


def said_of(curves) -> list[str]:
    """What a ledger says in a few lines: what was left out of it, and the sign change."""
    lines = []
    if few := curves.attrs["few"]:
        lines.append(f"classes with fewer than two images in the probe batch, left out of every sum: {', '.join(few)}")
    every = int(curves.attrs.get("track_every", 1))
    if every > 1:
        lines.append(f"one step in {every} is in the ledger: sums are over those {curves.sizes['step']} steps alone")
    coefficient, turn = curves.coefficient.values, curves.attrs["turn"]
    if turn is None:
        lines.append(f"the correct-class coefficient p_c - 1 + alpha stays negative (at most {coefficient.max():.3g})")
        return lines
    change = int(np.searchsorted(curves.step.values, turn))
    epoch = f" (epoch {curves.epoch.values[change]:g})" if "epoch" in curves else ""
    lines.append(
        f"the correct-class coefficient p_c - 1 + alpha turns positive at step {turn}{epoch} and is so on "
        f"{np.mean(coefficient[change:] > 0):.0%} of the steps from there; at the end "
        f"{curves.past_flip.values[-1]:.0%} of the images are past p_c > 1 - alpha"
    )
    return lines
