"""How near a reconstruction is to its image, one number per image, and how varied all of them are.

Pixels are in [0, 1] throughout. The conventions of the paper's released code are kept beside ours as
:func:`mse_paper` and :func:`psnr_paper`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Float

from gpz_jax import parallel
from gpz_jax.errors import UserError

WINDOW = 11  # pixels, the Gaussian window of SSIM


def _pix() -> Any:
    import dm_pix  # here, for importing it takes a sixth of what importing this package does

    return dm_pix


def _check_pair(x: Array | np.ndarray, x_hat: Array | np.ndarray) -> None:
    """Raise a UserError where broadcasting or bytes would score nonsense."""
    if x.shape != x_hat.shape or x.ndim != 4:
        raise UserError(f"images {x.shape} against reconstructions {x_hat.shape}: give two equal (N, H, W, C) shapes")
    for array in (x, x_hat):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise UserError(f"pixels of dtype {array.dtype}: scores take floats in [0, 1]; divide bytes by 255")


def _float_pair(x: Array, x_hat: Array) -> tuple[Array, Array]:
    """Both in one dtype, float32 at least, after :func:`_check_pair`."""
    _check_pair(x, x_hat)
    dtype = jnp.float64 if jnp.float64 in (x.dtype, x_hat.dtype) else jnp.float32
    return x.astype(dtype), x_hat.astype(dtype)


def _check_range(x: Array | np.ndarray, x_hat: Array | np.ndarray) -> None:
    """Raise a UserError for pixels on another scale than [0, 1], unless they are traced and cannot be looked at.

    A reconstruction may overshoot, an original may not.
    """
    for name, array, low, high in (("images", x, -1e-3, 1 + 1e-3), ("reconstructions", x_hat, -10.0, 10.0)):
        if isinstance(array, Tracer) or not array.size:
            continue
        values = parallel.fetch(array)
        least, most = float(values.min()), float(values.max())
        if least < low or most > high:  # NaN is neither: it gives a score of NaN
            advice = "divide by 255" if most > 2 else "of what runs from -1 to 1 take (x + 1) / 2"
            raise UserError(f"{name} from {least:.3g} to {most:.3g}: scores take pixels in [0, 1]; {advice}")


def mse(x: Float[Array, "N H W C"], x_hat: Float[Array, "N H W C"]) -> Float[Array, " N"]:
    """Mean squared error per element: ||x - x_hat||^2 / (H W C) of each image.

    Raises :class:`UserError` if the shapes differ or the pixels are not floats, as do all scores here. Those whose
    constants are of pixels in [0, 1] (PSNR, SSIM) refuse images on another scale, too.

    >>> mse(jnp.zeros((2, 4, 4, 3)), jnp.full((2, 4, 4, 3), 0.5)).tolist()
    [0.25, 0.25]
    """
    return _mse(*_float_pair(x, x_hat))


@jax.jit
def _mse(x: Array, x_hat: Array) -> Array:
    return jnp.asarray(_pix().mse(x, x_hat))


def mse_paper(x: Float[Array, "N H W C"], x_hat: Float[Array, "N H W C"]) -> Float[Array, " N"]:
    """Squared error per pixel, summed over the channels: C x :func:`mse`, the paper's "MSE".

    >>> mse_paper(jnp.zeros((1, 4, 4, 3)), jnp.full((1, 4, 4, 3), 0.5)).tolist()
    [0.75]
    """
    return x.shape[-1] * mse(x, x_hat)


def psnr(x: Float[Array, "N H W C"], x_hat: Float[Array, "N H W C"]) -> Float[Array, " N"]:
    """Peak signal-to-noise ratio of each image in dB: -10 log10(mse), inf for identical images.

    The mean over images is not the PSNR of the mean error, see :func:`psnr_paper`.

    >>> psnr(jnp.zeros((1, 4, 4, 3)), jnp.full((1, 4, 4, 3), 0.1)).round(3).tolist()
    [20.0]
    """
    pair = _float_pair(x, x_hat)
    _check_range(x, x_hat)
    return jnp.asarray(_pix().psnr(*pair))


def psnr_paper(
    x: Float[Array, "N H W C"], x_hat: Float[Array, "N H W C"], *, batch_size: int = 128
) -> Float[Array, ""]:
    """PSNR in dB as released: -10 log10 of a whole batch's mse, averaged over the batches.

    Batches are taken in order and a shorter last one counts as much as the others, so the number depends on
    the order of the images and on ``batch_size``: for comparison with the paper only. Raises
    :class:`UserError` for no images or a ``batch_size`` below 1.

    >>> x, x_hat = jnp.zeros((2, 4, 4, 1)), jnp.array([0.1, 0.3]).reshape(2, 1, 1, 1) * jnp.ones((2, 4, 4, 1))
    >>> round(float(psnr_paper(x, x_hat)), 2), round(float(psnr(x, x_hat).mean()), 2)
    (13.01, 15.23)
    """
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: give at least 1")
    if len(x) == 0:
        raise UserError("no images to score: the batch PSNR needs at least 1")
    error = mse(x, x_hat)
    _check_range(x, x_hat)
    return _psnr_of_batches(error, batch_size)


@partial(jax.jit, static_argnums=1)
def _psnr_of_batches(error: Array, batch_size: int) -> Array:
    batches = jnp.stack([error[i : i + batch_size].mean() for i in range(0, len(error), batch_size)])
    return -10 * jnp.log10(batches).mean()


def ssim(x: Float[Array, "N H W C"], x_hat: Float[Array, "N H W C"]) -> Float[Array, " N"]:
    """Structural similarity of each image, 1 if identical (Wang et al. 2004).

    With m, v and c the means, variances and covariance under a Gaussian window of 11 pixels and sigma 1.5::

        (2 m m' + 0.01^2)(2 c + 0.03^2) / ((m^2 + m'^2 + 0.01^2)(v + v' + 0.03^2))

    averaged over the positions where the window fits and over the channels. Raises :class:`UserError` for
    images under 11 pixels, where it fits nowhere.

    >>> x = jnp.linspace(0.0, 1.0, 144).reshape(1, 12, 12, 1)
    >>> ssim(x, x).round(4).tolist()
    [1.0]
    """
    x, x_hat = _float_pair(x, x_hat)
    _check_range(x, x_hat)
    height, width = x.shape[1:3]
    if min(height, width) < WINDOW:  # dm_pix would return the mean of a meaningless map
        raise UserError(f"SSIM of {height}x{width} images: its window needs {WINDOW}x{WINDOW}; resize the images first")
    with jax.numpy_dtype_promotion("standard"):  # dm_pix mixes int32 and float
        return jnp.asarray(_pix().ssim(x, x_hat, filter_fn=_blurred))


def _blurred(images: Float[Array, "N H W C"]) -> Float[Array, "N a b C"]:
    """Weighted means under SSIM's window wherever it fits, a = H - 10, b = W - 10: products with two banded matrices.

    dm_pix's own window is a convolution a row, with which SSIM takes XLA's CPU backend four to fourteen times as long
    (``experiments/benchmarks/ssim.py``).
    """
    rows, columns = (jnp.asarray(_window(side), images.dtype) for side in images.shape[1:3])
    return jnp.einsum("nhwc,ha,wb->nabc", images, rows, columns, precision="highest")


def _window(side: int) -> np.ndarray:
    """The Gaussian at each of its places along a side, a column a place: (side, side - 10)."""
    taps = np.exp(-0.5 * ((np.arange(WINDOW) - WINDOW // 2) / 1.5) ** 2)
    places = [np.eye(side, side - WINDOW + 1, -i) for i in range(WINDOW)]
    return np.tensordot(taps / taps.sum(), places, axes=1)


def cosine(x: Float[Array, "N H W C"], x_hat: Float[Array, "N H W C"]) -> Float[Array, " N"]:
    """Cosine between the flattened images: <x, x_hat> / (||x|| ||x_hat||).

    NaN where either image is black: it has no direction, and any number there would be made up.

    >>> cosine(jnp.full((1, 2, 2, 1), 0.5), jnp.full((1, 2, 2, 1), 0.25)).round(4).tolist()
    [1.0]
    """
    x, x_hat = (image.reshape(len(image), -1) for image in _float_pair(x, x_hat))
    return (x * x_hat).sum(axis=1) / (jnp.linalg.norm(x, axis=1) * jnp.linalg.norm(x_hat, axis=1))


def score(x: Float[Array, "N H W C"], x_hat: Float[Array, "N H W C"]) -> dict[str, Float[Array, " N"]]:
    """Score by every per-image measure: mse, mse_paper, psnr, ssim, cosine. Units and errors as in each.

    Without ssim for images under 11 pixels, where its window fits nowhere.

    >>> x = jnp.full((2, 16, 16, 3), 0.5)
    >>> {name: float(values[0]) for name, values in score(x, x).items() if name in ("mse", "psnr")}
    {'mse': 0.0, 'psnr': inf}
    """
    _check_pair(x, x_hat)
    _check_range(x, x_hat)
    measures = (mse, mse_paper, psnr, ssim, cosine) if min(x.shape[1:3]) >= WINDOW else (mse, mse_paper, psnr, cosine)
    return dict(zip((f.__name__ for f in measures), _scores(measures, x, x_hat), strict=True))


@partial(jax.jit, static_argnums=0)  # one program of what would be a hundred
def _scores(measures: tuple[Callable[[Array, Array], Array], ...], x: Array, x_hat: Array) -> list[Array]:
    return [measure(x, x_hat) for measure in measures]


def as_pixels(images: Any) -> Array:
    """Bytes as pixels in [0, 1], v / 255; floats as they are, float32.

    >>> as_pixels(np.array([0, 255], np.uint8)).tolist()
    [0.0, 1.0]
    """
    values = jnp.asarray(images)
    return values.astype(jnp.float32) / jnp.float32(255 if values.dtype == jnp.uint8 else 1)


class Spread(NamedTuple):
    """How varied images are, batch by batch: the variance that :func:`prior_collapse` takes the ratio of.

    Attributes:
      number: images so far.
      sums: their sum, ``(…)`` float64.
      squares: sum of all their squared pixels, float64; pixels in [0, 1] leave nothing to cancel in it.
    """

    number: int = 0
    sums: np.ndarray | float = 0.0
    squares: float = 0.0

    def add(self, images: Float[Array | np.ndarray, "N ..."]) -> "Spread":
        """The same with a batch more.

        >>> Spread().add(np.zeros((1, 1, 1, 1))).add(np.ones((1, 1, 1, 1))).variance
        0.25
        """
        pixels = np.asarray(parallel.fetch(images), np.float64)
        return Spread(
            self.number + len(pixels), self.sums + pixels.sum(axis=0), self.squares + float(np.sum(pixels**2))
        )

    @property
    def variance(self) -> float:
        """Sum over elements of the variance over images, pixels squared."""
        return self.squares / self.number - float(np.sum(np.square(self.sums / self.number)))


class OverImages(NamedTuple):
    """What is no mean over images, batch by batch.

    Attributes:
      batch_psnr: :func:`psnr_paper` of every batch, and its number of images.
      spread: of the reconstructions.
      spread_of_originals: of the originals.
    """

    batch_psnr: tuple[tuple[float, int], ...] = ()
    spread: Spread = Spread()
    spread_of_originals: Spread = Spread()

    def add(self, x: Float[Array, "N ..."], x_hat: Float[Array, "N ..."], *, images: bool = True) -> "OverImages":
        """The same with a batch more; of what are no ``images`` there is no PSNR."""
        psnr = float(psnr_paper(x, x_hat)) if images else np.nan
        spreads = self.spread.add(x_hat), self.spread_of_originals.add(x)
        return OverImages((*self.batch_psnr, (psnr, len(x))), *spreads)

    @property
    def psnr_paper(self) -> float:
        """Mean over the images of their batches' :func:`psnr_paper`, dB."""
        return float(np.average([p for p, _ in self.batch_psnr], weights=[n for _, n in self.batch_psnr]))

    @property
    def prior_collapse(self) -> float:
        """See :func:`prior_collapse`; NaN where all originals are the same."""
        varied = self.spread_of_originals.variance
        return float(self.spread.variance / varied) if varied else np.nan


def prior_collapse(x_hat: Float[Array | np.ndarray, "N H W C"], x: Float[Array | np.ndarray, "N H W C"]) -> float:
    """How varied the reconstructions are, over how varied the inputs are.

    The mean of ||x_hat_i - x_hat_j||^2 over all pairs of images, over that of ||x_i - x_j||^2. Both are twice the trace
    of a covariance, so that it is computed as sum_p var(x_hat_p) / sum_p var(x_p) over the elements p: 1 as varied as
    the inputs; 0 where every input gives the same image, which then comes from the attacker's prior and not from what
    was sent. Noise counts as variety, and the number alone does not say whether the images are the right ones. Of
    batches: the ratio of two :class:`Spread`.

    Raises :class:`UserError` for shapes that differ, pixels that are not floats, fewer than two images, and inputs that
    are all the same image.

    >>> x = np.array([0.0, 0.5, 1.0]).reshape(3, 1, 1, 1)
    >>> prior_collapse(0.25 + 0.5 * x, x), prior_collapse(np.ones_like(x), x)
    (0.25, 0.0)
    """
    _check_pair(x, x_hat)
    x, x_hat = parallel.fetch((x, x_hat))
    if len(x) < 2:
        raise UserError(f"prior collapse of {len(x)} images: variety takes at least 2")
    if (x == x[0]).all():
        raise UserError("prior collapse of inputs that are all the same image: give different ones")
    return float(x_hat.var(axis=0, dtype=np.float64).sum() / x.var(axis=0, dtype=np.float64).sum())
