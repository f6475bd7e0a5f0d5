import itertools
import math
import re

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gpz_jax.analysis import zone
from gpz_jax.analysis.zone import CutStatistics
from gpz_jax.errors import UserError


def names(count):
    return tuple(f"block_{j}" for j in range(1, count + 1))


def of_radius(*radius):
    return CutStatistics(names(len(radius)), np.array(radius, np.float64), np.ones(len(radius)))


# The released rule.


@pytest.mark.parametrize(
    ("radius", "cuts", "onset"),
    [
        ([100, 95, 5, 4.9], ("block_3",), "block_3"),  # one drop; the second largest is its neighbour
        ([100, 50, 20, 19], ("block_3",), "block_3"),  # adjacent entries, .5 and .6: nothing lies between
        ([100, 40, 38, 19], ("block_2",), "block_2"),  # .6 and .5, only .05 between
        ([100, 40, 30, 15], ("block_2", "block_4"), "block_2"),  # .6 and .5 with .25 between
        (
            [100, 50, 100, 40],
            ("block_2", "block_4"),
            "block_4",
        ),  # a rise of 100 % between; the larger is deeper
        ([100, 50, 55, 20], ("block_4",), "block_4"),  # a rise of 10 % between
        ([100, 50, 40, 20], ("block_2", "block_4"), "block_2"),  # a tie, and .2 is not below .2
        ([10, 20, 30, 60], ("block_3",), "block_3"),  # rises only: -1, -.5, -1
        ([10, 4], ("block_2",), "block_2"),  # a single drop
        ([0, 5, 4, 0, 3], ("block_4",), "block_4"),  # nothing to drop from counts as 0
    ],
)
def test_paper_rule_worked_by_hand(radius, cuts, onset):
    got = zone.paper_rule(of_radius(*radius))
    assert (got.rule, got.cuts, got.onset) == ("paper", cuts, onset)


def released(radius):
    """The released procedure transcribed with plain lists: positions, largest drop first."""
    drops = [(a - b) / a if a else 0.0 for a, b in itertools.pairwise(radius)]
    order = sorted(range(len(drops)), key=lambda k: drops[k], reverse=True)
    if len(order) == 1:
        return [order[0] + 1]
    between = drops[min(order[:2]) + 1 : max(order[:2])]
    return [k + 1 for k in (order[:1] if all(abs(d) < 0.2 for d in between) else order[:2])]


@given(st.lists(st.integers(0, 12), min_size=2, max_size=9))
def test_paper_rule_against_plain_lists(radius):
    stats = of_radius(*radius)
    got, expected = zone.paper_rule(stats), released(radius)
    assert got.cuts == tuple(stats.cuts[j] for j in sorted(expected))
    assert got.onset == stats.cuts[expected[0]]


def test_paper_rule_evidence_and_reason():
    got = zone.paper_rule(of_radius(100, 95, 5, 4.9))
    np.testing.assert_allclose(got.evidence, [np.nan, 0.05, 90 / 95, 0.02])
    assert np.isnan(got.low).all()
    assert np.isnan(got.high).all()
    assert "94.7%, at 'block_3'" in got.reason
    assert "5.0%, at 'block_2'" in got.reason


def test_paper_rule_threshold():
    stats = of_radius(100, 40, 30, 15)
    assert zone.paper_rule(stats, threshold=0.3).cuts == ("block_2",)


def test_paper_rule_names_a_cut_where_there_is_nothing():
    assert zone.paper_rule(of_radius(3, 3, 3)).cuts == ("block_2",)


def test_paper_rule_refuses_what_it_cannot_compare():
    with pytest.raises(UserError, match="got 1: give at least 2"):
        zone.paper_rule(of_radius(3))
    with pytest.raises(UserError, match="within at cut 'block_2' is nan, not a finite number"):
        zone.paper_rule(of_radius(3, np.nan, 1))
    with pytest.raises(UserError, match=r"within has shape \(3,\) for 2 cuts"):
        zone.paper_rule(CutStatistics(("a", "b"), np.ones(3), np.ones(2)))


# The null rule.


