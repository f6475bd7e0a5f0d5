import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits
from thinned import thinned

from gpz_jax.errors import UserError
from gpz_jax.inversion.decoder import Decoder, decoder_for, small_grid, token_grid

# --- Decoder --------------------------------------------------------------------------------------


def initialise(decoder, z):
    """Parameters and statistics as the module's own, but drawn by numpy: nothing to compile."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            return jnp.asarray(rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1])), jnp.float32)
        return jnp.asarray(np.full(leaf.shape, path[-1].key in ("scale", "var")), jnp.float32)

    shapes = jax.eval_shape(lambda: decoder.init(jax.random.key(0), z, train=False))
    return jax.tree_util.tree_map_with_path(draw, shapes)


SHAPES = {
    "grid": ((4, 4, 6), (16, 16, 3)),
    "grid, oblong": ((2, 4, 6), (16, 32, 1)),
    "grid, sides grow unequally": ((8, 4, 6), (16, 16, 1)),
    "grid, odd image": ((4, 4, 6), (28, 28, 1)),
    "grid at 7 pixels": ((7, 7, 6), (12, 12, 1)),
    "grid as large as x": ((8, 8, 2), (8, 8, 3)),
    "grid larger than x": ((12, 12, 2), (8, 8, 1)),
    "pooled to one pixel": ((1, 1, 6), (8, 8, 1)),
    "tokens": ((16, 6), (16, 16, 3)),
    "tokens and class token": ((17, 6), (16, 16, 3)),
    "one token": ((1, 6), (8, 8, 1)),
    "tokens without a grid": ((12, 6), (16, 16, 1)),
    "vector": ((10,), (16, 16, 3)),
    "vector, odd image": ((10,), (7, 9, 1)),
    "one number": ((1,), (8, 8, 1)),
}


@pytest.mark.parametrize(("z_shape", "x_shape"), thinned(SHAPES, ["grid, odd image", "tokens and class token"]))
def test_decoder_for_every_kind_of_shape(z_shape, x_shape):
    decoder = decoder_for(z_shape, x_shape, width=2)
    rng = np.random.default_rng(1)
    z = jnp.asarray(rng.normal(3.0, 2.0, size=(3, *z_shape)), jnp.float32)
    x = jnp.asarray(rng.uniform(size=(3, *x_shape)), jnp.float32)
    variables = initialise(decoder, z)

    @jax.jit
    def train(params):
        def loss(params):
            x_hat, new = decoder.apply({**variables, "params": params}, z, train=True, mutable="batch_stats")
            return jnp.mean((x_hat - x) ** 2), (x_hat, new["batch_stats"])

        return jax.grad(loss, has_aux=True)(params)

    gradient, (x_hat, statistics) = train(variables["params"])
    assert x_hat.shape == x.shape
    assert x_hat.dtype == jnp.float32
    assert 0 <= float(x_hat.min()) < float(x_hat.max()) <= 1
    for path, g in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(g).all(), path
        assert np.abs(g).max() > 0, f"nothing reaches {path}"

    apply = jax.jit(lambda z: decoder.apply({**variables, "batch_stats": statistics}, z, train=False))
    together = np.asarray(apply(z))
    for i in range(3):  # beside other images; in a batch of the same size, hence one compilation
        among_others = np.full_like(z, 9.0)
        among_others[i] = z[i]
        np.testing.assert_allclose(apply(among_others)[i], together[i], atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-4, "the decoder ignores z"


@pytest.mark.parametrize("scale", [1000.0, 1e-3])
@pytest.mark.parametrize("z_shape", [(4, 4, 6), (17, 6), (10,)])
def test_rescaling_z_changes_nothing_in_training(key, z_shape, scale):
    decoder = decoder_for(z_shape, (8, 8, 1), width=2)
    z = 5.0 + jax.random.normal(key, (8, *z_shape))
    variables = initialise(decoder, z)
    reconstruct = jax.jit(lambda z: decoder.apply(variables, z, train=True, mutable="batch_stats")[0])
    # 1e-8 of epsilon against a variance of 1e-6: a per cent in the standardised z, less in the pixels.
    np.testing.assert_allclose(reconstruct(scale * z), reconstruct(z), atol=1e-4 if scale > 1 else 0.01)


def test_standardisation_keeps_its_precision_with_large_means(key):
    decoder = decoder_for((10,), (8, 8, 1), width=2)
    z = jax.random.normal(key, (64, 10))
    variables = initialise(decoder, z)
    reconstruct = jax.jit(lambda z: decoder.apply(variables, z, train=True, mutable="batch_stats")[0])
    np.testing.assert_allclose(reconstruct(z + 1e4), reconstruct(z), atol=0.02)


def test_stages_and_channels(key):
    def kernels(z_shape, x_shape):
        decoder = decoder_for(z_shape, x_shape, width=4)
        variables = jax.eval_shape(lambda: decoder.init(key, jnp.zeros((1, *z_shape)), train=False))
        return {name: p["kernel"].shape for name, p in variables["params"].items() if "kernel" in p}

    assert kernels((2, 2, 9), (64, 64, 3)) == {
        "stem": (3, 3, 9, 32),  # 8 x width is the most
        "up_1": (4, 4, 32, 32),
        "up_2": (4, 4, 32, 32),
        "up_3": (4, 4, 32, 16),
        "up_4": (4, 4, 16, 8),
        "up_5": (4, 4, 8, 4),
        "pixels": (3, 3, 4, 3),
    }
    assert kernels((65, 9), (32, 32, 1)) == {
        "class_token": (9, 9),
        "stem": (3, 3, 9, 16),
        "up_1": (4, 4, 16, 8),
        "up_2": (4, 4, 8, 4),
        "pixels": (3, 3, 4, 1),
    }
    assert kernels((10,), (28, 28, 1))["to_grid"] == (10, 4 * 4 * 32)
    assert set(kernels((12, 12, 3), (8, 8, 1))) == {"stem", "pixels"}


def test_tokens_keep_their_places(key):
    """Tokens are decoded as the same numbers on a (h, w, c) grid, whatever a class token unheard says."""
    z = jax.random.normal(key, (2, 4, 4, 6))
    tokens = z.reshape(2, 16, 6)
    with_class = jnp.concatenate([jnp.full((2, 1, 6), 9.0), tokens], axis=1)
    variables = initialise(decoder_for((4, 4, 6), (8, 8, 1), width=2), z)

    def reconstruct(z, class_token=None):
        decoder = decoder_for(z.shape[1:], (8, 8, 1), width=2)
        dense = {} if class_token is None else {"class_token": class_token}
        params = {**variables["params"], **dense}
        return jax.jit(lambda z: decoder.apply({**variables, "params": params}, z, train=False))(z)

    on_grid = reconstruct(z)
    assert np.abs(on_grid[0] - on_grid[1]).max() > 1e-3
    np.testing.assert_allclose(reconstruct(tokens), on_grid, atol=1e-6)
    unheard = {"kernel": jnp.zeros((6, 6)), "bias": jnp.zeros(6)}
    np.testing.assert_allclose(reconstruct(with_class, unheard), on_grid, atol=1e-6)
    heard = {"kernel": jnp.eye(6), "bias": jnp.zeros(6)}
    np.testing.assert_allclose(reconstruct(with_class, heard), reconstruct(z + 9.0), atol=1e-5)


@pytest.mark.parametrize(
    ("tokens", "side"), [(1, 1), (2, 1), (3, None), (4, 2), (5, 2), (256, 16), (257, 16), (258, None)]
)
def test_token_grid(tokens, side):
    assert token_grid((tokens, 3)) == side


@pytest.mark.parametrize(
    ("image", "grid"), [((64, 64), (4, 4)), ((7, 9), (2, 3)), ((64, 16), (4, 1)), ((3, 4), (3, 4))]
)
def test_small_grid(image, grid):
    assert small_grid(*image) == grid


def test_bfloat16_is_decoded_in_float32(key):
    decoder = decoder_for((4, 4, 3), (8, 8, 1), width=2)
    z = jax.random.normal(key, (2, 4, 4, 3), jnp.bfloat16)
    variables = initialise(decoder, z)
    x_hat = decoder.apply(variables, z, train=False)
    assert x_hat.dtype == jnp.float32
    np.testing.assert_array_equal(x_hat, decoder.apply(variables, z.astype(jnp.float32), train=False))


@pytest.mark.slow
def test_a_decoder_learns_to_invert_a_linear_map(key):
    x = jnp.asarray(load_digits().images[:32, ..., None] / 16, jnp.float32)
    z = x.reshape(32, 64) @ jax.random.normal(key, (64, 64))
    floor = float(jnp.mean((x - x.mean(0)) ** 2))  # what a decoder reaches that ignores z
    decoder, optimiser = decoder_for((64,), (8, 8, 1), width=8), optax.adam(1e-2)

    @jax.jit
    def step(params, statistics, state):
        def loss(params):
            variables = {"params": params, "batch_stats": statistics}
            x_hat, new = decoder.apply(variables, z, train=True, mutable="batch_stats")
            return jnp.mean((x_hat - x) ** 2), new["batch_stats"]

        (value, statistics), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        with jax.numpy_dtype_promotion("standard"):  # inside optax.adam: float ** int32
            updates, state = optimiser.update(gradient, state)
        return optax.apply_updates(params, updates), statistics, state, value

    variables = jax.jit(lambda key: decoder.init(key, z, train=False))(key)
    params, statistics = variables["params"], variables["batch_stats"]
    state = optimiser.init(params)
    for _ in range(80):
        params, statistics, state, value = step(params, statistics, state)
    assert float(value) < 0.25 * floor
    x_hat = decoder.apply({"params": params, "batch_stats": statistics}, z, train=False)
    assert float(jnp.mean((x_hat - x) ** 2)) < 0.5 * floor, "running statistics do not describe the data"


@pytest.mark.parametrize(
    ("z_shape", "x_shape", "width", "message"),
    [
        ((), (8, 8, 1), 16, r"z of shape \(\) .*give \(d,\), \(tokens, channels\) or"),
        ((2, 2, 2, 2), (8, 8, 1), 16, r"z of shape \(2, 2, 2, 2\)"),
        ((4, 0, 3), (8, 8, 1), 16, r"z of shape \(4, 0, 3\): every size must be at least 1"),
        ((-1,), (8, 8, 1), 16, r"z of shape \(-1,\): every size"),
        ((10,), (8, 8), 16, r"images of shape \(8, 8\) .*give \(height, width, channels\)"),
        ((10,), (8, 0, 1), 16, r"images of shape \(8, 0, 1\): every size"),
        ((10,), (8, 8, 1), 0, "decoder width 0: give at least 1"),
    ],
)
def test_nonsense_shapes_are_named(z_shape, x_shape, width, message):
    with pytest.raises(UserError, match=message):
        decoder_for(z_shape, x_shape, width=width)


def test_a_decoder_refuses_another_cut(key):
    with pytest.raises(UserError, match=r"built for z of shape \(4, 4, 3\), got \(2, 2, 3\).*decoder_for"):
        Decoder((4, 4, 3), (8, 8, 1)).init(key, jnp.zeros((1, 2, 2, 3)), train=False)
