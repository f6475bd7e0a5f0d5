"""Collapse of classes, against plain matrices and scikit-learn."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.linear_model import Ridge

from gpz_jax.analysis.collapse import (
    class_distance_variance,
    linear_probe_accuracy,
    participation_ratio,
    within_class_collapse,
)
from gpz_jax.errors import UserError


@pytest.fixture(params=[(60, 7), (30, 80)], ids=["more images", "more numbers"])
def made(request):
    """z with unequal classes 2, 5 and 9, and their labels."""
    rng, (n, d) = np.random.default_rng(0), request.param
    labels = rng.choice([2, 5, 9], n, p=[0.5, 0.3, 0.2])
    return rng.normal(size=(n, d)) + 0.3 * labels[:, None] * rng.normal(size=d), labels


def moments(z, labels):
    """Σ_W, Σ_B, R_c² and the class means, as matrices."""
    names = np.unique(labels)
    means = np.array([z[labels == c].mean(0) for c in names])
    share = np.array([np.mean(labels == c) for c in names])
    d = z - means[np.searchsorted(names, labels)]
    apart = means - z.mean(0)
    radius = np.array([np.mean(np.sum((z[labels == c] - m) ** 2, 1)) for c, m in zip(names, means, strict=True)])
    return d.T @ d / len(z), (apart.T * share) @ apart, radius, means


def test_nc1_is_that_of_the_matrices(made):
    within, between, radius, _ = moments(*made)
    expected = np.trace(within @ np.linalg.pinv(between, rcond=1e-9, hermitian=True)) / len(radius)
    assert within_class_collapse(*made) == pytest.approx(expected, rel=1e-9)


def test_cdnv_is_the_mean_over_pairs(made):
    _, _, radius, means = moments(*made)
    distances = cdist(means, means, "sqeuclidean")
    upper = np.triu_indices(len(radius), 1)
    expected = np.mean((np.add.outer(radius, radius) / 2)[upper] / distances[upper])
    assert class_distance_variance(*made) == pytest.approx(expected, rel=1e-12)


def test_effective_dimension_is_that_of_the_covariance(made):
    values = np.linalg.eigvalsh(np.cov(made[0].T))
    assert participation_ratio(made[0]) == pytest.approx(values.sum() ** 2 / np.sum(values**2), rel=1e-9)


def test_points_have_collapsed_and_still_z_has_no_dimension():
    z, labels = np.array([[0.0, 1.0]] * 3 + [[2.0, 0.0]] * 2), np.array([0, 0, 0, 1, 1])
    assert within_class_collapse(z, labels) == class_distance_variance(z, labels) == 0
    assert np.isnan(participation_ratio(np.ones((4, 3))))
    assert np.isnan(within_class_collapse(np.ones((4, 3)), np.array([0, 0, 1, 1])))


@pytest.mark.parametrize("n", [25, 200])
def test_linear_probe_is_the_best_ridge_by_leaving_one_out(n):
    rng = np.random.default_rng(1)
    labels = rng.integers(4, size=n + 300) * 3
    z = rng.normal(size=(n + 300, 50)) + 0.3 * rng.normal(size=(10, 50))[labels]
    y = (labels[:, None] == np.arange(4) * 3).astype(float)
    fit, test = slice(n), slice(n, None)
    centred = z[fit] - z[fit].mean(0)
    unit, errors, answers = np.sum(centred**2) / n, [], []
    for r in (1e-3, 1e-2, 1e-1, 1.0):
        # The mean stays that of all rows, as where the rows are centred once.
        y_centred = y[fit] - y[fit].mean(0)
        left = [(np.delete(centred, i, 0), np.delete(y_centred, i, 0)) for i in range(n)]
        made = [Ridge(alpha=r * unit, fit_intercept=False).fit(*pair) for pair in left]
        out = np.array([one.predict(centred[i : i + 1])[0] for i, one in enumerate(made)])
        errors.append(np.mean((out - y_centred) ** 2))
        answers.append(np.argmax(Ridge(alpha=r * unit).fit(z[fit], y[fit]).predict(z[test]), 1) * 3)
    expected = np.mean(answers[int(np.argmin(errors))] == labels[test])
    assert 0.3 < expected < 1
    assert linear_probe_accuracy(z[fit], labels[fit], z[test], labels[test]) == expected


def test_one_class_is_refused():
    with pytest.raises(UserError, match="1 class"):
        class_distance_variance(np.ones((3, 2)), np.zeros(3, int))
