"""Upper bounds on the entropy of what is sent, in nats, and what they become behind a real quantiser.

A Gaussian has the largest entropy of all distributions with its variance, so two variances bound h(Z): that
of all samples (feature level) and that inside each class (decision level). Host side: numbers and NumPy
arrays.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Num

from gpz_jax.errors import UserError, did_you_mean

Scalar = Num[ArrayLike, ""]  # a Python number, a NumPy scalar or a 0-d array


def _gaussian_entropy(scatter, dimension: int):
    """D/2 ln(2πe · scatter/D), elementwise; the logarithms are added so that no product can overflow."""
    scatter = np.asarray(scatter, np.float64)
    with np.errstate(divide="ignore"):  # ln 0 = -inf is the right answer
        return dimension / 2 * (math.log(2 * math.pi * math.e) + np.log(scatter) - math.log(dimension))


def feature_bound(total_variance: Scalar, dimension: int) -> float:
    """Feature level: h(Z) ≤ D/2 ln(2πe σ²) with σ² = (W + B)/D, the total variance per coordinate.

    Attained by the isotropic Gaussian. Zero variance gives -inf.

    Args:
      total_variance: W + B, the mean squared distance to the overall mean, summed over coordinates.
      dimension: D.

    Returns:
      The bound in nats. Source: the paper, feature-level entropy bound.

    Example:
      >>> round(feature_bound(3.0, 3), 4)  # unit variance: 3/2 ln(2πe)
      4.2568
    """
    return float(_gaussian_entropy(total_variance, dimension))


def class_bound(radius: Num[ArrayLike, " K"], dimension: int) -> Float[np.ndarray, " K"]:
    """Inside each class: h(Z | Y = c) ≤ D/2 ln(2πe R_c²/D).

    Args:
      radius: (K,) R_c², plug-in or unbiased. Zero gives -inf; NaN (a class without a radius) stays NaN.
      dimension: D.

    Returns:
      (K,) bounds in nats. Source: the paper, decision-level entropy bound.

    Example:
      >>> class_bound(np.array([2.0, 0.0]), 2).round(4)
      array([2.8379,   -inf])
    """
    return _gaussian_entropy(radius, dimension)


def label_entropy(counts: Num[ArrayLike, " K"]) -> float:
    """H(Y) = -Σ_c P(c) ln P(c) in nats, P(c) = N_c/N from the (K,) class counts.

    Raises:
      UserError: without any samples.

    Example:
      >>> round(label_entropy(np.array([5, 5, 0])), 4)  # ln 2
      0.6931
    """
    fraction = _fractions(counts)
    fraction = fraction[fraction > 0]
    return float(-np.sum(fraction * np.log(fraction))) + 0.0  # + 0.0 turns -0.0 into 0.0


def decision_bound(radius: Num[ArrayLike, " K"], counts: Num[ArrayLike, " K"], dimension: int) -> float:
    """Decision level: h(Z) ≤ Σ_c P(c) D/2 ln(2πe R_c²/D) + H(Y), P(c) = N_c/N.

    Attained by isotropic Gaussian classes that do not overlap. A class with count 0 has weight 0 and is left
    out whatever its radius. Any other class without a radius (NaN: a single sample) makes the bound NaN,
    since nothing is known about its part of the entropy. R_c² = 0 gives -inf.

    Args:
      radius: (K,) R_c².
      counts: (K,) samples per class.
      dimension: D.

    Returns:
      The bound in nats. Source: the paper, decision-level entropy bound.

    Raises:
      UserError: without any samples.

    Example:
      >>> round(decision_bound(np.array([2.0, 2.0]), np.array([50, 50]), 2), 4)  # 2.8379 + ln 2
      3.531
    """
    return _mean_over_classes(class_bound(radius, dimension), counts) + label_entropy(counts)


def _fractions(counts) -> np.ndarray:
    counts = np.asarray(counts, np.float64)
    if not counts.sum() > 0:
        raise UserError("the class counts sum to 0: give at least one sample")
    return counts / counts.sum()


def _mean_over_classes(values: np.ndarray, counts) -> float:
    fraction = _fractions(counts)
    seen = fraction > 0
    return float(np.sum(fraction[seen] * values[seen]))


@dataclass(frozen=True)
class Quantiser:
    """How a number is sent: ``step(deviation, rms)`` is its resolution Δ, ``levels`` the number of codes.

    ``deviation`` is the standard deviation σ of a coordinate, ``rms`` its root mean square (mean included).
    """

    name: str
    step: Callable[[Scalar, Scalar], float]
    levels: int


def _uint8_step(deviation: Scalar, rms: Scalar) -> float:
    return float(8 * np.asarray(deviation, np.float64) / 255)


def _float_step(fraction_bits: int) -> Callable[[Scalar, Scalar], float]:
    def step(deviation: Scalar, rms: Scalar) -> float:
        # Below 2^-126 numbers are subnormal: their spacing no longer shrinks.
        exponent = np.floor(np.log2(np.maximum(np.asarray(rms, np.float64), 2.0**-126)))
        return float(np.exp2(exponent - fraction_bits))

    return step


_QUANTISERS = {
    "uint8": Quantiser("uint8", _uint8_step, 2**8),
    "bfloat16": Quantiser("bfloat16", _float_step(7), 2**16),
    "float32": Quantiser("float32", _float_step(23), 2**32),
}


def quantiser(name: str) -> Quantiser:
    """Look up the quantiser behind a payload type: ``uint8``, ``bfloat16`` or ``float32``.

    - ``uint8``: uniform over the mean ± 4 standard deviations, Δ = 8σ/255, 256 levels.
    - ``bfloat16``: Δ = 2^(⌊log2 rms⌋ - 7), one unit in the last place at the r.m.s. value, 2^16 levels.
    - ``float32``: Δ = 2^(⌊log2 rms⌋ - 23), likewise, 2^32 levels.

    Floats are finer below their r.m.s. value: with one Δ for all, the entropy of a centred Gaussian comes out
    low by about E ln(rms/|z|) = 0.64 nats per coordinate (of about 17 for float32, 6 for bfloat16).

    Raises:
      UserError: for any other name.

    Example:
      >>> quantiser("uint8").step(1.0, 5.0) == 8 / 255, quantiser("bfloat16").step(1.0, 5.0) == 4 / 128
      (True, True)
    """
    if name not in _QUANTISERS:
        raise UserError(f"unknown quantiser {name!r}{did_you_mean(name, _QUANTISERS)}")
    return _QUANTISERS[name]


def quantised_entropy(bound: Scalar, dimension: int, step: Scalar, levels: int) -> float:
    """Entropy of the quantised representation, H(Z_Δ) ≈ h(Z) - D ln Δ, kept within [0, D ln levels].

    So κ_Δ = -D ln Δ in the paper's H(X | Z) ≥ H(X) - h(Z) - κ_Δ. The approximation is the high-resolution
    one: for a Gaussian it is low by Δ²/(24σ²), 0.04 nats per coordinate at σ = Δ, and means nothing far below
    that.

    Args:
      bound: h(Z) or a bound on it, nats. -inf (nothing varies) gives 0, NaN stays NaN.
      dimension: D.
      step: Δ, in the units of Z.
      levels: codes per coordinate.

    Returns:
      Nats.

    Example:
      >>> round(quantised_entropy(feature_bound(1.0, 1), 1, 8 / 255, 256), 4)  # 1.4189 + ln(255/8)
      4.8808
    """
    most = dimension * math.log(levels)
    bound, step = float(np.asarray(bound)), float(np.asarray(step))
    if bound == -math.inf:
        return 0.0
    with np.errstate(divide="ignore"):
        return float(np.clip(bound - dimension * np.log(step), 0.0, most))


class InformationCeiling(NamedTuple):
    """Bounds on H(Z_Δ) in nats: from the total variance, from the radii, and the smaller of the two."""

    feature: float
    decision: float
    ceiling: float


def information_ceiling(
    total_variance: Scalar,
    radius: Num[ArrayLike, " K"],
    counts: Num[ArrayLike, " K"],
    dimension: int,
    *,
    step: Scalar,
    levels: int,
) -> InformationCeiling:
    """Bound how far H(X | Z_Δ) can have dropped below H(X) through this cut: H(X | Z_Δ) ≥ H(X) - H(Z_Δ).

    feature  = :func:`quantised_entropy` of :func:`feature_bound`
    decision = Σ_c P(c) quantised_entropy(class_bound_c) + H(Y), at most D ln levels
    ceiling  = the smaller

    The decision term is :func:`decision_bound` quantised, but class by class: a class tighter than Δ takes 0
    nats, never fewer, and the label itself still goes through. So fully collapsed classes leave H(Y), not 0.

    Args:
      total_variance: W + B, as in :func:`feature_bound`.
      radius: (K,) R_c². NaN as in :func:`decision_bound`.
      counts: (K,) samples per class.
      dimension: D.
      step: Δ, see :func:`quantiser`.
      levels: codes per coordinate.

    Returns:
      Three numbers in nats. They bound what any attacker can learn, on average, from what was sent.

    Raises:
      UserError: without any samples.

    Example:
      >>> collapsed = information_ceiling(8.0, np.zeros(4), np.full(4, 25), 2, step=0.01, levels=256)
      >>> round(collapsed.ceiling, 4)  # ln 4: the label
      1.3863
    """
    feature = quantised_entropy(feature_bound(total_variance, dimension), dimension, step, levels)
    inside = [quantised_entropy(bound, dimension, step, levels) for bound in class_bound(radius, dimension)]
    decision = _mean_over_classes(np.array(inside), counts) + label_entropy(counts)
    decision = float(np.minimum(decision, dimension * math.log(levels)))
    return InformationCeiling(feature, decision, float(np.minimum(feature, decision)))  # np.minimum keeps NaN
