"""What a script gives the library by mistake is one line too, and costs nothing under jit."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gpz_jax
from gpz_jax.analysis import contraction
from gpz_jax.config import AttackSettings
from gpz_jax.errors import UserError
from gpz_jax.inversion import metrics
from gpz_jax.targets import soft_targets

K, KEY = 3, jax.random.key(0)
X = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
Y = np.arange(30) % K
MODEL = nn.Sequential([nn.Dense(6), nn.relu, nn.Dense(K)])
VARIABLES = MODEL.init(KEY, X)
NETWORK = gpz_jax.tap(MODEL, VARIABLES, X)
PICTURE = np.random.default_rng(1).uniform(0, 1, (3, 16, 16, 1)).astype(np.float32)


@pytest.mark.parametrize("measure", [metrics.psnr, metrics.ssim, metrics.psnr_paper, metrics.score])
@pytest.mark.parametrize(
    ("x", "x_hat", "said"),
    [
        (PICTURE * 255, PICTURE * 255, r"images from .* to 25\d: scores take pixels in \[0, 1\]; divide by 255"),
        (2 * PICTURE - 1, 2 * PICTURE - 1, r"images from -.*; of what runs from -1 to 1 take \(x \+ 1\) / 2"),
        (PICTURE, PICTURE * 255, "reconstructions from .*; divide by 255"),
    ],
    ids=["bytes", "signed", "one of bytes"],
)
def test_pixels_on_another_scale(measure, x, x_hat, said):
    with pytest.raises(UserError, match=said):
        measure(jnp.asarray(x), jnp.asarray(x_hat))


@pytest.mark.parametrize("measure", [metrics.psnr, metrics.ssim])
def test_what_overshoots_a_little_is_scored_and_tracers_are_let_be(measure):
    x_hat = PICTURE + np.float32(0.3)
    plain, compiled = measure(jnp.asarray(PICTURE), jnp.asarray(x_hat)), jax.jit(measure)(PICTURE, x_hat)
    np.testing.assert_allclose(plain, compiled, rtol=1e-4)
    assert np.isfinite(plain).all()
    assert np.isnan(measure(jnp.asarray(PICTURE), jnp.full_like(PICTURE, np.nan))).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((np.array([0, 3]), 3, 0.1), "labels run from 0 to 3"),
        ((np.array([0, -1]), 3, 0.1), "labels run from -1 to 0"),
        ((np.array([0, 1]), 1, 0.1), "give at least 2"),
        ((np.array([0, 1]), 3, 1.0), "alpha must be a finite number below 1, got 1"),
        ((np.array([0, 1]), 3, float("nan")), "alpha must be a finite number below 1, got nan"),
        ((np.array([0, 1]), 3, -np.inf), "alpha must be a finite number below 1, got -inf"),
    ],
)
def test_soft_targets(arguments, said):
    with pytest.raises(UserError, match=said):
        soft_targets(*arguments)


def test_soft_targets_are_the_same_under_jit():
    q = soft_targets(jnp.asarray(Y), K, 0.3)
    traced = jax.jit(lambda labels, alpha: soft_targets(labels, K, alpha))(Y, jnp.float32(0.3))
    np.testing.assert_allclose(q, traced, rtol=1e-6)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"labels": Y[:-1]}, r"labels of shape \(29,\) and targets of shape \(30, 3\)"),
        ({"labels": Y + 1}, "subtract 1 if they count from 1"),
        ({"targets": soft_targets(Y[:20], K, 0.0)}, r"give \(N,\) and \(N, K\)"),
        ({"step_size": float("nan")}, "step_size must be a finite number, got nan"),
    ],
)
def test_terms(changed, said):
    given = {"labels": Y, "targets": soft_targets(Y, K, 0.0), "step_size": 0.1, **changed}
    with pytest.raises(UserError, match=said):
        contraction.check_batch(**given)


def test_terms_check_their_batch():
    q = soft_targets(Y, K, 0.0)
    with pytest.raises(UserError, match="subtract 1"):
        gpz_jax.feature_terms(NETWORK, VARIABLES, X, Y + 1, q, step_size=0.1)
    with pytest.raises(UserError, match="subtract 1"):
        gpz_jax.interference(NETWORK, VARIABLES, X, jnp.asarray(Y + 1), q, cut="layers_0", step_size=0.1)


@pytest.mark.parametrize("key", [np.zeros((2, 2), np.uint32), np.zeros(2)])
def test_what_is_no_key(key):
    for call in (
        lambda: gpz_jax.probe_network(NETWORK, VARIABLES, [(X, Y)], K, key=key),
        lambda: gpz_jax.attack_cut(NETWORK, VARIABLES, "layers_0", X[:20], X[20:], key=key),
    ):
        with pytest.raises(Exception, match=r"key must be a key such as|type"):  # checked by its type first, in tests
            call()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epochs": 0}, "epochs must be at least 1"), ({"epochs": 10**21}, "epochs must be at most 1000000"),
        ({"lr": float("nan")}, "lr must be a positive number"), ({"tv": -1.0}, "tv must be 0 or more"),
        ({"selection_fraction": 1.0}, "selection_fraction must lie between 0 and 1"),
    ],
)  # fmt: skip
def test_settings_of_an_attack(settings, said):
    with pytest.raises(UserError, match=said):
        gpz_jax.attack_cut(NETWORK, VARIABLES, "layers_0", X[:20], X[20:], key=KEY, settings=AttackSettings(**settings))


@pytest.mark.parametrize("batch", [(X, Y + 1), (X, Y - 1), (X, Y.astype(np.float32)), (X, Y[:-1]), (X[:, :-1], Y)])
def test_measure(batch):
    with pytest.raises(UserError):
        gpz_jax.measure(NETWORK, VARIABLES, [batch], K)
