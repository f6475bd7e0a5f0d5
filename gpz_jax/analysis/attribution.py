"""Reading a ledger: what the change of R_c² is made of, whether a prediction of it comes true, and when the sign flips.

NumPy in, numbers out; T steps, K classes. The rows of a ledger come from ``training/step_row.py``.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

#: Terms of a ledger, by the account that they belong to.
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


def over_classes(values: Float[np.ndarray, "... K"], counts: Int[np.ndarray, " K"]) -> Float[np.ndarray, "..."]:
    """Σ_c (N_c/N) values_c, images weighing the same; classes of fewer than two images, without a radius, left out.

    Example:
      >>> over_classes(np.array([1.0, 4.0, np.nan]), np.array([1 + 1, 4, 1])).item()
      3.0
    """
    known = counts >= 2
    return np.asarray(np.asarray(values, np.float64)[..., known] @ (counts[known] / counts[known].sum()))


def sign_change(coefficient: Float[np.ndarray, " T"]) -> int | None:
    """Index of the first step at which the mean correct-class coefficient p_c - q_c is positive; None if it never is.

    Below it the class's own logit is pushed up, above it down: the correct-class term of ΔR_c² has changed its sign.

    Example:
      >>> sign_change(np.array([-0.6, -0.1, 0.02, -0.01])), sign_change(np.array([-0.9, -0.1]))
      (2, None)
    """
    positive = np.flatnonzero(np.asarray(coefficient) > 0)
    return int(positive[0]) if len(positive) else None


class Agreement(NamedTuple):
    """How a predicted series of changes compares with the realised one.

    Attributes:
      correlation: Pearson's, over the steps; NaN where one of them does not vary, and for fewer than three steps, of
        which any two series agree or disagree wholly.
      size: root mean square of the predicted over that of the realised: 1 if they are as large.
      same_sign: share of steps on which both have the same sign.
    """

    correlation: float
    size: float
    same_sign: float


def agreement(predicted: Float[np.ndarray, " T"], realised: Float[np.ndarray, " T"]) -> Agreement:
    """Compare predicted and realised changes step by step; steps on which either is not finite are left out.

    Example:
      >>> found = agreement(np.array([1.0, 2.0, -1.0]), np.array([2.0, 4.0, -2.0]))
      >>> [round(number, 6) for number in found]
      [1.0, 0.5, 1.0]
    """
    finite = np.isfinite(predicted) & np.isfinite(realised)
    a, b = np.asarray(predicted, np.float64)[finite], np.asarray(realised, np.float64)[finite]
    if not len(a):
        return Agreement(np.nan, np.nan, np.nan)
    # Scaled first: reverse smoothing lets radii grow until their squares overflow.
    top_a, top_b = np.abs(a).max(), np.abs(b).max()
    if top_a == 0 or top_b == 0:
        return Agreement(np.nan, np.nan if top_b == 0 else 0.0, float(np.mean(np.sign(a) == np.sign(b))))
    a, b = a / top_a, b / top_b
    da, db = a - a.mean(), b - b.mean()
    norm = np.sqrt(np.sum(da**2) * np.sum(db**2))
    correlation = float(np.sum(da * db) / norm) if norm > 0 and len(a) > 2 else np.nan
    size = float(np.sqrt(np.mean(a**2) / np.mean(b**2)) * (top_a / top_b))
    return Agreement(correlation, size, float(np.mean(np.sign(a) == np.sign(b))))


def over_ledger(record, class_names: Sequence[str] = ()):
    """A ledger with every variable averaged over the classes, images weighing the same; the interference as it is.

    Args:
      record: what ``runs.read_steps`` or a tracker's ``to_xarray`` returns.
      class_names: of classes 0 to K - 1, where they have names; kept as an attribute.

    Returns:
      An ``xarray.Dataset`` of dims step and cut; its attribute ``turn`` is the first step at which the correct-class
      coefficient is positive (None: never, or not kept), its attribute ``few`` the classes with fewer than two images,
      left out.
    """
    counts = record["count"].values
    curves = record.copy()
    for name, values in record.data_vars.items():
        if "class" in values.dims and name != "interference":
            dims = tuple(dim for dim in values.dims if dim != "class")
            curves[name] = (dims, over_classes(values.transpose(*dims, "class").values, counts), values.attrs)
    change = sign_change(curves.coefficient.values) if "coefficient" in curves else None
    turn = None if change is None else int(record.step.values[change])
    names = list(class_names) or [str(c) for c in range(len(counts))]
    few = [f"{names[c]} ({n})" for c, n in enumerate(counts) if n < 2]
    return curves.assign_attrs(turn=turn, few=few, class_names=list(class_names))


def summarise_ledger(curves, phases: Mapping[str, slice] | None = None) -> list[dict[str, Any]]:
    """What a ledger comes to: a row for every cut and phase.

    Args:
      curves: what :func:`over_ledger` returns.
      phases: name -> the rows of the ledger that it spans; default: all, and those before and after the coefficient's
        change of sign.

    Returns:
      Rows with the sums over the phase's steps of every term (``sum_…``, squared units of z), R_c² and ρ at its ends,
      ``net`` = |Σ realised| / Σ |realised|, ``falling`` the share of steps on which R_c² fell, and the agreement of
      each of :data:`PREDICTIONS` with the realised change. Terms that were not kept are NaN.
    """
    phases = _phases(curves) if phases is None else phases
    names = (*FEATURE, *GRADIENT, *STEP, "realised", "radius")
    missing = np.full((curves.sizes["step"], curves.sizes["cut"]), np.nan)
    terms = {name: curves[name].values if name in curves else missing for name in names}  # (T, L) each
    rows = []
    for i, cut in enumerate(curves.cut.values):
        for phase, part in phases.items():
            if part.start == part.stop:
                continue
            about = {
                "cut": str(cut),
                "phase": phase,
                "steps": part.stop - part.start,
                "first_step": int(curves.step.values[part.start]),
                "rho_first": float(curves.rho.values[part.start, i]),
                "rho_last": float(curves.rho.values[part.stop - 1, i]),
            }
            rows.append({**about, **_over_steps({name: values[part, i] for name, values in terms.items()})})
    return rows


def _phases(curves) -> dict[str, slice]:
    steps = curves.sizes["step"]
    if (turn := curves.attrs["turn"]) is None:
        return {"all": slice(0, steps)}
    change = int(np.searchsorted(curves.step.values, turn))
    return {"all": slice(0, steps), "before": slice(0, change), "after": slice(change, steps)}


def _over_steps(at: Mapping[str, Float[np.ndarray, " T"]]) -> dict[str, float]:
    """What the terms of one cut come to over the steps of a phase."""
    realised = at["realised"]
    moved = float(np.abs(realised).sum())
    row = {
        "radius_first": at["radius"][0],
        "radius_last": at["radius"][-1] + realised[-1],
        "net": float(abs(realised.sum())) / moved if moved > 0 else math.nan,
        "falling": float(np.mean(realised < 0)),
    }
    row |= {f"sum_{name}": float(values.sum()) for name, values in at.items() if name != "radius"}
    for name, parts in PREDICTIONS.items():
        found = agreement(np.sum([at[term] for term in parts], axis=0), realised)
        row |= {f"{name}_{key}": value for key, value in found._asdict().items()}
    return row
