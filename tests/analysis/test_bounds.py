import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpz_jax.analysis import bounds
from gpz_jax.errors import UserError

NAT = 0.5 * math.log(2 * math.pi * math.e)  # entropy of a standard normal


def entropy(histogram):
    share = histogram[histogram > 0] / histogram.sum()
    return -np.sum(share * np.log(share))


@pytest.mark.parametrize("dimension", [1, 3, 2048])
@pytest.mark.parametrize("deviation", [1e-3, 1.0, 40.0])
def test_feature_bound_is_the_entropy_of_an_isotropic_gaussian(dimension, deviation):
    exact = dimension * (NAT + math.log(deviation))
    assert bounds.feature_bound(dimension * deviation**2, dimension) == pytest.approx(exact, rel=1e-12, abs=1e-9)


def test_feature_bound_lies_above_an_anisotropic_gaussian():
    variances = np.array([0.1, 1.0, 7.0])
    exact = np.sum(NAT + 0.5 * np.log(variances))
    assert bounds.feature_bound(variances.sum(), 3) > exact + 0.5


def test_feature_bound_lies_above_another_family():
    assert bounds.feature_bound(1 / 12, 1) > 0  # uniform on [0, 1]: h = 0, variance 1/12
    assert bounds.feature_bound(1 / 12, 1) < 0.2


def test_decision_bound_is_the_entropy_of_gaussians_far_apart():
    """One dimension, two classes at ±50 with unit variance: integrate -p ln p."""
    x = np.linspace(-70, 70, 200_001)
    weights = np.array([0.3, 0.7])
    density = sum(
        w * np.exp(-0.5 * (x - m) ** 2) / math.sqrt(2 * math.pi) for w, m in zip(weights, (-50, 50), strict=True)
    )
    inside = density[density > 0]
    exact = -np.sum(inside * np.log(inside)) * (x[1] - x[0])
    bound = bounds.decision_bound(np.ones(2), np.array([30, 70]), 1)
    assert bound == pytest.approx(exact, abs=1e-6)
    assert bound == pytest.approx(NAT + bounds.label_entropy(np.array([30, 70])), abs=1e-12)


def test_decision_bound_weighs_classes_by_their_counts():
    radius, counts = np.array([1.0, 4.0, 9.0]), np.array([1, 2, 5])
    hand = sum(n / 8 * (NAT + 0.5 * math.log(r)) for r, n in zip(radius, counts, strict=True))
    hand += -sum(n / 8 * math.log(n / 8) for n in counts)
    assert bounds.decision_bound(radius, counts, 1) == pytest.approx(hand, rel=1e-12)


def test_a_class_without_samples_is_left_out_and_one_without_a_radius_is_not():
    full = bounds.decision_bound(np.array([1.0, 2.0]), np.array([4, 6]), 3)
    assert bounds.decision_bound(np.array([1.0, np.nan, 2.0]), np.array([4, 0, 6]), 3) == pytest.approx(full)
    assert math.isnan(bounds.decision_bound(np.array([1.0, np.nan, 2.0]), np.array([4, 1, 6]), 3))


def test_label_entropy():
    assert bounds.label_entropy(np.full(10, 7)) == pytest.approx(math.log(10))
    assert bounds.label_entropy(np.array([0, 3, 0])) == 0.0
    with pytest.raises(UserError, match="class counts sum to 0"):
        bounds.label_entropy(np.zeros(3))


def test_nothing_varying_is_minus_infinity_and_extremes_do_not_warn():
    """Warnings are errors in this suite."""
    assert bounds.feature_bound(0.0, 5) == -math.inf
    assert bounds.class_bound(np.zeros(3), 5).tolist() == [-math.inf] * 3
    assert bounds.decision_bound(np.array([0.0, 1.0]), np.array([1, 1]), 5) == -math.inf
    assert math.isfinite(bounds.feature_bound(1e308, 1))
    assert math.isfinite(bounds.feature_bound(5e-324, 65_536))
    for name in ("uint8", "bfloat16", "float32"):
        payload = bounds.quantiser(name)
        for size in (0.0, 1e-300, 1e300):
            bits = bounds.quantised_entropy(
                bounds.feature_bound(size, 1),
                1,
                payload.step(math.sqrt(size), math.sqrt(size)),
                payload.levels,
            )
            assert 0 <= bits <= math.log(payload.levels)


@given(st.floats(1e-3, 1e3), st.integers(1, 5000), st.floats(1e-6, 1e6))
def test_scaling_adds_d_log_s_and_uint8_does_not_notice(scale, dimension, scatter):
    scaled = scatter * scale**2
    small, large = bounds.feature_bound(scatter, dimension), bounds.feature_bound(scaled, dimension)
    assert large - small == pytest.approx(dimension * math.log(scale), rel=1e-9, abs=1e-7)

    payload = bounds.quantiser("uint8")
    sent = [
        bounds.quantised_entropy(h, dimension, payload.step(math.sqrt(v / dimension), 1.0), payload.levels)
        for h, v in ((small, scatter), (large, scaled))
    ]
    assert sent[0] == pytest.approx(sent[1], rel=1e-9)
    assert sent[0] == pytest.approx(dimension * (NAT + math.log(255 / 8)), rel=1e-9)


