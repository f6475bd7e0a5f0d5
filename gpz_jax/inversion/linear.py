"""Ridge regression from z to pixels, in closed form: what the lowest honest attack is made of.

With Z (N, D) and X (N, P) the attacker's representations and pixels less their means, and λ the penalty:

  primal, D ≤ N:   C = (ZᵀZ + λ I)⁻¹ Zᵀ X          x_hat(z) = x_mean + (z - z_mean) C
  dual,   D > N:   C = (Z Zᵀ + λ I)⁻¹ X             x_hat(z) = x_mean + (z - z_mean) Zᵀ C

Both are the same map, the least of ||X - Z W||² + λ ||W||² (Hoerl and Kennard 1970; the dual: Saunders, Gammerman and
Vovk 1998), and equal scikit-learn's ``Ridge(alpha=λ)``. No training, no seed: what it rebuilds, anybody can.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float32, Float64

from gpz_jax import parallel
from gpz_jax.errors import UserError
from gpz_jax.inversion.dealt_rows import Dealt

#: N rows of D numbers: an array, or dealt to devices.
Rows = Array | np.ndarray | Dealt

#: Largest order of a Gram matrix: 8192² numbers are 0.5 GB in float64, and their Cholesky factor a minute on a CPU.
MOST = 8192

#: Penalties that :func:`fit_best` tries, as multiples of the Gram matrix's mean eigenvalue.
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)

#: Rows that a device multiplies at a time: what is centred exists twice for these alone.
BLOCK = 1024


class Ridge(NamedTuple):
    """A fitted map from z (…, D) to pixels; a pytree, so it passes through jit and into files as it is.

    Attributes:
      z_mean: ``(D,)``.
      x_mean: ``(P,)``.
      basis: the centred training rows ``(M, D)`` in the dual form; None in the primal.
      coefficients: C, ``(M, P)`` in the dual form, ``(D, P)`` in the primal.
    """

    z_mean: Float32[Array, " D"]
    x_mean: Float32[Array, " P"]
    basis: Float32[Array, "M D"] | None
    coefficients: Float32[Array, "M P"]

    def __call__(self, z: Float[Array | np.ndarray, "N D"]) -> Float32[Array, "N P"]:
        """x_hat, not clipped: linear in z."""
        return _mapped(self, z, clip=False)

    def pixels(self, z: Float[Array | np.ndarray, "N D"]) -> Float32[Array, "N P"]:
        """x_hat clipped to [0, 1], where pixels lie."""
        return _mapped(self, z, clip=True)


@partial(jax.jit, static_argnames="clip")
def _mapped(ridge, z, *, clip):
    # HIGHEST: accelerators would otherwise keep 8 or 11 bits of what is small against what cancels.
    dot = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    centred = z.astype(jnp.float32) - ridge.z_mean
    basis, coefficients = ridge.basis, ridge.coefficients
    found = ridge.x_mean + dot(centred if basis is None else dot(centred, basis.T), coefficients)
    return jnp.clip(found, 0, 1) if clip else found


class _Normal(NamedTuple):
    """The normal equations: (gram + λ I) C = targets, host float64 but for what the map keeps."""

    z_mean: Array
    x_mean: Array
    basis: Array | None
    gram: np.ndarray
    targets: np.ndarray
    #: Puts the coefficients where z is.
    place: Callable[[Array], Array]

    def solve(self, penalty: float) -> Ridge:
        """Raises ``LinAlgError`` where the matrix is not positive definite in floating point."""
        c = self._solved(penalty, self.targets)
        return Ridge(self.z_mean, self.x_mean, self.basis, self.place(jnp.asarray(np.asarray(c, np.float32))))

    def answers(self, penalty: float, rows: Float64[np.ndarray, "S M"]) -> Float64[np.ndarray, "S P"]:
        """x_hat of a few z, without the whole map: ``rows`` are these as :meth:`against` has them."""
        return self._solved(penalty, rows.T).T @ self.targets + np.asarray(parallel.fetch(self.x_mean), np.float64)

    def against(self, z: Array, counts: Array | None) -> Array:
        """A block of z, centred, in the primal form; in the dual its products with the basis."""
        centred = _counted(z.astype(jnp.float32) - self.z_mean, counts)
        return centred if self.basis is None else _products(centred, self.basis)

    def _solved(self, penalty: float, right: np.ndarray) -> np.ndarray:
        import scipy.linalg  # here, for importing it takes longer than all of this package

        matrix = self.gram.copy()
        matrix[np.diag_indices_from(matrix)] += penalty
        factor = scipy.linalg.cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
        return scipy.linalg.cho_solve(factor, right, check_finite=False)


def fit(
    z: Float[Array | np.ndarray, "N D"] | Dealt, x: Float[Array | np.ndarray, "N P"] | Dealt, penalty: float
) -> Ridge:
    """The :class:`Ridge` of penalty λ. Where D > 8192, only the first 8192 rows are used.

    The Gram matrix is made on the device in float32 and solved on the host in float64: the condition is squared in it,
    and a float32 factor would lose what the penalty is to decide.

    Args:
      z: representations, flattened, ``(N, D)``; dealt to devices, each sums over its own.
      x: pixels in [0, 1], flattened, ``(N, P)``, dealt as z is.
      penalty: λ, in z's unit squared times images; scikit-learn's ``alpha``.

    Raises:
      UserError: fewer than 2 images, values that are not finite, a penalty below 0, or too small a one to tell apart
        the directions of z.

    Example:
      >>> ridge = fit(jnp.array([[0.0], [2.0]]), jnp.array([[0.2], [0.6]]), 0.0)
      >>> [round(float(pixel), 4) for pixel in ridge(jnp.array([[1.0], [3.0]]))[:, 0]]
      [0.4, 0.8]
    """
    if not 0 <= penalty < np.inf:
        raise UserError(f"penalty {penalty:g}: give 0 or more")
    try:
        return _normal(z, x).solve(penalty)
    except np.linalg.LinAlgError:
        raise UserError(
            f"penalty {penalty:g} is too small: z has directions in which the images do not differ; raise it"
        ) from None


def fit_best(
    z: Float[Array | np.ndarray, "N D"] | Dealt,
    x: Float[Array | np.ndarray, "N P"] | Dealt,
    z_selection: Float[Array | np.ndarray, "S D"] | Dealt,
    x_selection: Float[Array | np.ndarray, "S P"] | Dealt,
    penalties: Sequence[float] = PENALTIES,
    *,
    clip: bool = True,
) -> tuple[Ridge, float, dict[float, float]]:
    """The :class:`Ridge` whose (clipped) pixels fit the selection images best; the Gram matrix is made once.

    λ = r trace(Gram)/order for each r of ``penalties``: relative to the mean eigenvalue, so that rescaling z changes
    nothing. An r whose matrix is singular in floating point scores inf. Where z never varies every r gives the mean
    image.

    Args:
      z: representations to fit, flattened; see :func:`fit`.
      x: their pixels in [0, 1], flattened.
      z_selection: representations to choose r on.
      x_selection: their pixels.
      penalties: r to try.
      clip: whether x are pixels, which lie in [0, 1]; False for other numbers.

    Returns:
      The map, its r, and the per-element mean squared error on the selection images by r.

    Raises:
      UserError: fewer than 2 images or no selection images, values that are not finite, no r or one that is not above
        0, or none that can be solved.

    Example:
      >>> z = jnp.arange(8.0)[:, None]
      >>> ridge, r, errors = fit_best(z[::2], z[::2] / 8, z[1::2], z[1::2] / 8)
      >>> r, [round(error, 3) for error in errors.values()]
      (0.0001, [0.0, 0.0, 0.0, 0.001, 0.023, 0.077])
    """
    if not penalties or not all(0 < r < np.inf for r in penalties):
        raise UserError(f"penalties {tuple(penalties)}: give at least one, each above 0")
    if not z_selection.shape[0]:
        raise UserError("there are no selection images to choose the penalty on")
    normal = _normal(z, x)
    unit = float(np.trace(normal.gram)) / len(normal.gram) or 1.0
    error = _selection_error(normal, z_selection, x_selection, clip)
    errors = {}
    for r in penalties:
        try:
            errors[r] = error(r * unit)
        except np.linalg.LinAlgError:
            errors[r] = float("inf")
    solved = [r for r in penalties if errors[r] != float("inf")]
    if not solved:
        raise UserError(f"none of the penalties {tuple(penalties)} makes the system solvable; add a larger one")
    if not all(np.isfinite(errors[r]) for r in solved):
        raise UserError("the selection images or their representations have values that are not finite")
    best = min(solved, key=lambda r: errors[r])
    return normal.solve(best * unit), best, errors


def _normal(z: Rows, x: Rows) -> _Normal:
    if z.shape[1] > MOST:
        z, x = (rows.leading(MOST) if isinstance(rows, Dealt) else rows[:MOST] for rows in (z, x))
    count, dimension = z.shape
    if count < 2:
        raise UserError(f"the attacker has {count} images, too few for a regression; give at least 2")
    place = z.everywhere if isinstance(z, Dealt) else jnp.asarray
    z_mean, x_mean = place(_mean(z)), place(_mean(x))
    if dimension <= count:
        basis, gram = None, place(jnp.zeros((dimension, dimension), jnp.float32))
        targets = place(jnp.zeros((dimension, x.shape[1]), jnp.float32))
        for (rows, counts), (pixels, _) in zip(_blocks(z), _blocks(x), strict=True):
            gram, targets = _accumulate(gram, targets, rows, pixels, z_mean, x_mean, counts)
    else:
        basis = (z.whole() if isinstance(z, Dealt) else jnp.asarray(z)).astype(jnp.float32) - z_mean
        gram = np.concatenate([parallel.fetch(part) for part in _gram_of(basis, z)])
        targets = x.whole() if isinstance(x, Dealt) else x
        targets = np.asarray(parallel.fetch(targets), np.float64) - np.asarray(parallel.fetch(x_mean), np.float64)
    gram, targets = (np.asarray(parallel.fetch(array), np.float64) for array in (gram, targets))
    if not (np.isfinite(gram).all() and np.isfinite(targets).all()):
        raise UserError("the attacker's images or their representations have values that are not finite")
    return _Normal(z_mean, x_mean, basis, gram, targets, place)


def _blocks(rows: Rows) -> Iterator[tuple[Array, Array | None]]:
    """Rows a block at a time, and which of them count (None: all)."""
    if isinstance(rows, Dealt):
        yield from rows.blocks(BLOCK)
        return
    for start in range(0, len(rows), BLOCK):
        yield jnp.asarray(rows[start : start + BLOCK]), None


def _gram_of(basis: Array, z: Rows) -> Iterator[Array]:
    """The products of rows with all rows, some rows at a time; of several devices each multiplies its own."""
    step = BLOCK * (z.mesh.size if isinstance(z, Dealt) else 1)
    for start in range(0, len(basis), step):
        rows = basis[start : start + step]
        if isinstance(z, Dealt):
            yield parallel.fetch(_products(parallel.spread(rows, z.mesh), basis))[: len(rows)]
        else:
            yield _products(rows, basis)


def _mean(values: Rows) -> Array:
    """Mean of the rows, (…,) float32; blocks are summed in float32, their sums in float64."""
    sums = [np.asarray(parallel.fetch(_sum(*block)), np.float64) for block in _blocks(values)]
    return jnp.asarray(np.asarray(np.sum(sums, axis=0) / values.shape[0], np.float32))


def _counted(rows: Array, counts: Array | None) -> Array:
    """A block as rows (n, D), float32, with zeros where one does not count."""
    rows = rows.astype(jnp.float32)
    if counts is None:
        return rows
    return jnp.where(counts[..., None], rows, 0).reshape(-1, rows.shape[-1])


@jax.jit
def _sum(block, counts):
    return jnp.sum(_counted(block, counts), axis=0)


@partial(jax.jit, donate_argnames=("gram", "targets"))
def _accumulate(gram, targets, z, x, z_mean, x_mean, counts):
    dot = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    z, x = (_counted(rows.astype(jnp.float32) - mean, counts) for rows, mean in ((z, z_mean), (x, x_mean)))
    return gram + dot(z.T, z), targets + dot(z.T, x)


@jax.jit
def _products(block, basis):
    return jnp.matmul(block, basis.T, precision=jax.lax.Precision.HIGHEST)


def _selection_error(normal: _Normal, z: Rows, x: Rows, clip: bool) -> Callable[[float], float]:
    """Penalty -> mean squared error on the selection images.

    Where they are fewer than the pixels, only what a map answers to them is solved for, and not the whole map.
    """
    if z.shape[0] >= x.shape[1]:
        return lambda penalty: _error_of_map(normal.solve(penalty), z, x, clip)
    rows, pixels = _selection(normal, z, x)

    def of_answers(penalty: float) -> float:
        found = normal.answers(penalty, rows)
        return float(np.mean(((np.clip(found, 0, 1) if clip else found) - pixels) ** 2))

    return of_answers


def _error_of_map(ridge: Ridge, z: Rows, x: Rows, clip: bool) -> float:
    blocks = zip(_blocks(z), _blocks(x), strict=True)
    sums = [
        parallel.in_turn(_squared_error(ridge, rows, pixels, counts, clip=clip))
        for (rows, counts), (pixels, _) in blocks
    ]
    return float(np.sum(np.asarray(parallel.fetch(sums), np.float64))) / math.prod(x.shape)


@partial(jax.jit, static_argnames="clip")
def _squared_error(ridge, z, x, counts, *, clip):
    z, x = (rows if counts is None else rows.reshape(-1, rows.shape[-1]) for rows in (z, x))
    difference = (ridge.pixels(z) if clip else ridge(z)) - x.astype(jnp.float32)
    if counts is not None:
        difference = jnp.where(counts.reshape(-1, 1), difference, 0)
    return jnp.sum(difference**2)


def _selection(normal: _Normal, z: Rows, x: Rows) -> tuple[np.ndarray, np.ndarray]:
    """The selection images as :meth:`_Normal.against` has them, and their pixels; host float64, alike in order."""
    found = []
    for (rows, counts), (pixels, _) in zip(_blocks(z), _blocks(x), strict=True):
        pair = normal.against(rows, counts), _counted(pixels, counts)
        which = slice(None) if counts is None else np.flatnonzero(parallel.fetch(counts))
        found.append([np.asarray(parallel.fetch(part), np.float64)[which] for part in pair])
    rows, pixels = map(np.concatenate, zip(*found, strict=True))
    return rows, pixels
