"""Tables of the ledger of R_c² that a tracked run keeps: what moved it, and whether the predictions came true."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpz_jax.presentation import number
from gpz_jax.reporting.tables import Column, Sheet

Rows = Sequence[Mapping[str, Any]]


def ledger_sheets(name: str, curves, rows: Rows, *, wide: bool = False) -> list[Sheet]:
    """What moved R_c², over all steps and after the sign change, and whether each prediction of it came true.

    Args:
      name: of the run.
      curves: its ledger, as ``attribution.over_ledger`` returns it.
      rows: what ``attribution.summarise_ledger`` made of it.
      wide: show all columns, not only those that decide.
    """
    split = {"train": "training ", "validation": "validation "}.get(str(curves.attrs.get("split")), "")
    about = f"{curves.attrs.get('images')} {split}images, {curves.sizes['step']} steps"
    shown = [_moved(f"{name}: what moved R_c^2 ({about})", [row for row in rows if row["phase"] == "all"], wide)]
    if after := [row for row in rows if row["phase"] == "after"]:
        shown.append(_moved(f"{name}: after the sign change (from step {after[0]['first_step']})", after, wide))
    shown.append(_agreement(f"{name}: predicted against realised change", rows, wide))
    return shown


def _moved(title: str, rows: Rows, wide: bool) -> Sheet:
    def cells(key: str) -> list[str]:
        return [number(row[key]) for row in rows]

    def percent(term: str) -> list[str]:
        return [_percent(row[f"sum_{term}"], row["sum_realised"]) for row in rows]

    full = any(np.isfinite(row["sum_optimiser"]) for row in rows)
    columns = [
        Column("cut", [row["cut"] for row in rows]),
        Column("R_c^2\nfirst", cells("radius_first")),
        Column("R_c^2\nlast", cells("radius_last")),
        Column("rho\nfirst", cells("rho_first"), wide=True),
        Column("rho\nlast", cells("rho_last"), wide=True),
        Column("realised", cells("sum_realised")),
        Column("net", cells("net"), wide=True),
        Column("falling\n%", [f"{100 * row['falling']:.0f}" for row in rows], wide=True),
    ]
    if full:
        columns += [
            Column("optimiser\n%", percent("optimiser")),
            Column("statistics\n%", percent("statistics")),
            Column("residual\n%", percent("residual")),
            Column("gradient:\ncorrect %", percent("parameter_correct"), wide=True),
            Column("gradient:\nwrong %", percent("parameter_wrong"), wide=True),
        ]
    columns += [
        Column(f"feature:\n{term} %", percent(f"feature_{term}"), wide=full) for term in ("correct", "wrong", "second")
    ]
    told = "%: of the realised change" + (", so that optimiser + statistics + residual = 100" if full else "")
    if wide:
        told += "; falling: share of steps; net: |sum| over sum of |changes|"
        told += "; gradient: along -gamma grad of the two parts of the loss" if full else ""
    if wide or not full:
        told += "; feature: z moved by -gamma J^T(p - q)"
    return Sheet(title, columns, told, wide)


def _percent(part: float, whole: float) -> str:
    return "" if not np.isfinite(part) or not np.isfinite(whole) or whole == 0 else f"{100 * part / whole:.3g}"


#: Prediction -> what of it decides: the paper's account as a whole, of the others how well they follow.
_DECIDING = {
    "feature": ("r", "size", "sign"),
    "gradient": (),
    "optimiser": ("r",),
    "both": ("r",),
}


def _agreement(title: str, rows: Rows, wide: bool) -> Sheet:
    columns = [
        Column("cut", [row["cut"] for row in rows]),
        Column("steps", [row["phase"] for row in rows], words=True),
    ]
    for name, deciding in _DECIDING.items():
        if not any(np.isfinite(row[f"{name}_same_sign"]) for row in rows):
            continue
        for head, key in (("r", "correlation"), ("size", "size"), ("sign", "same_sign")):
            cells = [number(row[f"{name}_{key}"], 2) for row in rows]
            columns.append(Column(f"{name}:\n{head}", cells, wide=head not in deciding))
    told = (
        "r: correlation over the steps; size: root mean square of the predicted over that of the realised; "
        "sign: share of steps with the same sign; both: optimiser + statistics"
    )
    return Sheet(title, columns, told, wide)
