import jax
import jax.numpy as jnp
import numpy as np
import pytest
from thinned import thinned

from gpz_jax.errors import UserError
from gpz_jax.inversion.enrich import ENRICHMENTS, Enrich, normalize, parse_enrichment, spectrum

SHAPES = [(3, 5, 4, 6), (2, 1, 1, 5), (2, 1, 1, 1), (2, 1, 3, 1), (3, 10), (2, 1)]


def features(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(3.0, 2.0, size=shape), jnp.float32)


def initialise(enrich, z):
    """Parameters as the module's own, but drawn by numpy: nothing to compile."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: enrich.init(jax.random.key(0), z, train=False))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 3, jnp.float32), shapes)


@pytest.mark.parametrize(
    ("step", "shape"),
    thinned(
        [(step, shape) for step in ENRICHMENTS for shape in SHAPES],
        keep=[(step, shape) for step in ENRICHMENTS for shape in SHAPES[1:5:3]],
    ),
)
def test_shapes_and_finite_gradients(key, step, shape):
    enrich, z = Enrich((step,)), features(*shape)
    variables = initialise(enrich, z)
    wanted = (*shape[:-1], (2 if "concat" in step else 1) * shape[-1])
    target = features(*wanted, seed=2)

    @jax.jit
    def value_and_gradients(variables, z):
        def loss(variables, z):
            y = enrich.apply(variables, z, train=True, rngs={"dropout": key})
            return jnp.sum(y * target), y

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(variables, z)

    for value in (z, jnp.zeros_like(z), jnp.full_like(z, 3.7)):
        (_, y), gradients = value_and_gradients(variables, value)
        assert y.shape == wanted
        assert y.dtype == jnp.float32
        assert np.isfinite(y).all()
        for path, g in jax.tree_util.tree_leaves_with_path(gradients):
            assert np.isfinite(g).all(), path


# --- normalize ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "axes"), [((3, 5, 4, 6), (1, 2)), ((3, 1, 1, 6), (3,)), ((3, 10), (1,))])
def test_normalize(shape, axes):
    z = features(*shape)
    z64 = np.asarray(z, np.float64)
    want = (z64 - z64.mean(axes, keepdims=True)) / z64.std(axes, keepdims=True)
    np.testing.assert_allclose(normalize(z), want, atol=1e-5)
    np.testing.assert_allclose(Enrich(("normalize",)).apply({}, z, train=False), want, atol=1e-5)
    # 1e-8 of epsilon against a variance of 4e-6.
    np.testing.assert_allclose(normalize(1e-3 * z), want, atol=0.02)


@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (2, 1, 1, 1), (2, 1)])
def test_what_is_constant_becomes_zero(shape):
    np.testing.assert_allclose(normalize(jnp.full(shape, 3.7)), 0.0, atol=0.01)


# --- Fourier --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "axes"), [((3, 5, 4, 6), (1, 2)), ((3, 1, 1, 6), (1, 2)), ((3, 9), (1,))])
def test_spectrum_equals_numpy(shape, axes):
    z = features(*shape)
    f = np.fft.fftn(np.asarray(z, np.float64), axes=axes, norm="ortho")
    e = np.log(1 + np.abs(f.real) + np.abs(f.imag))
    units = tuple(range(1, len(shape)))
    want = (e - e.mean(units, keepdims=True)) / e.std(units, keepdims=True)
    np.testing.assert_allclose(spectrum(z), want, atol=1e-4)
    residual, concat = (Enrich((f"fft_{how}",)).apply({}, z, train=True) for how in ("residual", "concat"))
    np.testing.assert_allclose(residual, z + want, atol=1e-4)
    np.testing.assert_allclose(concat, np.concatenate([z, want], axis=-1), atol=1e-4)


# --- Dropout --------------------------------------------------------------------------------------


def perturbation_oracle(z, p):
    if z.ndim == 4:
        h, w = z.shape[1:3]
        padded = np.pad(z, ((0, 0), (1, 1), (1, 1), (0, 0)))
        kernel = p["in"]["kernel"]
        hidden = sum(padded[:, i : i + h, j : j + w] @ kernel[i, j] for i in range(3) for j in range(3))
        axes, last = (1, 2), p["out"]["kernel"][0, 0]
    else:
        hidden, axes, last = z @ p["in"]["kernel"], (1,), p["out"]["kernel"]
    hidden = (hidden - hidden.mean(axes, keepdims=True)) / hidden.std(axes, keepdims=True)
    return np.maximum(hidden, 0) @ last + p["out"]["bias"]


@pytest.mark.parametrize("how", ["residual", "concat"])
@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (3, 10)], ids=str)
def test_the_perturbation_without_dropout(key, shape, how):
    enrich, z = Enrich((f"dropout_{how}",)), features(*shape)
    variables = initialise(enrich, z)
    z64, p = jax.tree.map(lambda a: np.asarray(a, np.float64), (z, variables["params"]["perturb_1"]))
    g = perturbation_oracle(z64, p)
    want = z64 + g if how == "residual" else np.concatenate([z64, g], axis=-1)
    np.testing.assert_allclose(enrich.apply(variables, z, train=False), want, atol=1e-4)
    still = Enrich(enrich.steps, rate=0.0).apply(variables, z, train=True, rngs={"dropout": key})
    np.testing.assert_allclose(still, want, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (3, 10)], ids=str)
def test_dropout_draws_in_training_only(shape):
    enrich, z = Enrich(("dropout_concat",), rate=0.5), features(*shape)
    variables = initialise(enrich, z)
    one, same, other = (
        enrich.apply(variables, z, train=True, rngs={"dropout": jax.random.key(seed)}) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.01
    np.testing.assert_array_equal(one[..., : shape[-1]], z)  # z itself is never dropped
    enrich.apply(variables, z, train=False)  # asks for no key


def test_whole_channels_are_dropped(key):
    """With an identity behind it, every channel of g is either 0 everywhere or ReLU's at 1 / (1 - rate)."""
    enrich, z = Enrich(("dropout_concat",), rate=0.5), features(8, 5, 4, 6)
    variables = initialise(enrich, z)
    out = {"kernel": jnp.eye(6)[None, None], "bias": jnp.zeros(6)}
    variables = {"params": {"perturb_1": {**variables["params"]["perturb_1"], "out": out}}}
    off = np.asarray(enrich.apply(variables, z, train=False))[..., 6:]
    on = np.asarray(enrich.apply(variables, z, train=True, rngs={"dropout": key}))[..., 6:]
    dropped = (on == 0).all((1, 2))
    assert 0.2 < dropped.mean() < 0.8
    np.testing.assert_allclose(on, np.where(dropped[:, None, None], 0, 2 * off), atol=1e-5)


