"""How near a reconstruction is to its image, one number per image, and the floors to hold it against.

Pixels are in [0, 1] throughout. The conventions of the paper's released code are kept beside ours as
:func:`mse_paper` and :func:`psnr_paper`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Integer, Shaped

from gpz_jax.errors import UserError

WINDOW = 11  # pixels, the Gaussian window of SSIM

_DRAWN_AT_ONCE = 2**20  # images, by the bootstrap: 8 MB of indices


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


def mse(x: Float[Array, "N H W C"], x_hat: Float[Array, "N H W C"]) -> Float[Array, " N"]:
    """Mean squared error per element: ||x - x_hat||^2 / (H W C) of each image.

    Raises :class:`UserError` if the shapes differ or the pixels are not floats, as do all scores here.

    >>> mse(jnp.zeros((2, 4, 4, 3)), jnp.full((2, 4, 4, 3), 0.5)).tolist()
    [0.25, 0.25]
    """
    return jnp.asarray(_pix().mse(*_float_pair(x, x_hat)))


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
    return jnp.asarray(_pix().psnr(*_float_pair(x, x_hat)))


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
    height, width = x.shape[1:3]
    if min(height, width) < WINDOW:  # dm_pix would return the mean of a meaningless map
        raise UserError(f"SSIM of {height}x{width} images: its window needs {WINDOW}x{WINDOW}; resize the images first")
    with jax.numpy_dtype_promotion("standard"):  # dm_pix mixes int32 and float
        return jnp.asarray(_pix().ssim(x, x_hat, filter_size=WINDOW))


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
    measures = (mse, mse_paper, psnr, ssim, cosine) if min(x.shape[1:3]) >= WINDOW else (mse, mse_paper, psnr, cosine)
    return {f.__name__: f(x, x_hat) for f in measures}


def as_pixels(images: Any) -> Array:
    """Bytes as pixels in [0, 1], v / 255; floats as they are, float32.

    >>> as_pixels(np.array([0, 255], np.uint8)).tolist()
    [0.0, 1.0]
    """
    values = jnp.asarray(images)
    return values.astype(jnp.float32) / jnp.float32(255 if values.dtype == jnp.uint8 else 1)


def mean_image(
    images: Shaped[Array | np.ndarray, "N ..."], *, pixels: Callable[[Any], Array] = as_pixels
) -> Float[Array, "..."]:
    """Mean image: what an attacker who receives nothing would answer. Bytes count as pixels / 255.

    >>> mean_image(jnp.array([0.0, 1.0]).reshape(2, 1, 1, 1)).tolist()
    [[[0.5]]]
    """
    return class_means(images, jnp.zeros(len(images), jnp.int32), 1, pixels=pixels)[0]


def class_means(
    images: Shaped[Array | np.ndarray, "N ..."],
    labels: Integer[Array | np.ndarray, " N"],
    num_classes: int,
    *,
    chunk: int = 1024,
    pixels: Callable[[Any], Array] = as_pixels,
) -> Float[Array, "K ..."]:
    """Mean image of each class: what an attacker who receives only the label would answer.

    Args:
      images: ``(N, …)``, whatever ``pixels`` takes.
      labels: their classes.
      num_classes: K.
      chunk: how many are converted at a time, so that a whole data set never exists as floats.
      pixels: images -> pixels in [0, 1], floats; bytes count as pixels / 255 by default.

    Returns:
      ``(K, …)``; a class without images is NaN. Not for use inside jit.

    Raises:
      UserError: labels outside 0 … K - 1.

    >>> class_means(jnp.array([0.0, 1.0, 0.25]).reshape(3, 1, 1, 1), jnp.array([0, 0, 1]), 2).ravel().tolist()
    [0.5, 0.25]
    """
    outside = [int(label) for label in np.unique(labels) if not 0 <= label < num_classes]
    if outside:
        raise UserError(f"label {outside[0]} with {num_classes} classes: labels run from 0 to {num_classes - 1}")
    sums: Any = jnp.float32(0)
    for start in range(0, len(images), chunk):
        found = pixels(images[start : start + chunk])
        one_hot = jax.nn.one_hot(labels[start : start + chunk], num_classes)
        # HIGHEST: on accelerators the default matmul keeps too few digits for a mean.
        sums += jnp.einsum("nk,n...->k...", one_hot, found, precision=jax.lax.Precision.HIGHEST)
    counts = jnp.bincount(labels, length=num_classes).astype(jnp.float32)
    return sums / counts.reshape(-1, *(1,) * (sums.ndim - 1))


def mean_image_floor(x: Float[Array, "N H W C"], mean: Float[Array, "H W C"]) -> Float[Array, " N"]:
    """Return the :func:`mse` of each image against ``mean``, see :func:`mean_image`.

    >>> mean_image_floor(jnp.ones((1, 2, 2, 1)), jnp.full((2, 2, 1), 0.5)).tolist()
    [0.25]
    """
    return mse(x, jnp.broadcast_to(mean, x.shape))


def class_mean_floor(
    x: Float[Array, "N H W C"], labels: Integer[Array | np.ndarray, " N"], means: Float[Array, "K H W C"]
) -> Float[Array, " N"]:
    """Return the :func:`mse` of each image against the mean of its class, see :func:`class_means`.

    NaN where the label is outside 0 … K - 1 or its class had no images.

    >>> means = jnp.array([0.0, 0.5]).reshape(2, 1, 1, 1)
    >>> class_mean_floor(jnp.ones((1, 1, 1, 1)), jnp.array([1]), means).tolist()
    [0.25]
    """
    return mse(x, means.at[labels].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False))


def ratio_to_floor(mse: Float[Array, " N"], floor: Float[Array, " N"]) -> Float[Array, ""]:
    """mean(mse) / mean(floor): 1 or more means that the attack gained nothing over the floor.

    >>> float(ratio_to_floor(jnp.array([0.1, 0.3]), jnp.array([0.2, 0.6])))
    0.5
    """
    return mse.mean() / floor.mean()


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
        pixels = np.asarray(images, np.float64)
        return Spread(
            self.number + len(pixels), self.sums + pixels.sum(axis=0), self.squares + float(np.sum(pixels**2))
        )

    @property
    def variance(self) -> float:
        """Sum over elements of the variance over images, pixels squared."""
        return self.squares / self.number - float(np.sum(np.square(self.sums / self.number)))


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
    x, x_hat = np.asarray(x), np.asarray(x_hat)
    if len(x) < 2:
        raise UserError(f"prior collapse of {len(x)} images: variety takes at least 2")
    if (x == x[0]).all():
        raise UserError("prior collapse of inputs that are all the same image: give different ones")
    return float(x_hat.var(axis=0, dtype=np.float64).sum() / x.var(axis=0, dtype=np.float64).sum())


# Intervals ----------------------------------------------------------------------------------------


def bootstrap_interval(
    values: Float[Array | np.ndarray, " N"], *, seed: int = 0, level: float = 0.95, resamples: int = 2000
) -> tuple[float, float]:
    """Where the mean over images lies with probability ``level``: the percentile bootstrap (Efron 1979).

    N images are drawn with replacement ``resamples`` times; the ends are order statistics of the means, counted
    outwards. This is the spread over images; another training run varies by more. Equal for equal ``seed``.

    NaN values are left out, and (nan, nan) is returned where nothing else is left. Infinite values stay: an end is inf
    where the mean would be (the psnr of an image that came back exactly).

    Raises :class:`UserError` for no values, a level outside (0, 1), or fewer than one resample.

    >>> bootstrap_interval(np.full(10, 0.25))
    (0.25, 0.25)
    >>> low, high = bootstrap_interval(np.arange(100.0))
    >>> bool(low < 49.5 < high), round((high - low) / 2 / (1.96 * 28.87 / 10), 1)  # half a width of 1.96 std / sqrt(N)
    (True, 1.0)
    """
    return _percentiles(_resampled_means([values], seed, resamples)[0], level)


def bootstrap_ratio_interval(
    numerator: Float[Array | np.ndarray, " N"],
    denominator: Float[Array | np.ndarray, " N"],
    *,
    seed: int = 0,
    level: float = 0.95,
    resamples: int = 2000,
) -> tuple[float, float]:
    """Where mean(numerator) / mean(denominator) lies, as :func:`bootstrap_interval` does: see :func:`ratio_to_floor`.

    The two are paired: an image is drawn with both its values, and left out where either is NaN. (nan, nan) where some
    resample has no ratio, 0 / 0 or inf / inf.

    Raises :class:`UserError` as :func:`bootstrap_interval`, and for different numbers of values.

    >>> floor = np.array([0.25, 0.5, 1.0])
    >>> bootstrap_ratio_interval(0.5 * floor, floor)
    (0.5, 0.5)
    """
    if numerator.shape != denominator.shape:
        raise UserError(f"{len(numerator)} values over {len(denominator)}: give one of each per image")
    above, below = _resampled_means([numerator, denominator], seed, resamples)
    with np.errstate(divide="ignore", invalid="ignore"):
        return _percentiles(above / below, level)


def _resampled_means(columns: list, seed: int, resamples: int) -> Float[np.ndarray, "K resamples"]:
    """Means of each column over the same images, drawn with replacement, without those that are NaN in any."""
    if resamples < 1:
        raise UserError(f"{resamples} resamples: give at least 1, a thousand or more for an interval")
    values = np.stack([np.asarray(column, np.float64) for column in columns])
    if values.shape[1] == 0:
        raise UserError("no values to average: an interval needs at least 1")
    values = values[:, ~np.isnan(values).any(axis=0)]
    count = values.shape[1]
    means = np.full((len(values), resamples), np.nan)
    if count == 0:
        return means
    generator = np.random.default_rng(seed)
    rows = max(1, _DRAWN_AT_ONCE // count)
    for start in range(0, resamples, rows):
        drawn = generator.integers(count, size=(min(rows, resamples - start), count))
        with np.errstate(invalid="ignore"):  # inf - inf
            means[:, start : start + rows] = values[:, drawn].mean(axis=-1)
    return means


def _percentiles(statistics: Float[np.ndarray, " resamples"], level: float) -> tuple[float, float]:
    """The middle ``level`` of them; (nan, nan) if any is NaN."""
    if not 0 < level < 1:
        raise UserError(f"level {level}: give a probability between 0 and 1, such as 0.95")
    if np.isnan(statistics).any():
        return np.nan, np.nan
    # Order statistics, since interpolating towards an infinite one would give NaN.
    last = len(statistics) - 1
    cut = int((1 - level) / 2 * last)
    ordered = np.sort(statistics)
    return float(ordered[cut]), float(ordered[last - cut])