@given(st.floats(1e-3, 1e3), st.floats(1.01, 10.0))
def test_more_spread_never_means_less_entropy(radius, factor):
    counts = np.array([3, 5])
    less, more = np.array([radius, 1.0]), np.array([radius * factor, 1.0])
    assert bounds.feature_bound(radius * factor, 4) > bounds.feature_bound(radius, 4)
    assert bounds.decision_bound(more, counts, 4) > bounds.decision_bound(less, counts, 4)
    sent = [bounds.information_ceiling(1e4, r, counts, 4, step=0.1, levels=256) for r in (less, more)]
    assert sent[1].decision >= sent[0].decision
    assert sent[1].ceiling >= sent[0].ceiling


@pytest.mark.parametrize("name", ["uint8", "bfloat16", "float32"])
def test_steps(name):
    payload = bounds.quantiser(name)
    if name == "uint8":
        assert payload.step(2.0, 99.0) == pytest.approx(16 / 255)
        assert payload.levels == 256
    else:
        jnp = pytest.importorskip("jax.numpy")
        kind = jnp.dtype(name)
        for rms in (1.0, 1.99, 5.3, 0.013, 3e20):
            here = jnp.asarray(rms, kind)
            ulp = float(jnp.nextafter(here, jnp.asarray(jnp.inf, kind))) - float(here)
            assert payload.step(0.0, float(here)) == ulp
        assert payload.levels == 2 ** (8 * kind.itemsize)


def test_an_unknown_quantiser_names_the_nearest():
    with pytest.raises(UserError, match="unknown quantiser 'unit8'; did you mean 'uint8'"):
        bounds.quantiser("unit8")


@pytest.mark.parametrize("step", [0.05, 0.25, 1.0])
def test_quantised_gaussian_against_its_histogram(step):
    """h - ln Δ against the entropy of 400,000 rounded draws, to 1 % once the known Δ²/24 is taken off."""
    draws = np.random.default_rng(0).normal(size=400_000)
    measured = entropy(np.unique(np.floor(draws / step), return_counts=True)[1])
    predicted = bounds.quantised_entropy(bounds.feature_bound(1.0, 1), 1, step, 2**16)
    assert predicted == pytest.approx(measured - step**2 / 24, rel=0.01)


def test_uint8_payload_against_its_histogram():
    draws = np.random.default_rng(1).normal(3.0, 2.0, size=200_000)
    step = bounds.quantiser("uint8").step(2.0, 0.0)
    codes = np.clip(np.round((draws - 3.0 + 8.0) / step), 0, 255)
    measured = entropy(np.bincount(codes.astype(int), minlength=256))
    assert bounds.quantised_entropy(bounds.feature_bound(4.0, 1), 1, step, 256) == pytest.approx(measured, rel=0.01)


def test_quantised_entropy_stays_between_nothing_and_every_level():
    assert bounds.quantised_entropy(1e9, 3, 1e-3, 256) == 3 * math.log(256)
    assert bounds.quantised_entropy(-1e9, 3, 1e-3, 256) == 0.0
    assert bounds.quantised_entropy(-math.inf, 3, 0.0, 256) == 0.0
    assert math.isnan(bounds.quantised_entropy(math.nan, 3, 1.0, 256))


def test_ceiling_is_the_smaller_bound_and_agrees_with_quantising_the_decision_bound():
    radius, counts = np.array([2.0, 3.0]), np.array([10, 30])
    got = bounds.information_ceiling(500.0, radius, counts, 2, step=0.01, levels=2**16)
    assert got.feature == pytest.approx(bounds.quantised_entropy(bounds.feature_bound(500.0, 2), 2, 0.01, 2**16))
    whole = bounds.quantised_entropy(bounds.decision_bound(radius, counts, 2), 2, 0.01, 2**16)
    assert got.decision == pytest.approx(whole)  # equal while every class is wider than the step
    assert got.ceiling == got.decision < got.feature
    overlapping = bounds.information_ceiling(2.8, radius, counts, 2, step=0.01, levels=2**16)
    assert overlapping.ceiling == overlapping.feature < overlapping.decision


def test_collapsed_classes_still_send_the_label():
    """Two points sent exactly: the histogram has the entropy of the label, whatever the step."""
    z = np.repeat([-3.0, 3.0], [100, 300])
    measured = entropy(np.unique(np.floor(z / 0.1), return_counts=True)[1])
    got = bounds.information_ceiling(z.var(), np.zeros(2), np.array([100, 300]), 1, step=0.1, levels=256)
    assert got.ceiling == pytest.approx(measured)


def test_ceiling_never_exceeds_the_levels_and_keeps_nan():
    wide = bounds.information_ceiling(1e12, np.full(2, 1e11), np.array([1, 1]), 2, step=1e-3, levels=256)
    assert wide == (2 * math.log(256),) * 3
    unknown = bounds.information_ceiling(9.0, np.array([1.0, np.nan]), np.array([5, 1]), 2, step=0.1, levels=256)
    assert math.isnan(unknown.decision)
    assert math.isnan(unknown.ceiling)