def test_wide_vectors_have_512_hidden_units(key):
    shapes = jax.eval_shape(lambda: Enrich(("dropout_residual",)).init(key, jnp.zeros((2, 700)), train=False))
    assert shapes["params"]["perturb_1"]["in"]["kernel"].shape == (700, 512)
    assert shapes["params"]["perturb_1"]["out"]["kernel"].shape == (512, 700)


# --- Steps in order -------------------------------------------------------------------------------


def test_steps_are_applied_in_order():
    z = features(3, 5, 4, 6)
    there = Enrich(("normalize", "fft_concat")).apply({}, z, train=False)
    back = Enrich(("fft_concat", "normalize")).apply({}, z, train=False)
    np.testing.assert_allclose(there, jnp.concatenate([normalize(z), spectrum(normalize(z))], -1), atol=1e-6)
    np.testing.assert_allclose(back, normalize(jnp.concatenate([z, spectrum(z)], -1)), atol=1e-5)
    np.testing.assert_array_equal(Enrich(()).apply({}, z, train=False), z)
    twice = Enrich(("dropout_concat", "dropout_concat"))
    variables = initialise(twice, z)
    assert jax.eval_shape(lambda: twice.apply(variables, z, train=False)).shape == (3, 5, 4, 24)
    assert set(variables["params"]) == {"perturb_1", "perturb_2"}


def test_bfloat16_is_enriched_in_float32():
    z = features(2, 4, 4, 3).astype(jnp.bfloat16)
    y = Enrich(("normalize", "fft_residual")).apply({}, z, train=False)
    assert y.dtype == jnp.float32


@pytest.mark.parametrize(
    ("enrich", "shape", "message"),
    [
        (Enrich(("normalise",)), (2, 5), "unknown enrichment 'normalise'; did you mean 'normalize'"),
        (Enrich(("normalize",)), (2, 5, 3), r"cannot enrich z of shape \(5, 3\) .*give \(h, w, channels\) or \(d,\)"),
        (Enrich(("normalize",), rate=1.0), (2, 5), r"dropout rate 1\.0: give at least 0 and less than 1"),
    ],
)
def test_nonsense_is_named(enrich, shape, message):
    with pytest.raises(UserError, match=message):
        enrich.apply({}, jnp.ones(shape), train=False)


# --- parse_enrichment -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("normalize+dropout_concat", ("normalize", "dropout_concat")),
        (" fft_concat ", ("fft_concat",)),
        ("none", ()),
        ("", ()),
    ],
)
def test_parse_enrichment(text, steps):
    assert parse_enrichment(text) == steps


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("normalize+fft_concatenate", "unknown enrichment 'fft_concatenate'; did you mean 'fft_concat'?"),
        ("non", "unknown enrichment 'non'; did you mean 'none'?"),
        ("normalize+", f"unknown enrichment ''; known: {', '.join(ENRICHMENTS)}"),
        ("fft_concat+none", f"unknown enrichment 'none'; known: {', '.join(ENRICHMENTS)}"),
    ],
)
def test_unknown_enrichments_are_named(text, message):
    with pytest.raises(UserError) as error:
        parse_enrichment(text)
    assert str(error.value) == message
