"""Whether reconstructions name their images: a brute force in numpy, closed forms, and what an attack reports."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpz_jax.errors import UserError
from gpz_jax.inversion import identification
from gpz_jax.inversion.identification import chosen_images, identify, ranked, wilson_interval


def brute_force(x, x_hat, labels, most, *, within=False):
    """By trying every order of the originals that are as near as each other."""
    shares = []
    for i in range(len(x)):
        among = [j for j in range(len(x)) if not within or labels[j] == labels[i]]
        distance = {j: float(np.sum((x[j] - x_hat[i]) ** 2)) for j in among}
        hits, orders = 0, 0
        tied = [j for j in among if distance[j] == distance[i]]
        nearer = sum(distance[j] < distance[i] for j in among)
        for order in itertools.permutations(tied):
            hits += nearer + order.index(i) < most
            orders += 1
        shares.append(hits / orders)
    return np.array(shares)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 7))
def test_it_is_the_brute_forces(seed, count):
    rng = np.random.default_rng(seed)
    # Small whole numbers, so that images are often equal and distances often tie.
    x, x_hat = (rng.integers(0, 3, (count, 2, 2, 1)).astype(np.float32) for _ in range(2))
    labels = rng.integers(0, 2, count)
    found = ranked(x, x_hat, labels)
    np.testing.assert_allclose(found.top1, brute_force(x, x_hat, labels, 1), atol=1e-6)
    np.testing.assert_allclose(found.top5, brute_force(x, x_hat, labels, 5), atol=1e-6)
    np.testing.assert_allclose(found.within, brute_force(x, x_hat, labels, 1, within=True), atol=1e-6)


X = np.random.default_rng(0).uniform(size=(40, 3, 3, 1)).astype(np.float32)
LABELS = np.arange(40) % 4
MEANS = np.stack([X[c == LABELS].mean(axis=0) for c in range(4)])[LABELS]


def test_perfect_reconstructions_name_all():
    found, each = identify(X, X, LABELS, MEANS)
    assert (found.top1, found.top5, found.within) == (1, 1, 1)
    assert found.top1_interval[1] == 1
    assert each.top1.tolist() == [1] * 40


def test_class_means_score_what_the_label_scores():
    found, _ = identify(X, MEANS, LABELS, MEANS)
    assert found.top1 == found.chance_label
    assert found.within_interval[0] <= found.chance_within <= found.within_interval[1]
    assert (found.chance, found.chance_within) == (1 / 40, 4 / 40)


def test_a_poor_reconstruction_may_name_its_image():
    """Little contrast: two thirds of the error that one grey image makes, and nearly every image named."""
    x = np.random.default_rng(0).uniform(size=(40, 10, 10, 1)).astype(np.float32)
    faint = 0.5 + 0.2 * (x - 0.5)
    found, _ = identify(x, faint, LABELS, np.full_like(x, 0.5))
    assert np.mean((x - faint) ** 2) > 0.6 * np.mean((x - 0.5) ** 2)
    assert found.top1 > 0.9
    assert found.chance_label <= 1 / 40


def test_what_is_not_a_number_names_nothing():
    broken = X.copy()
    broken[3] = np.nan
    assert ranked(X, broken, LABELS).top1.tolist() == [1, 1, 1, 0, *[1] * 36]


def test_at_most_a_thousand_are_compared_and_the_seed_says_which():
    assert chosen_images(1000, 3).tolist() == list(range(1000))
    one, same, other = (chosen_images(1001, seed) for seed in (0, 0, 1))
    assert len(one) == 1000
    assert (one == same).all()
    assert (one != other).any()
    assert (np.diff(one) > 0).all()


@pytest.mark.parametrize(("share", "count"), [(0.0, 10), (1.0, 10), (0.3, 50)])
def test_wilson_solves_its_own_equation(share, count):
    """Its ends are the p at which |p - share| is z standard errors of p."""
    for end in wilson_interval(share, count):
        assert 0 <= end <= 1
        error = np.sqrt(end * (1 - end) / count)
        np.testing.assert_allclose(abs(end - share), 1.959964 * error, atol=1e-6)


def test_records_are_read_back():
    found, _ = identify(X, MEANS, LABELS, MEANS)
    assert identification.read(identification.written(found)) == found
    assert identification.read({}).images == 0


def test_shapes_that_do_not_fit():
    with pytest.raises(UserError, match=r"give two equal shapes \(M, …\), M >= 1"):
        ranked(X, X[:, :2], LABELS)
    with pytest.raises(UserError, match="M >= 1"):
        ranked(X[:0], X[:0], LABELS[:0])