def with_evidence(evidence, copies=4, spread=0.005, replicates=200):
    """Copies around ρ = 0.95, a network below them by the given evidence, replicates with image noise."""
    evidence = np.asarray(evidence, np.float64)
    rng = np.random.default_rng(3)
    null = math.log(0.95) + spread * rng.normal(size=(copies, len(evidence)))
    network = null.mean(axis=0) - evidence
    shared = 0.01 * rng.normal(size=(replicates, 1, 1))  # the same images for all
    own = 0.002 * rng.normal(size=(replicates, copies + 1, len(evidence)))
    logs = np.concatenate([network[None], null]) + shared + own
    return CutStatistics(
        names(len(evidence)),
        np.ones(len(evidence)),
        np.exp(network),
        np.exp(null),
        np.exp(logs[:, 0]),
        np.exp(logs[:, 1:]),
    )


@pytest.mark.parametrize(
    ("evidence", "cuts", "onset"),
    [
        ([0.0, 0.0, 1.0, 1.1, 1.2], (3, 4, 5), 3),  # a step that stays
        ([0.9, 1.0, 1.0], (1, 2, 3), 1),  # before the first cut the evidence is 0
        ([0.0, 1.0, 0.9, 0.3, 0.9], (2, 3), 2),  # falls below half: what lies beyond is not part of it
        ([0.0, 0.4, 0.7, 1.0, 1.0], (2, 3, 4, 5), 2),  # the onset belongs to it although below half
        ([0.0, 0.4, 0.45, 0.8, 1.0, 1.2], (2, 4, 5, 6), 2),  # the run starts later than the onset
        ([0.0, 0.0, 0.0, 0.0, 0.7], (5,), 5),
        ([0.0, 0.1, 0.9, 0.5, 0.46, 0.44], (3, 4, 5), 3),  # half of .9 is .45
    ],
)
def test_null_rule_worked_by_hand(evidence, cuts, onset):
    got = zone.null_rule(with_evidence(evidence))
    assert got.cuts == tuple(f"block_{j}" for j in cuts)
    assert got.onset == f"block_{onset}"
    np.testing.assert_allclose(got.evidence, evidence, atol=1e-12)


def test_exactly_half_belongs_to_the_zone():
    assert zone._from_onset(np.array([0.0, 1.0, 0.5, 0.49]), 1) == [1, 2]


def test_null_rule_intervals_hold_the_evidence_and_cancel_what_the_images_share():
    got = zone.null_rule(with_evidence([0.0, 0.0, 1.0, 1.1, 1.2]))
    assert np.all(got.low < got.evidence)
    assert np.all(got.evidence < got.high)
    # own noise: 0.002 sqrt(1 + 1/4) on either side times 1.96; unpaired it would be five times as wide
    np.testing.assert_allclose(got.high - got.low, 2 * 1.96 * 0.002 * math.sqrt(1.25), rtol=0.25)
    assert "peaks at 1.200 nats at 'block_5'" in got.reason
    assert "rises most, by 1.000 to 1.000, at 'block_3'" in got.reason


def test_the_limit_is_the_t_prediction_limit_worked_out_with_loops():
    stats = with_evidence([0.0, 0.0, 0.5], copies=3)
    null = np.log(stats.rho_null)
    largest = []
    for s in range(3):
        rest = [null[k] for k in range(3) if k != s]
        largest.append(max((rest[0][j] + rest[1][j]) / 2 - null[s][j] for j in range(3)))
    mean = sum(largest) / 3
    deviation = math.sqrt(sum((m - mean) ** 2 for m in largest) / 2)
    limit = mean + 22.3271 * deviation * math.sqrt(4 / 3)  # t with 2 degrees of freedom at 0.999, from a table
    assert f"{limit:.3f}, the 99.9 % limit for one more untrained network (3 copies)" in zone.null_rule(stats).reason
    # and it is what decides, from just below to just above
    point = stats._replace(rho_samples=None, rho_null_samples=None)
    for top, found in ((limit * 0.999, False), (limit * 1.001, True)):
        rho = np.exp(null.mean(axis=0) - np.array([0.0, 0.0, top]))
        assert bool(zone.null_rule(point._replace(rho=rho)).cuts) is found


