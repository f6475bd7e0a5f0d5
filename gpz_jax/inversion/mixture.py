"""A Gaussian for each class: what z can tell at most, streamed, and how much there is to tell of the inputs.

Both are log-determinants of covariances, which few images make too small. Of z that is put right to first order, or
avoided by the variances alone, whose logarithms sum to more; of the inputs it errs on the safe side and is left so.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Integer

from gpz_jax import parallel

#: Images below which a class has no covariance of its own; such classes are taken together.
FEWEST = 3

#: Units of z up to which whole covariances are kept, and numbers that they may have in all.
FULL, NUMBERS = 512, 1 << 24


def components(labels: Integer[np.ndarray, " N"] | None, count: int) -> Int[np.ndarray, " N"]:
    """The component of each input, from 0: its class; classes of fewer than three inputs are one component together.

    Any partition will do for what follows. Without labels there is one component.

    Example:
      >>> components(np.array([4, 4, 4, 9, 7, 7]), 6).tolist(), components(np.array([7, 7, 7, 9]), 4).tolist()
      ([0, 0, 0, 1, 1, 1], [0, 0, 0, 0])
    """
    if labels is None:
        return np.zeros(count, np.int32)
    _, found, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    few = sizes < FEWEST
    if few.any():
        rest = np.flatnonzero(few)[0] if sizes[few].sum() >= FEWEST else int(np.argmax(sizes))
        found = np.where(few[found], rest, found)
    return np.unique(found, return_inverse=True)[1].astype(np.int32).ravel()


class Spread(NamedTuple):
    """Streamed moments of z in each component.

    Attributes:
      images: how many.
      mean: means.
      scatter: sums of squared deviations, ``(K, D)``, or of their products, ``(K, D, D)``.
    """

    images: Float[Array, " K"]
    mean: Float[Array, "K D"]
    scatter: Float[Array, "K D ..."]


def no_spread(classes: int, units: int) -> Spread:
    """Of no images yet; with whole covariances where these are small."""
    full = units <= FULL and classes * units**2 <= NUMBERS
    return Spread(jnp.zeros(classes), jnp.zeros((classes, units)), jnp.zeros((classes, units, *([units] * full))))


def _products(d: Array, component: Array, classes: int, *, full: bool) -> Array:
    if not full:
        return jax.ops.segment_sum(d * d, component, num_segments=classes)
    own = jax.nn.one_hot(component, classes, dtype=d.dtype)[:, :, None] * d[:, None, :]
    return jnp.einsum("nkd,ne->kde", own, d, precision=jax.lax.Precision.HIGHEST)


@jax.jit
def widened(spread: Spread, z: Float[Array, "N D"], component: Int[Array, " N"], counts: Float[Array, " N"]) -> Spread:
    """The spread with a batch more (Chan, Golub and LeVeque 1983); ``counts`` is 1 for an image and 0 for padding."""
    classes = len(spread.images)
    sums = partial(jax.ops.segment_sum, segment_ids=component, num_segments=classes)
    count = sums(counts)
    mean = sums(z * counts[:, None]) / jnp.maximum(count, 1)[:, None]
    d = (z - mean[component]) * counts[:, None]
    total = jnp.maximum(spread.images + count, 1)
    apart = mean - spread.mean
    full = spread.scatter.ndim == 3
    square = apart[:, :, None] * apart[:, None, :] if full else apart * apart
    weight = (spread.images * count / total).reshape(-1, *[1] * (square.ndim - 1))
    return Spread(
        spread.images + count,
        spread.mean + apart * (count / total)[:, None],
        spread.scatter + _products(d, component, classes, full=full) + weight * square,
    )


class Told(NamedTuple):
    """What z tells of the input at most, inside each component.

    Attributes:
      share: π, share of the images ``(K,)``.
      nats: ½ ln det(I + Σ_c/s²) ``(K,)``.
      precision: (Σ_c + s² I)^-1, ``(K, D)`` where only variances are used, else ``(K, D, D)``.
    """

    share: Float[np.ndarray, " K"]
    nats: Float[np.ndarray, " K"]
    precision: Float[np.ndarray, "K D ..."]

    @property
    def inside(self) -> float:
        """I(X; Z' | C) <= Σ π_c nats_c."""
        return float(np.sum(self.share * self.nats))

    @property
    def information(self) -> float:
        """I(X; Z') <= Σ π_c (nats_c - ln π_c), the bound of CEM."""
        return self.inside - float(np.sum(self.share * np.log(self.share)))


def told(spread: Spread, variance: float) -> Told:
    """½ ln det(I + Σ_c/s²) of every component, s² the noise's ``variance``.

    Z' = Z + N(0, s² I) has in component c at most the entropy of a Gaussian of its covariance, and the noise has its
    own whatever Z is: so this bounds I(X; Z' | C = c) for any distribution of Z with that covariance. Of 3 D
    images or fewer the whole covariance is not known well enough; there Σ_j ½ ln(1 + v_j/s²), of the variances alone,
    stands in its place, which is never less (Hadamard). A covariance of n images makes the logarithm too small, for a
    Gaussian by (tr(M)² + tr(M²))/(4 (n - 1)) to first order, M = (Σ + s² I)^-1 Σ (of a variance: M²/(2 (n - 1))), which
    is added.

    Source: Xia et al., "Theoretical insights in model inversion robustness and conditional entropy maximization for
    collaborative inference systems" (CVPR 2025), their Gaussian mixture with the classes for components.

    Example:
      >>> z = jnp.array([[0.0], [2.0], [4.0]])
      >>> found = told(widened(no_spread(1, 1), z, jnp.zeros(3, jnp.int32), jnp.ones(3)), 4.0)
      >>> round(found.information, 4), found.precision.tolist()  # ½ ln 2, and 1/16 for three images
      (0.4091, [[[0.125]]])
    """
    count, scatter = (np.asarray(array, np.float64) for array in parallel.fetch((spread.images, spread.scatter)))
    free, units = np.maximum(count - 1, 1), spread.mean.shape[1]
    nats, precision = np.zeros(len(count)), np.zeros_like(scatter)
    for c, k in enumerate(free):
        full = scatter.ndim == 3
        values = np.diagonal(scatter[c]) / k if full else scatter[c] / k
        axes = np.eye(units) if full else None
        whole = full and k >= 3 * units
        if whole:
            values, axes = np.linalg.eigh(scatter[c] / k)
        values = np.maximum(values, 0)
        m = values / (values + variance)
        short = (np.sum(m) ** 2 + np.sum(m**2)) / (4 * k) if whole else np.sum(m**2) / (2 * k)
        nats[c] = np.sum(np.log1p(values / variance)) / 2 + short
        inverse = 1 / (values + variance)
        precision[c] = inverse if axes is None else (axes * inverse) @ axes.T
    return Told(count / count.sum(), nats, precision)


@jax.jit
def lengths(
    spread: Spread, precision: Float[Array, "K D ..."], z: Float[Array, "N D"], component: Int[Array, " N"]
) -> Float[Array, " N"]:
    """½ d^T (Σ_c + s² I)^-1 d of each image, d = z - μ_c: what it adds to the bound, but for a constant."""
    d = z - spread.mean[component]
    if precision.ndim == 2:
        return jnp.sum(d * d * precision[component], axis=1) / 2
    each = jnp.einsum("nd,kde,ne->nk", d, precision, d, precision=jax.lax.Precision.HIGHEST)
    return jnp.take_along_axis(each, component[:, None], axis=1)[:, 0] / 2


def standard_error(values: Float[np.ndarray, " N"], component: Int[np.ndarray, " N"]) -> float:
    """Of a mean over images whose components are given, from the spread inside each: sqrt(Σ π_c² var_c / n_c)."""
    found = 0.0
    for c in np.unique(component):
        own = np.asarray(values, np.float64)[component == c]
        found += (len(own) / len(values)) ** 2 * np.var(own, ddof=1) / len(own)
    return math.sqrt(found)


class Inputs(NamedTuple):
    """Eigenvalues of the inputs' covariance in each component; those that are not listed are 0.

    Attributes:
      share: π ``(K,)``.
      values: one array a component, of at most d numbers.
      size: d.
    """

    share: Float[np.ndarray, " K"]
    values: tuple[Float[np.ndarray, " _"], ...]
    size: int

    def entropy(self, blur: float) -> float:
        """h(X + N(0, blur² I) | C) in nats if every component is Gaussian.

        Σ π_c ½ Σ_j ln(2πe (λ_cj + blur²)). A covariance of few images makes it too small, shapes that are no Gaussian
        too large. -inf for a component with a direction in which nothing varies, without blur.
        """
        found = 0.0
        with np.errstate(divide="ignore"):
            for share, values in zip(self.share, self.values, strict=True):
                rest = self.size - len(values)
                still = rest * np.log(np.float64(blur**2)) if rest else 0.0
                found += share / 2 * float(np.sum(np.log(values + blur**2)) + still)
        return float(found) + self.size / 2 * math.log(2 * math.pi * math.e)


def inputs_spread(
    x: Float[np.ndarray, "N ..."], component: Int[np.ndarray, " N"], share: Float[np.ndarray, " K"]
) -> Inputs:
    """The :class:`Inputs` of images; ``share`` may be of more images than these. One class at a time, in float64.

    Example:
      >>> found = inputs_spread(np.array([[0.0, 1.0], [2.0, 1.0]]), np.array([0, 0]), np.ones(1))
      >>> round(found.entropy(1.0), 4)  # ln(2πe) + ½ ln 2
      3.1845
    """
    x = np.asarray(x).reshape(len(x), -1)
    values = []
    for c in range(len(share)):
        own = x[component == c].astype(np.float64)
        if not len(own):
            values.append(np.zeros(0))
            continue
        own -= own.mean(axis=0)
        products = own @ own.T if len(own) < own.shape[1] else own.T @ own
        values.append(np.maximum(np.linalg.eigvalsh(products / len(own)), 0))
    return Inputs(np.asarray(share), tuple(values), x.shape[1])


def error_of_entropy(spread: Inputs, inside: float, blur: float) -> float:
    """A mean squared error per element that no attacker beats: the largest over b >= ``blur`` of

    exp(2 (h(X + N(0, b² I) | C) - I)/d) / (2πe) - b².

    An attacker of X is one of X + N(0, b² I) too, with b² more error, and knows no more of it than I; of all errors of
    one entropy the Gaussian's is the smallest. Every b gives a bound, so the largest is one.

    Example:
      >>> found = Inputs(np.ones(1), (np.array([0.5, 0.5]),), 2)
      >>> round(error_of_entropy(found, 0.0, 0.0), 3)  # nothing is told: the variance itself
      0.5
    """
    widest = max((float(np.max(values, initial=0)) for values in spread.values), default=0.0)
    blurs = np.sqrt(np.geomspace(max(blur**2, 1e-9), max(10 * widest, 1e-6), 300))
    best = 0.0
    for b in (blur, *blurs[blurs > blur]):
        nats = 2 / spread.size * (spread.entropy(float(b)) - inside) - math.log(2 * math.pi * math.e)
        best = max(best, math.exp(nats) - float(b) ** 2)
    return best
