import inspect

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import bootstrap
from skimage.metrics import structural_similarity
from sklearn.datasets import load_digits

from gpz_jax.errors import UserError
from gpz_jax.inversion import floors, intervals, metrics


@pytest.fixture(scope="module")
def digits():
    """16 digits at 24x20 in two colour channels, and worse and worse reconstructions of them."""
    x = jnp.asarray(load_digits().images[:16, ..., None] / 16, jnp.float32)
    x = jax.image.resize(jnp.concatenate([x, 1 - x], axis=-1), (16, 24, 20, 2), "bilinear")
    noise = jax.random.normal(jax.random.key(1), x.shape) * jnp.linspace(0.01, 0.5, 16)[:, None, None, None]
    return x, jnp.clip(x + noise, 0, 1)


# --- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "decibels", "paper"), [(0.00607, 22.17, 0.018), (0.01897, 17.22, 0.057)])
def test_the_papers_pairs_of_mse_and_psnr(error, decibels, paper):
    x = jnp.full((3, 8, 8, 3), 0.25)
    x_hat = x + jnp.sqrt(jnp.float32(error))
    np.testing.assert_allclose(metrics.mse(x, x_hat), error, rtol=1e-5)
    np.testing.assert_allclose(metrics.mse_paper(x, x_hat), paper, atol=5e-4)
    np.testing.assert_allclose(metrics.psnr(x, x_hat), decibels, atol=5e-3)
    np.testing.assert_allclose(metrics.psnr_paper(x, x_hat), decibels, atol=5e-3)


def test_scores_against_numpy(digits):
    x, x_hat = (np.asarray(image, np.float64) for image in digits)
    error = ((x - x_hat) ** 2).sum((1, 2, 3)) / (24 * 20 * 2)
    flat, flat_hat = x.reshape(16, -1), x_hat.reshape(16, -1)
    cosine = np.diag(flat @ flat_hat.T) / np.linalg.norm(flat, axis=1) / np.linalg.norm(flat_hat, axis=1)
    scores = metrics.score(*digits)
    assert list(scores) == ["mse", "mse_paper", "psnr", "ssim", "cosine"]
    np.testing.assert_allclose(scores["mse"], error, rtol=1e-5)
    np.testing.assert_allclose(scores["mse_paper"], 2 * error, rtol=1e-5)
    np.testing.assert_allclose(scores["psnr"], 10 * np.log10(1 / error), rtol=1e-5)
    np.testing.assert_allclose(scores["cosine"], cosine, rtol=1e-5)


def test_ssim_against_scikit_image(digits):
    # scikit-image crops the 5-pixel border before averaging: the positions where the window fits.
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    want = [
        structural_similarity(*map(np.asarray, pair), channel_axis=-1, **options) for pair in zip(*digits, strict=True)
    ]
    assert min(want) < 0.5 < 0.95 < max(want)
    np.testing.assert_allclose(metrics.ssim(*digits), want, atol=1e-4)


def test_ssim_with_our_window_is_dm_pix_s_own():
    x, x_hat = np.random.default_rng(0).uniform(size=(2, 2, 13, 17, 3)).astype(np.float32)
    with jax.numpy_dtype_promotion("standard"):
        want = dm_pix.ssim(jnp.asarray(x), jnp.asarray(x_hat))
    np.testing.assert_allclose(metrics.ssim(jnp.asarray(x), jnp.asarray(x_hat)), want, atol=1e-6)


def test_each_image_is_scored_on_its_own(digits):
    order = np.random.default_rng(0).permutation(16)
    scores, permuted = metrics.score(*digits), metrics.score(*(image[order] for image in digits))
    for name in scores:
        np.testing.assert_allclose(permuted[name], scores[name][order], rtol=1e-6)
        alone = metrics.score(*(image[3:4] for image in digits))[name]
        np.testing.assert_allclose(alone, scores[name][3:4], rtol=1e-6)


def test_identical_images(digits):
    x = digits[0]
    scores = metrics.score(x, x)
    for name, value in {"mse": 0, "mse_paper": 0, "psnr": jnp.inf, "ssim": 1, "cosine": 1}.items():
        np.testing.assert_allclose(scores[name], value, rtol=1e-5, err_msg=name)


