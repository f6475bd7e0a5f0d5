"""Inputs that are pytrees, arguments that are arrays, what only looks, numbers that are not real; words that help."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental import checkify, io_callback

import gpz_jax
from gpz_jax.errors import UserError
from gpz_jax.taps import split_at, tap, valid_cuts
from gpz_jax.taps_nnx import tap_nnx


@pytest.fixture(scope="module")
def vector():
    return jax.random.normal(jax.random.key(1), (6, 4))


def tapped(model, x, **options):
    variables = model.init(jax.random.key(0), x)
    return tap(model, variables, x, **options), variables


# What only looks.


def loop(x, h):
    """Carries x and does not use it."""
    return jax.lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, c[1], c[2] * 1.5), (0, x, h))[2]


@jax.custom_vjp
def ignoring(h, x):
    return jnp.sin(h)


ignoring.defvjp(lambda h, x: (jnp.sin(h), (h, x)), lambda kept, g: (g * jnp.cos(kept[0]), jnp.zeros_like(kept[1])))


@jax.custom_jvp
def tripling(h, x):
    return h * 3


tripling.defjvp(lambda at, by: (at[0] * 3, by[0] * 3))


def checked(x, h):
    _, out = checkify.checkify(lambda h: h * 2)(h)
    return out


LOOKS = {
    "print": lambda x, h: (jax.debug.print("{}", x.sum()), h)[1],
    "callback": lambda x, h: (io_callback(lambda a: None, None, x), h)[1],
    "jitted print": lambda x, h: (jax.jit(lambda a: jax.debug.print("{}", a))(x[0, 0]), h)[1],
    "checkify": checked,
    "while": loop,
    "scan": lambda x, h: jax.lax.scan(lambda c, _: ((c[0], c[1] + 1), c[0].sum()), (x, h), length=2)[0][1],
    "cond": lambda x, h: jax.lax.cond(h.shape[0] > 2, lambda x, h: h, lambda x, h: -h, x, h),
    "custom_vjp": lambda x, h: ignoring(h, x),
    "custom_jvp": lambda x, h: tripling(h, x),
    "remat": lambda x, h: jax.checkpoint(lambda h, x: h * 3)(h, x),
}


class Looking(nn.Module):
    how: str

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(4, name="stem")(x)
        return nn.Dense(3, name="head")(nn.tanh(LOOKS[self.how](x, h)))


@pytest.mark.parametrize("how", LOOKS)
def test_what_only_looks_is_no_bypass_and_stays_out_of_the_other_half(vector, how, capfd):
    network, variables = tapped(Looking(how), vector)
    assert valid_cuts(network, variables, vector) == {"stem": True, "head": True, "logits": True}
    logits, taps = network(variables, vector)
    for cut in ("stem", "head"):
        edge, cloud = split_at(network, variables, vector, cut)
        np.testing.assert_allclose(edge(variables, vector), taps[cut], atol=1e-6)
        np.testing.assert_allclose(cloud(variables, taps[cut]), logits, atol=1e-6)
        assert not jax.make_jaxpr(cloud)(variables, taps[cut]).effects


@pytest.mark.parametrize(
    "mixed",
    [
        lambda x, h: h + jax.lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, c[1] + x), (0, h))[1],
        lambda x, h: jax.lax.fori_loop(0, x.astype(int)[0, 0], lambda _, c: c * 2, h),
        lambda x, h: jax.lax.cond(x[0, 0] > 0, lambda h: h, lambda h: -h, h),
        lambda x, h: jax.lax.scan(lambda c, s: ((c[1], c[1] + c[0]), s), (x, h), None, length=3)[0][1],
        lambda x, h: jax.pure_callback(lambda a, b: a + b, h, h, x),
    ],
    ids=["while", "count", "cond", "scan", "callback"],
)
def test_what_does_more_than_look_is_a_bypass(vector, mixed, monkeypatch):
    monkeypatch.setitem(LOOKS, "mixed", mixed)
    network, variables = tapped(Looking("mixed"), vector)
    assert valid_cuts(network, variables, vector) == {"stem": False, "head": True, "logits": True}


# Numbers that are not real.


class Spectrum(nn.Module):
    def __call__(self, h):
        return jnp.fft.fft2(h)


class Signs(nn.Module):
    def __call__(self, h):
        return h > 0


class Through(nn.Module):
    inner: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="head")(jnp.abs(self.inner(x).astype(jnp.complex64)))


def test_the_radius_of_complex_numbers_is_of_their_modulus(vector):
    network, variables = tapped(Through(Spectrum()), vector, cuts=["inner"])
    labels = np.arange(6) % 2
    moments = gpz_jax.measure(network, variables, [(vector, labels, np.ones(6, bool))], 2)
    z = np.asarray(network(variables, vector)[1]["inner"])
    for c in range(2):
        mine = z[labels == c] - z[labels == c].mean(0)
        expected = np.mean(np.sum(np.abs(mine) ** 2, axis=1))
        np.testing.assert_allclose(gpz_jax.summarise(moments)["inner"].radius[c], expected, rtol=1e-5)
    with pytest.raises(UserError, match="cut 'inner' holds complex64 numbers"):
        gpz_jax.feature_terms(network, variables, vector, np.arange(6) % 3, jnp.ones((6, 3)) / 3, step_size=0.1)


def test_truth_values_have_no_radius(vector):
    network, variables = tapped(Through(Signs()), vector, cuts=["inner"])
    with pytest.raises(UserError, match="cut 'inner' holds bool numbers"):
        gpz_jax.measure(network, variables, [(vector, np.arange(6) % 2, np.ones(6, bool))], 2)
    with pytest.raises(UserError, match="cut 'inner' holds bool numbers"):
        gpz_jax.readings(network, variables, vector, jnp.arange(6) % 2, jnp.ones((6, 3)) / 3)


# Inputs as pytrees.


class Reader(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.Embed(9, 4, name="embed")(x["text"]["ids"])
        h = nn.Dense(4, name="mix")(h) * x["mask"][..., None]
        return nn.Dense(3, name="head")(h.sum(1) / x["mask"].sum(1, keepdims=True))


@pytest.fixture(scope="module")
def text():
    ids = jax.random.randint(jax.random.key(3), (6, 5), 0, 9)
    return {"text": {"ids": ids}, "mask": (ids > 2).astype(jnp.float32) + 0.5}


def test_public_arrays_may_pass_by_a_cut(text):
    network, variables = tapped(Reader(), text)
    assert valid_cuts(network, variables, text) == {"embed": False, "mix": False, "head": True, "logits": True}
    assert all(valid_cuts(network, variables, text, public="mask").values())
    assert not valid_cuts(network, variables, text, public=["text"])["mix"]
    logits, _ = network(variables, text)
    edge, cloud = split_at(network, variables, text, "mix", public=("mask",))
    z = edge(variables, text)
    for known in ({"mask": text["mask"]}, text):
        np.testing.assert_allclose(cloud(variables, z, known), logits, atol=1e-6)
    half = jax.tree.map(lambda a: a[:2], text)
    np.testing.assert_allclose(cloud(variables, z[:2], {"mask": half["mask"]}), logits[:2], atol=1e-6)


def test_a_bypass_names_the_array_that_passes_by(text):
    network, variables = tapped(Reader(), text)
    with pytest.raises(UserError, match=r"the input 'mask' by another way.*public=\('mask',\)"):
        split_at(network, variables, text, "mix")
    with pytest.raises(UserError, match="public names 'maks', which the input does not have; did you mean 'mask'"):
        valid_cuts(network, variables, text, public="maks")
    edge, cloud = split_at(network, variables, text, "mix", public=["mask"])
    with pytest.raises(UserError, match="the cloud half needs the public input 'mask'"):
        cloud(variables, edge(variables, text), {})


def test_tuples_of_inputs(vector):
    class Two(nn.Module):
        @nn.compact
        def __call__(self, pair):
            a, b = pair
            return nn.Dense(3, name="head")(nn.Dense(4, name="first")(a) + b)

    network, variables = tapped(Two(), (vector, vector))
    assert valid_cuts(network, variables, (vector, vector), public="1")["first"]
    with pytest.raises(UserError, match="the input '1' by another way"):
        split_at(network, variables, (vector, vector), "first")


# Arguments that are arrays.


class Scaled(nn.Module):
    @nn.compact
    def __call__(self, x, scale=None, options=None):
        h = nn.Dense(4, name="stem")(x) * (1 if scale is None else scale)
        return nn.Dense(3, name="head")(h * (options or {"by": 1.0})["by"])


@pytest.mark.parametrize(
    "arguments",
    [{"scale": np.full(4, 2.0)}, {"options": {"by": jnp.ones(())}}, {"scale": jnp.full((6, 1), 2.0)}],
    ids=["array", "dict", "rows"],
)
def test_arguments_without_a_hash(vector, arguments):
    variables = Scaled().init(jax.random.key(0), vector)
    one, two = (tap(Scaled(), variables, vector, **jax.tree.map(np.copy, arguments)) for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    assert one != tap(Scaled(), variables, vector, **jax.tree.map(lambda a: a + 1, arguments))
    gpz_jax.measure(one, variables, [(vector, np.arange(6) % 3, np.ones(6, bool))], 3)
    np.testing.assert_array_equal(one(variables, vector)[0], Scaled().apply(variables, vector, **arguments))


def test_keys_of_random_numbers(vector):
    class Noisy(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="head")(nn.Dropout(0.5, deterministic=False, name="drop")(x))

    variables = Noisy().init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, vector)
    keys = {"dropout": jax.random.key(5)}
    network = tap(Noisy(), variables, vector, rngs=keys)
    assert hash(network) == hash(tap(Noisy(), variables, vector, rngs={"dropout": jax.random.key(5)}))
    assert network != tap(Noisy(), variables, vector, rngs={"dropout": jax.random.key(6)})
    np.testing.assert_array_equal(network(variables, vector)[0], Noisy().apply(variables, vector, rngs=keys))
    with pytest.raises(UserError, match=r'draws random numbers \(\'dropout\'\).*rngs=\{"dropout": jax.random.key'):
        tap(Noisy(), variables, vector)


# Words that help.


class Mode(nn.Module):
    @nn.compact
    def __call__(self, x, *, is_training=True):
        return nn.Dense(3)(nn.BatchNorm(use_running_average=not is_training)(x))


class ModeField(nn.Module):
    deterministic: bool = False

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=self.deterministic)(x))


class ModeAsked(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(3)(x)


@pytest.mark.parametrize(
    ("model", "more", "expected"),
    [
        (Mode(), {"is_training": False}, "training mode .*: pass is_training=False to tap"),
        (ModeField(), {}, r"random numbers .*: make it with ModeField\(deterministic=True\)"),
        (ModeAsked(), {"train": False}, "needs train: pass train=False to tap"),
    ],
)
def test_training_mode_in_the_models_own_words(vector, model, more, expected):
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    with pytest.raises(UserError, match=expected):
        tap(model, model.init(keys, vector, **more), vector)


class Wrapper:
    """As Hugging Face has them."""

    module = nn.Dense(3)
    params = None


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Wrapper(), "not Wrapper: give its .module"),
        (nnx.Linear(4, 3, rngs=nnx.Rngs(0)), "not Linear: for Flax NNX there is tap_nnx"),
        (jnp.tanh, "not tanh: a function has no modules"),
        (nn.Dense, r"not Dense: give an instance, Dense\(…\)"),
    ],
)
def test_what_is_no_linen_module_is_sent_on(vector, model, expected):
    with pytest.raises(UserError, match=expected):
        tap(model, {}, vector)


def test_variables_without_their_collection(vector):
    with pytest.raises(UserError, match=r"give the variables that init returned"):
        tap(nn.Dense(3), nn.Dense(3).init(jax.random.key(0), vector)["params"], vector)


def test_nnx_arguments_too(vector):
    class Asking(nnx.Module):
        def __init__(self, rngs):
            self.head = nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, x, deterministic):
            return self.head(x)

    with pytest.raises(UserError, match="needs deterministic: pass deterministic=True"):
        tap_nnx(Asking(nnx.Rngs(0)), vector)
