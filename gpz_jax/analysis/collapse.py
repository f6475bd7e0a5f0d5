"""How far classes have collapsed at a cut, and in how many directions z varies: arrays in, one number out.

Host side, float64. z ``(N, D)`` are flattened representations, d_i = z_i - μ_{y_i}, π_c = N_c/N, and
Σ_W = (1/N) Σ_i d_i d_iᵀ, Σ_B = Σ_c π_c (μ_c - μ)(μ_c - μ)ᵀ. No D x D matrix is made: D may be large, N and K are not.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer

from gpz_jax.errors import UserError

#: Penalties that a linear probe tries, as multiples of the Gram matrix's mean eigenvalue.
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)


class _Classes(NamedTuple):
    """Classes that have an image: which of them each image has, its share π, mean, and the deviations d."""

    member: np.ndarray
    share: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


def _classes(z: np.ndarray, labels: np.ndarray) -> _Classes:
    if np.ndim(z) != 2 or np.shape(labels) != (len(z),):
        raise UserError(f"z has shape {np.shape(z)} and labels {np.shape(labels)}: they must be (N, D) and (N,)")
    z = np.asarray(z, np.float64)
    names, member, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise UserError(f"z is of {len(names)} class: give images of two or more")
    mean = np.stack([z[member == c].mean(axis=0) for c in range(len(names))])
    return _Classes(member, counts / len(z), mean, z - mean[member])


def class_distance_variance(z: Float[np.ndarray, "N D"], labels: Integer[np.ndarray, " N"]) -> float:
    """CDNV: the mean over pairs of classes of (R_a² + R_b²)/(2 ||μ_a - μ_b||²).

    Source: Galanti, György and Hutter, "On the role of neural collapse in transfer learning" (ICLR 2022).

    Args:
      z: representations.
      labels: their classes.

    Returns:
      0 where every class is a point; inf where two classes have one mean and one of them varies.

    Raises:
      UserError: shapes that do not fit, or fewer than two classes.

    Example:
      >>> class_distance_variance(np.array([[-1.0], [1.0], [3.0], [5.0]]), np.array([0, 0, 1, 1]))  # (1 + 1)/(2·16)
      0.0625
    """
    found = _classes(z, labels)
    squares = np.sum(found.deviation**2, axis=1)
    radius = np.bincount(found.member, squares) / np.bincount(found.member)
    with np.errstate(divide="ignore", invalid="ignore"):
        pairs = [
            (radius[a] + radius[b]) / (2 * np.sum((found.mean[a] - found.mean[b]) ** 2))
            for a, b in itertools.combinations(range(len(radius)), 2)
        ]
    return float(np.mean(pairs))


def within_class_collapse(z: Float[np.ndarray, "N D"], labels: Integer[np.ndarray, " N"]) -> float:
    """NC1: tr(Σ_W Σ_B†)/K, the within-class scatter in the directions that tell classes apart, in units of theirs.

    Σ_B = Σ_k λ_k v_k v_kᵀ of rank K - 1 at most, its directions from the K x K products of the class means; then
    tr(Σ_W Σ_B†) = Σ_k (1/N) Σ_i (d_i·v_k)²/λ_k. Directions under 1e-10 of the largest λ do not count. Source: Papyan,
    Han and Donoho, "Prevalence of neural collapse" (PNAS 2020).

    Args:
      z: representations.
      labels: their classes; K of them have an image.

    Returns:
      0 where every class is a point; NaN where all classes have one mean.

    Raises:
      UserError: shapes that do not fit, or fewer than two classes.

    Example:
      >>> z = np.array([[-1.0], [1.0], [3.0], [5.0]])
      >>> round(within_class_collapse(z, np.array([0, 0, 1, 1])), 6)  # (1/4)/2
      0.125
    """
    found = _classes(z, labels)
    apart = np.sqrt(found.share)[:, None] * (found.mean - found.share @ found.mean)
    values, vectors = np.linalg.eigh(apart @ apart.T)
    kept = values > 1e-10 * values[-1]
    if not kept.any():
        return float("nan")
    directions = (vectors[:, kept] / np.sqrt(values[kept])).T @ apart  # orthonormal rows
    inside = np.mean((found.deviation @ directions.T) ** 2, axis=0)
    return float(np.sum(inside / values[kept]) / len(found.share))


def participation_ratio(z: Float[np.ndarray, "N D"]) -> float:
    """Effective dimension of z, (tr Σ)²/tr(Σ²) with Σ its covariance: n of n equal variances, 1 of a line.

    From the N x N products of the centred rows, or the D x D ones where these are fewer.

    Returns:
      A number from 1 to min(N - 1, D); NaN where nothing varies.

    Example:
      >>> participation_ratio(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
      2.0
    """
    z = np.asarray(z, np.float64)
    z = z - z.mean(axis=0)
    products = z @ z.T if len(z) < z.shape[1] else z.T @ z
    squares = float(np.sum(products**2))
    return float(np.trace(products) ** 2 / squares) if squares > 0 else float("nan")


def linear_probe_accuracy(
    z: Float[np.ndarray, "N D"],
    labels: Integer[np.ndarray, " N"],
    z_test: Float[np.ndarray, "M D"],
    labels_test: Integer[np.ndarray, " M"],
    penalties: Sequence[float] = PENALTIES,
) -> float:
    """Accuracy of a ridge regression from z to one-hot classes, the largest answer taken.

    The dual form, A = K + r tr(K)/N I with K the N x N products of the centred rows; r is the one of ``penalties`` with
    the least leave-one-out error, mean of (A⁻¹Y)_i²/(A⁻¹)_ii² (Hoerl and Kennard 1970; Allen 1974). Seconds up to a few
    thousand rows.

    Args:
      z: representations to fit on.
      labels: their classes.
      z_test: representations to score on.
      labels_test: their classes.
      penalties: r to choose from, each above 0.

    Raises:
      UserError: shapes that do not fit, or fewer than two classes.

    Example:
      >>> z, labels = np.array([[-1.0], [-2.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
      >>> linear_probe_accuracy(z, labels, np.array([[-3.0], [3.0]]), np.array([0, 1]))
      1.0
    """
    _classes(z, labels)
    names, member = np.unique(labels, return_inverse=True)
    mean = np.mean(np.asarray(z, np.float64), axis=0)
    rows, rows_test = np.asarray(z, np.float64) - mean, np.asarray(z_test, np.float64) - mean
    y = np.eye(len(names))[member]
    y_mean = y.mean(axis=0)
    products = rows @ rows.T
    unit = float(np.trace(products)) / len(rows) or 1.0
    values, vectors = np.linalg.eigh(products)
    turned, best, least = vectors.T @ (y - y_mean), np.zeros_like(y), np.inf
    for r in penalties:
        inverse = 1 / (np.maximum(values, 0) + r * unit)  # of A, in its own directions
        c = vectors @ (inverse[:, None] * turned)
        error = float(np.mean((c / ((vectors**2) @ inverse)[:, None]) ** 2))
        if error < least:
            best, least = c, error
    answers = names[np.argmax(rows_test @ (rows.T @ best) + y_mean, axis=1)]
    return float(np.mean(answers == labels_test))
