"""Where the mean of a score lies, by resampling the images that it was measured on."""

import numpy as np
from jax import Array
from jaxtyping import Float

from gpz_jax.errors import UserError

_DRAWN_AT_ONCE = 2**20  # images: 8 MB of indices


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
