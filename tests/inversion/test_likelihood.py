import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from gpz_jax.errors import UserError
from gpz_jax.inversion.likelihood import invert, total_variation


@pytest.fixture(scope="module")
def x():
    return jnp.asarray(load_digits().images[:4, ..., None] / 16, jnp.float32)


def linear(matrix, x):
    return x.reshape(len(x), -1) @ matrix


def convolution(kernel, x):
    return jax.nn.relu(
        jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    )


def two_wells(targets, x):
    """Zero misfit at x = 1, and a worse well at x = 0: where a start decides."""
    return jnp.stack([x[:, 0, 0, 0] * (x[:, 0, 0, 0] - 1), 0.1 * (x[:, 0, 0, 0] - 1)], axis=1)


def test_an_invertible_linear_edge_is_inverted(key, x):
    matrix = jax.random.normal(key, (64, 64))
    found = invert(linear, matrix, linear(matrix, x), (8, 8, 1), key=key, steps=400)
    assert float(jnp.mean((found.x - x) ** 2)) < 1e-3
    assert found.settled
    assert float(found.objective.max()) < 1e-3
    np.testing.assert_array_equal(found.objective, found.total)
    assert found.history.shape == (50,)
    assert found.history[-1] < 1e-3 < found.history[0]


def test_a_convolution_s_objective_falls(key, x):
    kernel = 0.3 * jax.random.normal(key, (3, 3, 1, 8))
    z, calls = convolution(kernel, x), []
    found = invert(convolution, kernel, z, (8, 8, 1), key=key, steps=120, restarts=2, on_step=calls.append)
    assert calls == [50, 100, 150, 200]
    assert found.history[-1] < 0.2 * found.history[0]
    assert 0 <= float(found.x.min()) <= float(found.x.max()) <= 1
    misfit = jnp.sum((convolution(kernel, found.x) - z) ** 2, axis=(1, 2, 3))
    scale = jnp.mean(jnp.sum((z - z.mean(0)) ** 2, axis=(1, 2, 3)))
    np.testing.assert_allclose(found.objective, misfit / scale, rtol=1e-3, atol=1e-8)


def test_images_do_not_influence_each_other(key, x):
    matrix = jax.random.normal(key, (64, 64))
    z = linear(matrix, x)
    start = jnp.full_like(x, 0.5)
    together = invert(linear, matrix, z, (8, 8, 1), key=key, steps=30, start=start)
    alone = invert(linear, matrix, z[2:3], (8, 8, 1), key=key, steps=30, start=start[:1])
    np.testing.assert_allclose(together.x[2], alone.x[0], atol=1e-3)


def test_the_best_restart_is_kept_of_each_image(key):
    z = jnp.zeros((16, 2))
    options = {"key": key, "steps": 100, "lr": 0.01}
    first = invert(two_wells, None, z, (1, 1, 1), **options)
    best = invert(two_wells, None, z, (1, 1, 1), **options, restarts=4)
    assert (best.total <= first.total).all()
    assert (first.x < 0.5).any(), "no start was in the worse well"
    assert (best.x > 0.5).sum() > (first.x > 0.5).sum()
    reached = np.asarray(two_wells(None, best.x))
    np.testing.assert_allclose(best.total, (reached**2).sum(1), rtol=1e-4, atol=1e-8)


def test_the_first_restart_begins_at_start(key, x):
    matrix = jax.random.normal(key, (64, 64))
    z = linear(matrix, x)
    found = invert(linear, matrix, z, (8, 8, 1), key=key, steps=1, lr=1e-6, start=x)
    np.testing.assert_allclose(found.x, x, atol=2e-6)
    several = invert(linear, matrix, z, (8, 8, 1), key=key, steps=1, lr=1e-6, start=x, restarts=3)
    np.testing.assert_allclose(several.x, x, atol=2e-6)
    assert not x.is_deleted(), "the caller's images were donated"


def test_total_variation_smooths(key, x):
    half = jax.random.normal(key, (64, 16))  # 16 numbers for 64 pixels: noise of the start remains without a prior
    z = linear(half, x)
    rough = invert(linear, half, z, (8, 8, 1), key=key, steps=150)
    smooth = invert(linear, half, z, (8, 8, 1), key=key, steps=150, tv=0.1)
    assert float(total_variation(smooth.x).mean()) < 0.5 * float(total_variation(rough.x).mean())
    np.testing.assert_allclose(smooth.total, smooth.objective + 0.1 * total_variation(smooth.x), rtol=1e-5)


def test_total_variation_by_hand(x):
    a = np.asarray(x, np.float64)
    want = ((a[:, 1:] - a[:, :-1]) ** 2).sum((1, 2, 3)) + ((a[:, :, 1:] - a[:, :, :-1]) ** 2).sum((1, 2, 3))
    np.testing.assert_allclose(total_variation(x), want / 64, rtol=1e-5)


@pytest.mark.parametrize("z", [jnp.zeros((3, 64)), jnp.ones((3, 64))])
def test_a_z_without_spread_has_a_scale_all_the_same(key, z):
    found = invert(linear, jnp.eye(64), z, (8, 8, 1), key=key, steps=60)
    assert np.isfinite(found.objective).all()
    np.testing.assert_allclose(found.x.reshape(3, 64), z, atol=0.05)


def test_one_key_one_answer(key, x):
    matrix = jax.random.normal(key, (64, 64))
    one, two = (invert(linear, matrix, linear(matrix, x), (8, 8, 1), key=key, steps=5) for _ in range(2))
    np.testing.assert_array_equal(one.x, two.x)
    assert one.history.shape == (5,)


def test_bad_input_is_named(key, x):
    matrix = jnp.eye(64)
    z = linear(matrix, x)
    for options, message in [
        ({"steps": 0}, "give at least 1"),
        ({"restarts": 0}, "give at least 1"),
        ({"tv": -1.0}, "total-variation weight -1: give 0 or more"),
        ({"lr": 0.0}, "learning rate 0: give more than 0"),
        ({"start": x[:, :4]}, r"start images of shape \(4, 4, 8, 1\): give \(4, 8, 8, 1\)"),
    ]:
        with pytest.raises(UserError, match=message):
            invert(linear, matrix, z, (8, 8, 1), key=key, **options)
    with pytest.raises(UserError, match=r"z of shape \(4, 63\) was not sent by this edge, which sends \(4, 64\)"):
        invert(linear, matrix, z[:, :-1], (8, 8, 1), key=key)
    with pytest.raises(UserError, match="z has values that are not finite"):
        invert(linear, matrix, z.at[0, 0].set(jnp.inf), (8, 8, 1), key=key)
    with pytest.raises(UserError, match="no representation"):
        invert(linear, matrix, z[:0], (8, 8, 1), key=key)
    with pytest.raises(UserError, match="objective is not finite; lower"):
        invert(linear, matrix * jnp.nan, z, (8, 8, 1), key=key, steps=2)
