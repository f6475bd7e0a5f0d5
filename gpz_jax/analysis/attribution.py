"""Reading a ledger: what the change of R_c² is made of, whether a prediction of it comes true, and when the sign flips.

NumPy in, numbers out; T steps, K classes. The ledger itself comes from ``vortex.py``.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


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