def test_the_lower_end_of_the_interval_decides():
    """The point estimate stands above the limit, half of the resamples do not."""
    stats = with_evidence([0.0, 0.0, 0.1])
    assert zone.null_rule(stats).cuts == ("block_3",)
    wobble = np.linspace(-0.2, 0.2, 200)[:, None]
    got = zone.null_rule(stats._replace(rho_samples=stats.rho_samples * np.exp(wobble)))
    assert got.cuts == ()
    assert got.onset is None
    assert "does not exceed" in got.reason


def test_without_replicates_the_point_estimate_decides_and_says_so():
    stats = with_evidence([0.0, 0.0, 1.0])._replace(rho_samples=None)
    got = zone.null_rule(stats)
    assert got.cuts == ("block_3",)
    assert "no bootstrap replicates, so this is the point estimate" in got.reason
    assert np.isnan(got.low).all()


@pytest.mark.parametrize("copies", [2, 3, 6])
@pytest.mark.parametrize("along", [0.0, 0.9])
def test_an_untrained_network_has_no_zone(copies, along):
    """Exchangeable draws, independent or correlated along the depth: at least 95 of 100 say "no zone"."""
    silent = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        noise = math.sqrt(1 - along) * rng.normal(size=(copies + 1, 8))
        noise += math.sqrt(along) * rng.normal(size=(copies + 1, 1))
        rho = 0.95 * np.exp(0.01 * noise)
        stats = CutStatistics(names(8), np.ones(8), rho[0], rho[1:])
        got = zone.null_rule(stats)
        silent += got.cuts == () and got.onset is None
    assert silent >= 95


def test_a_trained_network_is_found_among_the_same_copies():
    found = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        rho = 0.95 * np.exp(0.01 * rng.normal(size=(4, 8)))
        rho[0, 5:] *= 0.5
        got = zone.null_rule(CutStatistics(names(8), np.ones(8), rho[0], rho[1:]))
        found += got.cuts == ("block_6", "block_7", "block_8") and got.onset == "block_6"
    assert found >= 95


def test_null_rule_ignores_the_scale_that_fools_the_paper_rule():
    stats = with_evidence([0.0, 0.0, 0.0, 0.0])._replace(within=np.array([500.0, 530.0, 14.0, 15.0]))
    assert zone.locate("paper", stats).cuts == ("block_3",)
    assert zone.locate("null", stats).cuts == ()


def test_null_rule_refuses_what_it_cannot_compare():
    stats = with_evidence([0.0, 1.0])
    for few in (None, stats.rho_null[:1]):
        with pytest.raises(UserError, match="null_seeds 2 or more"):
            zone.null_rule(stats._replace(rho_null=few))
    with pytest.raises(UserError, match=r"rho at cut 'block_2' is 0\.0, not a positive number"):
        zone.null_rule(stats._replace(rho=np.array([0.9, 0.0])))
    with pytest.raises(UserError, match="rho_null at cut 'block_1' is nan"):
        zone.null_rule(stats._replace(rho_null=np.array([[0.9, 0.9], [np.nan, 0.9]])))
    with pytest.raises(UserError, match=r"rho has shape \(3,\) for 2 cuts"):
        zone.null_rule(stats._replace(rho=np.ones(3)))
    with pytest.raises(UserError, match=r"confidence is 99\.0: give a number between 0 and 1"):
        zone.null_rule(stats, confidence=99.0)


def test_an_unknown_rule_names_the_nearest():
    assert set(zone.RULES) == {"paper", "null"}
    with pytest.raises(UserError, match="unknown zone rule 'papers'; did you mean 'paper'"):
        zone.locate("papers", of_radius(2, 1))


# The bootstrap.


def squared_deviations(z, y):
    """r_i and t_i by loops over the classes."""
    within = np.empty(len(z))
    for c in np.unique(y):
        within[y == c] = np.sum((z[y == c] - z[y == c].mean(axis=0)) ** 2, axis=1)
    return within, np.sum((z - z.mean(axis=0)) ** 2, axis=1)


def mixture(seed, samples=400, classes=4, dimension=8, apart=1.0):
    """Unit Gaussians around fixed means; the true ρ with equal class probabilities."""
    means = apart * np.eye(classes, dimension)
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=samples)
    between = np.sum((means - means.mean(axis=0)) ** 2) / classes
    return means[y] + rng.normal(size=(samples, dimension)), y, dimension / (dimension + between)


