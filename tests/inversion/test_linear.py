import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Ridge as Oracle

from gpz_jax.errors import UserError
from gpz_jax.inversion import linear


def draw(n, d, p, *, rank=None, seed=0):
    """z of a given rank with a mean, pixels that depend on it linearly, and noise."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, rank or d)) @ rng.normal(size=(rank or d, d)) / np.sqrt(d) + 5.0
    x = z @ rng.normal(size=(d, p)) / d + 0.1 * rng.normal(size=(n, p))
    return jnp.asarray(z, jnp.float32), jnp.asarray(x, jnp.float32)


@pytest.mark.parametrize("penalty", [0.1, 10.0])
@pytest.mark.parametrize(("n", "d", "rank"), [(60, 20, None), (20, 60, None), (20, 20, None), (60, 20, 5), (20, 60, 5)])
def test_equals_scikit_learn(n, d, rank, penalty):
    z, x = draw(n, d, 7, rank=rank)
    new, _ = draw(9, d, 7, seed=1)
    ridge = linear.fit(z, x, penalty)
    want = Oracle(alpha=penalty).fit(np.asarray(z, np.float64), np.asarray(x, np.float64)).predict(np.asarray(new))
    np.testing.assert_allclose(ridge(new), want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    assert (ridge.basis is None) == (d <= n)


def test_blocks_of_rows_change_nothing(monkeypatch):
    for n, d in ((50, 10), (50, 70)):
        z, x = draw(n, d, 3)
        whole = linear.fit(z, x, 1.0)
        monkeypatch.setattr(linear, "BLOCK", 7)
        np.testing.assert_allclose(linear.fit(z, x, 1.0)(z), whole(z), rtol=1e-5, atol=1e-5)
        monkeypatch.undo()


def test_a_wide_z_uses_the_first_rows_only(monkeypatch):
    monkeypatch.setattr(linear, "MOST", 16)
    z, x = draw(40, 30, 3)
    cut, whole = linear.fit(z, x, 1.0), linear.fit(z[:16], x[:16], 1.0)
    assert cut.coefficients.shape == (16, 3)
    jax.tree.map(np.testing.assert_array_equal, cut, whole)


@pytest.mark.parametrize("seed", range(3))
def test_an_invertible_linear_edge_is_inverted(seed):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.uniform(size=(100, 12)), jnp.float32)
    edge = jnp.asarray(np.linalg.qr(rng.normal(size=(12, 12)))[0] * 3, jnp.float32)
    z = x @ edge + 2.0
    ridge, r, errors = linear.fit_best(z[:80], x[:80], z[80:90], x[80:90])
    assert r == 1e-4
    assert list(errors) == list(linear.PENALTIES)
    np.testing.assert_allclose(jax.jit(lambda ridge, z: ridge.pixels(z))(ridge, z[90:]), x[90:], atol=2e-3)


def test_fit_best_penalises_what_is_noise():
    rng = np.random.default_rng(0)
    z = jnp.asarray(rng.normal(size=(230, 40)), jnp.float32)
    x = jnp.asarray(np.clip(0.5 + rng.normal(size=(230, 4)), 0, 1), jnp.float32)
    ridge, r, errors = linear.fit_best(z[:30], x[:30], z[30:], x[30:])
    assert r == 10.0
    assert min(errors.values()) == errors[r]
    for tried, error in errors.items():  # the definition, each penalty by itself
        centred = np.asarray(z[:30] - z[:30].mean(0), np.float64)
        alone = linear.fit(z[:30], x[:30], tried * np.trace(centred @ centred.T) / 30)
        np.testing.assert_allclose(error, np.mean((alone.pixels(z[30:]) - x[30:]) ** 2), rtol=1e-4)
    np.testing.assert_array_equal(ridge.pixels(z), np.clip(ridge(z), 0, 1))


def test_rescaling_z_changes_no_choice():
    z, x = draw(60, 20, 5)
    one = linear.fit_best(z[:40], x[:40], z[40:], x[40:])
    other = linear.fit_best(1000 * z[:40], x[:40], 1000 * z[40:], x[40:])
    assert one[1] == other[1]
    np.testing.assert_allclose(list(one[2].values()), list(other[2].values()), rtol=1e-3)


@pytest.mark.parametrize("d", [3, 30])
def test_a_z_that_says_nothing_gives_the_mean_image(d):
    _, x = draw(20, 5, 4)
    ridge, _, errors = linear.fit_best(jnp.ones((20, d)), x, jnp.ones((20, d)), x)
    np.testing.assert_allclose(ridge(jnp.ones((2, d))), np.tile(x.mean(0), (2, 1)), rtol=1e-5, atol=1e-6)
    assert np.isfinite(list(errors.values())).all()


def test_numpy_and_bfloat16_are_taken():
    z, x = draw(20, 5, 4)
    half = z.astype(jnp.bfloat16)
    ridge = linear.fit(half, np.asarray(x), 1.0)
    assert ridge(half).dtype == jnp.float32
    np.testing.assert_allclose(ridge(half), linear.fit(half.astype(jnp.float32), x, 1.0)(half), atol=1e-6)


def test_bad_input_is_named():
    z, x = draw(20, 5, 4)
    with pytest.raises(UserError, match="has 1 images, too few"):
        linear.fit(z[:1], x[:1], 1.0)
    with pytest.raises(UserError, match="penalty -1: give 0 or more"):
        linear.fit(z, x, -1.0)
    with pytest.raises(UserError, match="penalty 0 is too small"):
        linear.fit(jnp.ones((20, 5)), x, 0.0)
    with pytest.raises(UserError, match="not finite"):
        linear.fit(z.at[3, 2].set(jnp.nan), x, 1.0)
    with pytest.raises(UserError, match="no selection images"):
        linear.fit_best(z, x, z[:0], x[:0])
    with pytest.raises(UserError, match=r"selection images .* not finite"):
        linear.fit_best(z, x, jnp.full_like(z, jnp.nan), x)
    with pytest.raises(UserError, match="give at least one, each above 0"):
        linear.fit_best(z, x, z, x, penalties=(1.0, 0.0))
