"""Soft targets and their loss: the gradient is p - q, and turns at p_c = 1 - α."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

from gpz_jax.targets import cross_entropy, output_entropy, soft_targets

ALPHAS = [0.0, 0.3, -0.05]
LABELS = jnp.array([0, 3, 3, 1, 4])
LOGITS = 2 * jax.random.normal(jax.random.key(0), (5, 6))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_soft_targets(alpha):
    q = soft_targets(LABELS, 6, alpha)
    assert q.dtype == jnp.float32
    np.testing.assert_allclose(q, oracles.soft_targets(LABELS, 6, alpha), atol=1e-7)
    np.testing.assert_allclose(q.sum(axis=1), 1.0, atol=1e-6)
    traced = jax.jit(soft_targets, static_argnums=1)(LABELS, 6, jnp.float32(alpha))
    np.testing.assert_allclose(traced, q, atol=1e-7)


def test_reverse_smoothing_overshoots():
    q = soft_targets(LABELS, 6, -0.05)
    np.testing.assert_allclose(q.max(axis=1), 1.05, rtol=1e-6)
    np.testing.assert_allclose(q.min(axis=1), -0.01, rtol=1e-6)


def test_they_are_not_optax_smooth_labels():
    """Which spreads α over all K classes: its correct class gets α/K more."""
    one_hot = jax.nn.one_hot(LABELS, 6)
    theirs = optax.smooth_labels(one_hot, 0.3)
    np.testing.assert_allclose(jnp.sum((theirs - soft_targets(LABELS, 6, 0.3)) * one_hot, axis=1), 0.3 / 6, rtol=1e-5)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_cross_entropy_and_its_gradient(alpha):
    q = soft_targets(LABELS, 6, alpha)
    np.testing.assert_allclose(cross_entropy(LOGITS, q), oracles.cross_entropy(LOGITS, np.float64(q)), rtol=1e-5)
    gradient = jax.grad(lambda s: cross_entropy(s, q).sum())(LOGITS)
    np.testing.assert_allclose(gradient, oracles.softmax(LOGITS) - np.float64(q), atol=1e-6)

    s, step = np.float64(LOGITS), 1e-5  # the error is step²/6 times a third derivative below 1
    for k in range(6):
        nudge = step * (np.arange(6) == k)
        up, down = (oracles.cross_entropy(s + sign * nudge, np.float64(q)) for sign in (1, -1))
        np.testing.assert_allclose(gradient[:, k], (up - down) / (2 * step), atol=1e-6)


@pytest.mark.parametrize("alpha", [0.3, 0.1])
def test_correct_class_gradient_changes_sign_at_one_minus_alpha(alpha):
    def correct(p):
        """Gradient in the true logit, for an image whose true class has probability p."""
        logits = jnp.array([[jnp.log(p), *[jnp.log((1 - p) / 3)] * 3]])
        q = soft_targets(jnp.array([0]), 4, alpha)
        return float(jax.grad(lambda s: cross_entropy(s, q)[0])(logits)[0, 0])

    assert correct(1 - alpha - 0.01) == pytest.approx(-0.01, abs=1e-6)
    assert correct(1 - alpha) == pytest.approx(0, abs=1e-6)
    assert correct(1 - alpha + 0.01) == pytest.approx(0.01, abs=1e-6)


def test_without_smoothing_or_with_reverse_smoothing_it_never_does():
    for alpha in (0.0, -0.05):
        q = soft_targets(jnp.array([0]), 2, alpha)
        gradients = [
            jax.grad(lambda s, q=q: cross_entropy(s, q)[0])(jnp.array([[s, 0.0]]))[0, 0] for s in (-9.0, 0.0, 9.0)
        ]
        assert max(gradients) < 0


def test_reverse_smoothing_has_no_lower_bound():
    losses = [
        cross_entropy(jnp.array([[s, 0.0]]), soft_targets(jnp.array([0]), 2, -0.05))[0] for s in (10.0, 100.0, 1e4)
    ]
    np.testing.assert_allclose(losses, [-0.5, -5.0, -500.0], rtol=1e-3)


def test_output_entropy():
    np.testing.assert_allclose(output_entropy(LOGITS), oracles.entropy(LOGITS), rtol=1e-5)
    np.testing.assert_allclose(output_entropy(jnp.zeros((2, 10))), np.log(10), rtol=1e-6)
    certain = output_entropy(jnp.array([[1e4, 0.0, -1e4]]))  # 0 ln 0 = 0
    assert certain.tolist() == [0.0]


def test_bfloat16_logits_are_scored_in_float32():
    logits = LOGITS.astype(jnp.bfloat16)
    wide = logits.astype(jnp.float32)
    q = soft_targets(LABELS, 6, 0.3)
    assert cross_entropy(logits, q).dtype == output_entropy(logits).dtype == jnp.float32
    np.testing.assert_array_equal(cross_entropy(logits, q), cross_entropy(wide, q))
    np.testing.assert_array_equal(output_entropy(logits), output_entropy(wide))