def test_bootstrap_against_the_plain_loop():
    rng = np.random.default_rng(5)
    within, total = rng.gamma(2.0, size=(2, 3, 11)), 1 + rng.gamma(5.0, size=(2, 3, 11))
    got = zone.bootstrap_rho(within, total, replicates=70, seed=9)  # more than one chunk
    assert got.shape == (70, 2, 3)
    rng, expected = np.random.default_rng(9), []
    for rows in (64, 6):
        for drawn in rng.integers(11, size=(rows, 11)):
            expected.append([[sum(within[m, j, drawn]) / sum(total[m, j, drawn]) for j in range(3)] for m in range(2)])
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_bootstrap_against_scipy():
    z, y, _ = mixture(0, samples=150)
    within, total = squared_deviations(z, y)
    got = zone.bootstrap_rho(within[None], total[None], replicates=4000)[:, 0]
    other = scipy.stats.bootstrap(
        (within, total),
        lambda r, t, axis: r.sum(axis) / t.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(1),
    )
    assert got.std() == pytest.approx(other.standard_error, rel=0.06)
    interval = np.quantile(got, [0.025, 0.975])
    width = np.diff(other.confidence_interval)[0]
    np.testing.assert_allclose(interval, other.confidence_interval, atol=0.06 * width)


def test_bootstrap_interval_holds_the_truth():
    held = 0
    for seed in range(100):
        z, y, truth = mixture(seed)
        within, total = squared_deviations(z, y)
        low, high = np.quantile(zone.bootstrap_rho(within[None], total[None], replicates=300), [0.025, 0.975])
        held += low <= truth <= high
    assert 85 <= held <= 99


def test_fixed_means_agree_with_refitted_ones_up_to_the_plug_in_bias():
    """The spread is the same; the refitted centre lies lower by about 1/N_c of ρ once more."""
    z, y, _ = mixture(1, samples=200, classes=4)
    within, total = squared_deviations(z, y)
    fixed = zone.bootstrap_rho(within[None], total[None], replicates=1500)[:, 0]
    rng, refitted = np.random.default_rng(2), []
    for _ in range(1500):
        drawn = rng.integers(200, size=200)
        r, t = squared_deviations(z[drawn], y[drawn])
        refitted.append(r.sum() / t.sum())
    assert fixed.mean() == pytest.approx(within.sum() / total.sum(), abs=4 * fixed.std() / math.sqrt(1500))
    assert np.std(refitted) == pytest.approx(fixed.std(), rel=0.15)
    assert np.mean(refitted) < fixed.mean() - 0.005


@given(hnp.arrays(np.float32, (3, 2, 7), elements=st.floats(0.125, 8, width=32)), st.permutations(range(3)))
def test_models_share_their_resamples_in_any_order(within, order):
    total = within + np.float32(1.0)
    together = zone.bootstrap_rho(within, total, replicates=5)
    np.testing.assert_allclose(
        zone.bootstrap_rho(within[order], total[order], replicates=5), together[:, order], rtol=1e-12
    )
    for m in range(3):
        alone = zone.bootstrap_rho(within[m], total[m], replicates=5)
        np.testing.assert_allclose(alone, together[:, m], rtol=1e-12)


def test_the_order_of_the_samples_does_not_move_the_interval():
    z, y, _ = mixture(3)
    within, total = squared_deviations(z, y)
    order = np.random.default_rng(0).permutation(len(y))
    there = np.quantile(zone.bootstrap_rho(within[None], total[None], replicates=3000), [0.025, 0.5, 0.975])
    here = zone.bootstrap_rho(within[None, order], total[None, order], replicates=3000)
    np.testing.assert_allclose(np.quantile(here, [0.025, 0.5, 0.975]), there, atol=0.06 * (there[2] - there[0]))


def test_bootstrap_corner_cases():
    r = np.array([[1.0, 2.0], [0.0, 0.0]])
    got = zone.bootstrap_rho(r, r, replicates=3)
    assert np.all(got[:, 0] == 1)
    assert np.isnan(got[:, 1]).all()  # nothing varies
    with pytest.raises(UserError, match="got 0 and 1000, give 1 or more"):
        zone.bootstrap_rho(np.ones((1, 0)), np.ones((1, 0)))
    with pytest.raises(UserError, match="got 2 and 0"):
        zone.bootstrap_rho(r, r, replicates=0)


