"""Reading a ledger: sums over classes, the sign change, and how a prediction agrees with what came of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpz_jax.analysis.attribution import agreement, over_classes, sign_change


def test_images_weigh_the_same_and_a_class_without_a_radius_is_left_out():
    values = np.array([[1.0, 2.0, np.nan, np.nan], [3.0, 6.0, np.nan, np.nan]])  # (T, K)
    counts = np.array([10, 30, 1, 0])
    np.testing.assert_allclose(over_classes(values, counts), [(10 * 1 + 30 * 2) / 40, (10 * 3 + 30 * 6) / 40])


def test_a_class_that_should_have_a_radius_and_has_none_is_not_hidden():
    assert np.isnan(over_classes(np.array([1.0, np.nan]), np.array([5, 5])))


@pytest.mark.parametrize(
    ("coefficient", "first"),
    [([-0.7, -0.1, 0.0, 0.1, -0.1], 3), ([0.1, -0.1], 0), ([-0.9, -0.1, 0.0], None), ([np.nan, 0.2], 1)],
)
def test_sign_change(coefficient, first):
    assert sign_change(np.array(coefficient)) == first


def test_agreement_by_hand():
    # predicted (1, -1, 2, 0), realised (2, 1, 3, -2): means 0.5 and 1, covariance sum 0.5·1 + 1.5·0 + 1.5·2 + 0.5·3 = 5
    found = agreement(np.array([1.0, -1.0, 2.0, 0.0]), np.array([2.0, 1.0, 3.0, -2.0]))
    np.testing.assert_allclose(found.correlation, 5 / np.sqrt(5 * 14))
    np.testing.assert_allclose(found.size, np.sqrt(6 / 18))
    assert found.same_sign == 0.5


def test_agreement_leaves_out_steps_that_are_not_finite():
    a, b = np.array([1.0, np.nan, 2.0, 3.0]), np.array([1.0, 5.0, np.inf, 3.0])
    assert agreement(a, b) == agreement(a[[0, 3]], b[[0, 3]])
    assert all(np.isnan(agreement(np.array([np.nan]), np.array([1.0]))))


def test_agreement_of_what_does_not_vary():
    steady = agreement(np.array([1.0, 1.0]), np.array([2.0, 3.0]))
    assert np.isnan(steady.correlation)
    assert steady.same_sign == 1
    nothing = agreement(np.zeros(3), np.ones(3))
    assert (nothing.size, nothing.same_sign) == (0.0, 0.0)
    assert np.isnan(agreement(np.ones(3), np.zeros(3)).size)


def test_agreement_of_numbers_whose_squares_overflow():
    found = agreement(np.array([1e200, -2e200, 3e200]), np.array([1e180, -2e180, 3e180]))
    np.testing.assert_allclose(found, [1.0, 1e20, 1.0])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-10, 10), st.floats(-10, 10)), min_size=3, max_size=20),
    st.floats(1e-3, 1e3),
)
def test_agreement_knows_scale_only_in_its_size(pairs, scale):
    a, b = np.array(pairs).T
    one, other = agreement(a, b), agreement(scale * a, b)
    np.testing.assert_allclose(other.correlation, one.correlation, atol=1e-6)
    np.testing.assert_allclose(other.size, scale * one.size, rtol=1e-6)
    assert np.isnan(one.correlation) or -1 - 1e-9 <= one.correlation <= 1 + 1e-9