def test_constant_images():
    x, x_hat = jnp.full((1, 12, 12, 1), 0.5), jnp.full((1, 12, 12, 1), 0.25)
    # No variance: only the luminance term (2 m m' + 0.01^2) / (m^2 + m'^2 + 0.01^2) is left.
    np.testing.assert_allclose(metrics.ssim(x, x_hat), (0.25 + 1e-4) / (0.3125 + 1e-4), atol=1e-4)
    np.testing.assert_allclose(metrics.cosine(x, x_hat), 1, rtol=1e-6)
    np.testing.assert_allclose(metrics.psnr(jnp.zeros_like(x), jnp.ones_like(x)), 0, atol=1e-6)
    assert jnp.isnan(metrics.cosine(x, jnp.zeros_like(x))).all()


def test_batch_psnr_is_not_the_mean_of_psnrs():
    errors = jnp.array([0.01, 0.03, 0.04, 0.001, 0.2])
    x = jnp.zeros((5, 8, 8, 1))
    x_hat = x + jnp.sqrt(errors)[:, None, None, None]
    want = np.mean([-10 * np.log10(0.02), -10 * np.log10(0.0205), -10 * np.log10(0.2)])  # batches of 2, 2 and 1
    np.testing.assert_allclose(metrics.psnr_paper(x, x_hat, batch_size=2), want, rtol=1e-5)
    np.testing.assert_allclose(metrics.psnr_paper(x, x_hat, batch_size=1), metrics.psnr(x, x_hat).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics.psnr_paper(x, x_hat), -10 * np.log10(0.0562), rtol=1e-5)


def test_bfloat16_is_scored_in_float32():
    x = jnp.full((1, 16, 16, 1), 0.5)
    scores = metrics.score(x, (x + 0.125).astype(jnp.bfloat16))
    assert all(value.dtype == jnp.float32 for value in scores.values())
    np.testing.assert_allclose(scores["mse"], 0.125**2, rtol=1e-6)


def test_scores_run_under_jit(digits):
    for name, value in jax.jit(metrics.score)(*digits).items():
        np.testing.assert_allclose(value, metrics.score(*digits)[name], rtol=1e-4)


def test_ssim_refuses_images_under_its_window():
    with pytest.raises(UserError, match="SSIM of 10x12 images: its window needs 11x11; resize"):
        metrics.ssim(jnp.zeros((1, 10, 12, 1)), jnp.zeros((1, 10, 12, 1)))
    np.testing.assert_allclose(metrics.ssim(jnp.zeros((1, 11, 11, 1)), jnp.zeros((1, 11, 11, 1))), 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["mse", "psnr", "ssim", "cosine"])
def test_broadcasting_and_bytes_are_refused(name):
    # Unwrapped, since where the suite checks annotations their message would come first.
    function = inspect.unwrap(getattr(metrics, name))
    x = jnp.zeros((2, 12, 12, 3))
    with pytest.raises(UserError, match=r"images \(2, 12, 12, 3\) against reconstructions \(2, 12, 12, 1\)"):
        function(x, x[..., :1])
    with pytest.raises(UserError, match=r"pixels of dtype uint8: .*divide bytes by 255"):
        function(x, x.astype(jnp.uint8))


def test_psnr_paper_refuses_nonsense():
    x = jnp.zeros((2, 4, 4, 1))
    with pytest.raises(UserError, match="batch size 0: give at least 1"):
        metrics.psnr_paper(x, x, batch_size=0)
    with pytest.raises(UserError, match="no images to score"):
        metrics.psnr_paper(x[:0], x[:0])