def test_bootstrap_feeds_the_null_rule():
    """End to end on Gaussians: two copies without classes, a network whose last cut separates them."""
    z, y, _ = mixture(4, samples=600)
    rng = np.random.default_rng(6)
    models = []
    for trained in (True, False, False, False):
        early = rng.normal(size=z.shape)
        late = z + 2 * np.eye(4, 8)[y] if trained else rng.normal(size=z.shape)
        models.append([squared_deviations(early, y), squared_deviations(late, y)])
    within, total = np.moveaxis(np.array(models), 2, 0)  # (M, L, 2, N) -> two of (M, L, N)
    rho = within.sum(-1) / total.sum(-1)
    samples = zone.bootstrap_rho(within, total, replicates=200)
    stats = CutStatistics(("early", "late"), np.ones(2), rho[0], rho[1:], samples[:, 0], samples[:, 1:])
    assert zone.locate("null", stats).cuts == ("late",)


# Dead cuts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("at", [0, 2, 4])
def test_the_rules_are_those_of_the_cuts_that_are_left(at, value):
    rng = np.random.default_rng(0)
    cuts = tuple("abcde")
    whole = zone.CutStatistics(
        cuts, rng.uniform(1, 2, 5), rng.uniform(0.2, 0.4, 5), rng.uniform(0.8, 0.81, (4, 5)),
        rng.uniform(0.2, 0.4, (50, 5)), rng.uniform(0.8, 0.81, (50, 4, 5)),
    )  # fmt: skip
    keep = np.arange(5) != at
    left = zone.CutStatistics(
        tuple(np.array(cuts)[keep].tolist()), *(np.asarray(array)[..., keep] for array in whole[1:])
    )
    within, rho = whole.within.copy(), whole.rho.copy()
    within[at] = rho[at] = value
    for rule in zone.RULES:
        got, want = zone.locate(rule, whole._replace(within=within, rho=rho)), zone.locate(rule, left)
        assert (got.cuts, got.onset) == (want.cuts, want.onset)
        assert got.cuts
        for name in ("evidence", "low", "high"):
            np.testing.assert_array_equal(getattr(got, name)[keep], getattr(want, name))
            assert np.isnan(getattr(got, name)[at])
        assert got.reason == f"{want.reason}; left out: {cuts[at]!r} (R_c² is {value})"


def test_a_collapse_to_nothing_is_left_out_of_the_null_rule_alone():
    stats = zone.CutStatistics(("a", "b"), np.array([2.0, 0.0]), np.array([0.5, 0.0]), np.full((3, 2), 0.5))
    assert zone.locate("paper", stats).onset == "b"
    assert "left out: 'b' (rho is 0)" in zone.locate("null", stats).reason


def test_too_few_cuts_are_no_zone():
    stats = zone.CutStatistics(("a", "b"), np.array([2.0, np.nan]), np.full(2, np.nan), np.full((3, 2), 0.5))
    for rule in zone.RULES:
        got = zone.locate(rule, stats)
        assert (got.cuts, got.onset) == ((), None)
        assert got.reason.startswith("too few cuts can be compared; left out: ")


@pytest.mark.parametrize(("gain", "words"), [(0.02, "whose lower end does not exceed"), (1.0, "which exceeds")])
def test_the_sentence_says_what_was_compared(gain, words):
    rng = np.random.default_rng(1)
    null = 0.8 * np.exp(rng.normal(0, 0.001, (5, 1)))
    rho = np.array([0.8 * np.exp(-gain)])
    samples, nulls = rho * np.exp(rng.normal(0, 0.05, (200, 1))), np.broadcast_to(null, (200, 5, 1))
    got = zone.null_rule(zone.CutStatistics(("a",), np.ones(1), rho, null, samples, nulls))
    low, limit = (float(x) for x in re.search(r"interval (\S+) to .* exceeds? ([\d.]+),", got.reason).groups())
    assert words in got.reason
    assert (low > limit) == (words == "which exceeds")