# --- floors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [7, 1024])
def test_means_and_floors_against_numpy(chunk):
    data = load_digits()
    pixels, labels = (data.images[:50, ..., None] * 15).astype(np.uint8), data.target[:50]
    x = pixels / 255
    want = np.stack([x[labels == k].mean(0) for k in range(10)])
    means = floors.class_means(jnp.asarray(pixels), jnp.asarray(labels), 10, chunk=chunk)
    np.testing.assert_allclose(means, want, atol=1e-6)
    np.testing.assert_allclose(floors.class_means(pixels, labels, 10, chunk=chunk), want, atol=1e-6)
    images = jnp.asarray(x, jnp.float32)
    np.testing.assert_allclose(floors.class_means(images, jnp.asarray(labels), 10), want, atol=1e-6)
    np.testing.assert_allclose(floors.mean_image(images), x.mean(0), atol=1e-6)

    mean_floor = floors.mean_image_floor(images, floors.mean_image(images))
    class_floor = floors.class_mean_floor(images, jnp.asarray(labels), means)
    np.testing.assert_allclose(mean_floor, ((x - x.mean(0)) ** 2).mean((1, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(class_floor, ((x - want[labels]) ** 2).mean((1, 2, 3)), rtol=1e-4)
    # The total scatter is the within-class one plus what the class means explain.
    between = ((want[labels] - x.mean(0)) ** 2).mean()
    np.testing.assert_allclose(mean_floor.mean(), class_floor.mean() + between, rtol=1e-5)
    np.testing.assert_allclose(
        floors.ratio_to_floor(class_floor, mean_floor), class_floor.mean() / mean_floor.mean(), rtol=1e-6
    )


def test_an_empty_class_is_nan_and_no_other():
    means = floors.class_means(jnp.ones((2, 2, 2, 1)), jnp.array([0, 2]), 3)
    assert jnp.isnan(means).all(axis=(1, 2, 3)).tolist() == [False, True, False]
    floor = floors.class_mean_floor(jnp.ones((5, 2, 2, 1)), jnp.array([0, 1, 2, 3, -1]), means)
    np.testing.assert_array_equal(floor, [0, jnp.nan, 0, jnp.nan, jnp.nan])


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range_are_named(label):
    with pytest.raises(UserError, match=f"label {label} with 3 classes: labels run from 0 to 2"):
        floors.class_means(jnp.ones((2, 2, 2, 1)), jnp.array([0, label]), 3)


# --- variety of the reconstructions ---------------------------------------------------------------


def test_prior_collapse_is_a_ratio_over_pairs(digits):
    x, x_hat = (np.asarray(images, np.float64) for images in digits)

    def pairs(images):
        return ((images[:, None] - images[None]) ** 2).sum()

    np.testing.assert_allclose(metrics.prior_collapse(*digits[::-1]), pairs(x_hat) / pairs(x), rtol=1e-5)
    np.testing.assert_allclose(metrics.prior_collapse(0.5 * x + 0.2, x), 0.25, rtol=1e-12)
    assert metrics.prior_collapse(x[::-1], x) == pytest.approx(1)
    assert metrics.prior_collapse(np.broadcast_to(x[:1], x.shape), x) == 0
    assert np.isnan(metrics.prior_collapse(np.full_like(x, np.nan), x))


def test_spread_in_ragged_batches_is_prior_collapse(digits):
    x, x_hat = (np.asarray(images) for images in digits)
    spreads = []
    for images in (x_hat, x):
        spread = metrics.Spread()
        for part in np.array_split(images, [1, 4]):
            spread = spread.add(part)
        spreads.append(spread.variance)
    np.testing.assert_allclose(spreads[0] / spreads[1], metrics.prior_collapse(x_hat, x), rtol=1e-10)


def test_prior_collapse_refuses():
    x = np.zeros((3, 4, 4, 1), np.float32)
    with pytest.raises(UserError, match="inputs that are all the same image: give different ones"):
        metrics.prior_collapse(x, x + np.float32(0.3))
    with pytest.raises(UserError, match="prior collapse of 1 images: variety takes at least 2"):
        metrics.prior_collapse(x[:1], x[:1])
    function = inspect.unwrap(metrics.prior_collapse)
    with pytest.raises(UserError, match=r"images \(3, 4, 4, 1\) against reconstructions \(2, 4, 4, 1\)"):
        function(x[:2], x)
    with pytest.raises(UserError, match="pixels of dtype uint8"):
        function(x, x.astype(np.uint8))


# --- intervals ------------------------------------------------------------------------------------


def test_bootstrap_against_scipy():
    values = np.random.default_rng(5).gamma(2, size=60)
    options = {"n_resamples": 4000, "method": "percentile", "vectorized": True, "rng": np.random.default_rng(1)}
    want = bootstrap((values,), np.mean, **options).confidence_interval
    np.testing.assert_allclose(intervals.bootstrap_interval(values, resamples=4000), want, atol=0.03)

    other = values * np.random.default_rng(6).uniform(0.5, 1.5, 60)  # paired: the ratio varies less than either mean
    ratio = bootstrap((values, other), lambda a, b, axis: a.mean(axis) / b.mean(axis), paired=True, **options)
    got = intervals.bootstrap_ratio_interval(values, other, resamples=4000)
    np.testing.assert_allclose(got, ratio.confidence_interval, atol=0.02)


def test_bootstrap_covers_the_mean_as_often_as_it_says():
    samples = np.random.default_rng(0).exponential(size=(200, 80))
    found = np.array([intervals.bootstrap_interval(s, level=0.8, resamples=300) for s in samples])
    covered = ((found[:, 0] <= 1) & (found[:, 1] >= 1)).mean()
    assert abs(covered - 0.8) < 0.085  # three standard errors of a share of 200


def test_bootstrap_is_repeatable_whatever_is_drawn_at_once(monkeypatch):
    values = np.random.default_rng(2).normal(size=50)
    whole = intervals.bootstrap_interval(values, seed=3)
    assert whole != intervals.bootstrap_interval(values, seed=4)
    for at_once in (7, 50, 333):
        monkeypatch.setattr(intervals, "_DRAWN_AT_ONCE", at_once)
        np.testing.assert_allclose(intervals.bootstrap_interval(values, seed=3), whole, rtol=1e-12)


def test_wider_levels_hold_narrower_ones():
    values = np.random.default_rng(2).normal(size=50)
    low, high = zip(*(intervals.bootstrap_interval(values, level=level) for level in (0.99, 0.9, 0.5)), strict=True)
    assert list(low) == sorted(low)
    assert list(high) == sorted(high, reverse=True)
    assert low[-1] < values.mean() < high[-1]


def test_bootstrap_of_infinite_and_missing_values():
    values = np.arange(1.0, 21.0)
    assert intervals.bootstrap_interval(np.append(values, np.nan)) == intervals.bootstrap_interval(values)
    assert np.isnan(intervals.bootstrap_interval(np.full(3, np.nan))).all()
    # One image in 20 came back exactly: some resamples hold it, some do not.
    low, high = intervals.bootstrap_interval(np.append(values[1:], np.inf))
    assert np.isfinite(low)
    assert high == np.inf
    assert intervals.bootstrap_interval(np.full(4, np.inf)) == (np.inf, np.inf)
    assert np.isnan(intervals.bootstrap_interval(np.array([np.inf, -np.inf]))).all()


def test_bootstrap_ratio_is_paired():
    floor = jnp.linspace(0.1, 2.0, 30)
    np.testing.assert_allclose(intervals.bootstrap_ratio_interval(0.5 * floor, floor), (0.5, 0.5), rtol=1e-6)
    above, below = np.array([1.0, np.nan, 3.0]), np.array([2.0, 5.0, np.nan])
    assert intervals.bootstrap_ratio_interval(above, below) == (0.5, 0.5)
    assert intervals.bootstrap_ratio_interval(np.ones(3), np.zeros(3)) == (np.inf, np.inf)
    assert np.isnan(intervals.bootstrap_ratio_interval(np.zeros(3), np.zeros(3))).all()


def test_bootstrap_refuses():
    values = np.arange(3.0)
    with pytest.raises(UserError, match="no values to average: an interval needs at least 1"):
        intervals.bootstrap_interval(values[:0])
    for level in (0.0, 1.0, 95.0):
        with pytest.raises(UserError, match=f"level {level}: give a probability between 0 and 1"):
            intervals.bootstrap_interval(values, level=level)
    with pytest.raises(UserError, match="0 resamples: give at least 1"):
        intervals.bootstrap_interval(values, resamples=0)
    with pytest.raises(UserError, match="3 values over 2: give one of each per image"):
        inspect.unwrap(intervals.bootstrap_ratio_interval)(values, values[:2])
