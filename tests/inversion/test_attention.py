import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from thinned import thinned

from gpz_jax.errors import UserError
from gpz_jax.inversion.attention import MODULES, parse_stages, positions


def drawn(module, x, scale=1.0):
    """Parameters shaped as the module's own, drawn by numpy, so that every branch counts."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x, train=False))
    draw = lambda leaf: jnp.asarray(scale * rng.normal(size=leaf.shape), jnp.float32)  # noqa: E731
    return jax.tree.map(draw, shapes)


def features(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def float64(tree):
    return jax.tree.map(lambda a: np.asarray(a, np.float64), tree)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def conv_oracle(x, kernel, bias=0.0, dilation=1):
    """Cross-correlation, zero outside the border; a kernel of one input channel filters channel by channel."""
    (kh, kw), (h, w) = kernel.shape[:2], x.shape[1:3]
    a, b = dilation * (kh // 2), dilation * (kw // 2)
    padded = np.pad(x, ((0, 0), (a, a), (b, b), (0, 0)))
    depthwise = kernel.shape[2] == 1 and kernel.shape[3] == x.shape[3]
    y = 0.0
    for i in range(kh):
        for j in range(kw):
            part = padded[:, dilation * i : dilation * i + h, dilation * j : dilation * j + w]
            y = y + (part * kernel[i, j, 0] if depthwise else part @ kernel[i, j])
    return y + bias


# --- All modules ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", thinned([((4, 2, 3, 12),), ((3, 1, 1, 1),)], [((4, 2, 3, 12),)]))
@pytest.mark.parametrize("name", thinned(list(MODULES), ["se", "mha"]))
def test_any_shape_is_kept_nothing_is_silenced_at_first_and_everything_learns(key, name, shape):
    module, x, target = MODULES[name](name=name), nn.relu(features(*shape)), features(*shape, seed=2)

    @jax.jit
    def step(variables, x):
        def loss(variables, x):
            y = module.apply(variables, x, train=True)
            return jnp.sum(y * target), y

        gradients, y = jax.grad(loss, argnums=(0, 1), has_aux=True)(variables, x)
        return y, gradients

    for value in (x, -x, jnp.zeros_like(x), jnp.full_like(x, 2.0)):
        y, gradients = step(drawn(module, x), value)
        assert y.shape == shape
        assert y.dtype == jnp.float32
        assert np.isfinite(y).all()
        for path, g in jax.tree_util.tree_leaves_with_path(gradients):
            assert np.isfinite(g).all(), path

    if shape[-1] > 1:
        y, gradients = step(jax.jit(lambda key: module.init(key, x, train=True))(key), x)
        np.testing.assert_allclose(y, x, rtol=0.1, atol=0.1)
        for path, g in jax.tree_util.tree_leaves_with_path(gradients):
            # A constant added to every key moves no softmax: that bias has no gradient but rounding.
            assert np.abs(g).max() > 0 or "key" in str(path), f"nothing reaches {path}"


@pytest.mark.parametrize("name", MODULES)
def test_images_do_not_see_each_other(name):
    module, x = MODULES[name](), features(3, 3, 2, 8)
    apply = jax.jit(lambda x: module.apply(drawn(module, x), x, train=True))
    among_others = x.at[1:].set(9.0)
    np.testing.assert_allclose(apply(among_others)[0], apply(x)[0], rtol=1e-5, atol=1e-5)


# --- Each against its formula, in numpy float64 ---------------------------------------------------


def check(name, oracle, shape, scale=1.0):
    module, x = MODULES[name](), features(*shape)
    variables = drawn(module, x, scale)
    got = jax.jit(lambda x: module.apply(variables, x, train=False))(x)
    want = oracle(float64(x), float64(variables["params"]))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


def test_aac():
    def oracle(x, p):
        gate = sigmoid(conv_oracle(x, p["depthwise"]["kernel"]))
        return conv_oracle(x * gate, p["pointwise"]["kernel"])

    check("aac", oracle, (2, 5, 7, 3))


@pytest.mark.parametrize(("c", "hidden"), [(3, 1), (20, 2)])
def test_se(c, hidden):
    def oracle(x, p):
        assert p["squeeze"]["kernel"].shape == (c, hidden)
        squeezed = np.maximum(x.mean((1, 2)) @ p["squeeze"]["kernel"] + p["squeeze"]["bias"], 0)
        gate = 2 * sigmoid(squeezed @ p["excite"]["kernel"] + p["excite"]["bias"])
        return x * gate[:, None, None]

    check("se", oracle, (2, 5, 7, c))


def test_lsk():
    def oracle(x, p):
        u = conv_oracle(x, **p["near"])
        v = conv_oracle(u, **p["far"], dilation=3)
        near, far = conv_oracle(u, **p["near_half"]), conv_oracle(v, **p["far_half"])
        assert near.shape[-1] == 3
        both = np.concatenate([near, far], -1)
        choice = sigmoid(conv_oracle(np.stack([both.mean(-1), both.max(-1)], -1), **p["select"]))
        return x * conv_oracle(choice[..., :1] * near + choice[..., 1:] * far, **p["gate"])

    check("lsk", oracle, (2, 11, 4, 5), scale=0.3)


def test_msca():
    def strip(x, p):  # by lax, apart from the slices of ours
        c = x.shape[-1]
        conv = jax.lax.conv_general_dilated(
            x, p["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=c
        )
        return conv + p["bias"]

    def oracle(x, p):
        x, p = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (x, p))
        u = strip(x, p["square_5"])
        total = u + sum(strip(strip(u, p[f"row_{k}"]), p[f"column_{k}"]) for k in (7, 11, 21))
        for k in (7, 11, 21):
            assert p[f"row_{k}"]["kernel"].shape == (1, k, 1, 5)
            assert p[f"column_{k}"]["kernel"].shape == (k, 1, 1, 5)
        return np.asarray(x) * conv_oracle(*float64((total, p["gate"]["kernel"], p["gate"]["bias"])))

    check("msca", oracle, (2, 11, 4, 5), scale=0.3)


def attention_oracle(x, p, heads):
    n, h, w, c = x.shape
    s, t = math.ceil(h / 16), math.ceil(w / 16)

    def norm(x, scale, bias):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * scale + bias

    def pool(x):
        blocks = [[x[:, i : i + s, j : j + t].mean((1, 2)) for j in range(0, w, t)] for i in range(0, h, s)]
        return np.array(blocks).transpose(2, 0, 1, 3)

    def project(x, q):  # (n, positions, heads, c / heads)
        return np.einsum("nhwc,cef->nhwef", x, q["kernel"]).reshape(n, -1, heads, c // heads) + q["bias"]

    a = norm(x, **p["attention_norm"])
    placed = a + np.asarray(positions(h, w, c))
    q, k, v = p["attention"]["query"], p["attention"]["key"], p["attention"]["value"]
    q, k, v = project(placed, q), project(pool(placed), k), project(pool(a), v)
    assert k.shape[1] <= 256
    score = np.exp(np.einsum("nqef,nkef->neqk", q, k) / np.sqrt(c // heads))
    mixed = np.einsum("neqk,nkef->nqef", score / score.sum(-1, keepdims=True), v)
    out = p["attention"]["out"]
    x = x + (np.einsum("nqef,efc->nqc", mixed, out["kernel"]) + out["bias"]).reshape(x.shape)
    b = norm(x, **p["mlp_norm"]) @ p["mlp_in"]["kernel"] + p["mlp_in"]["bias"]
    gelu = b / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (b + 0.044715 * b**3)))
    return x + gelu @ p["mlp_out"]["kernel"] + p["mlp_out"]["bias"]


@pytest.mark.parametrize(
    ("shape", "heads"), thinned([((2, 3, 5, 6), 2), ((2, 4, 2, 5), 1), ((1, 17, 33, 4), 4)], [((2, 3, 5, 6), 2)])
)
def test_mha(shape, heads):
    check("mha", lambda x, p: attention_oracle(x, p, heads), shape, scale=0.5)


def test_mha_tells_positions_apart():
    """Moving one image's pixels about moves the output with them only if positions are not told apart."""
    module, x = MODULES["mha"](), features(2, 4, 3, 8)
    apply = jax.jit(lambda x: module.apply(drawn(module, x, 0.5), x, train=False))
    assert np.abs(apply(x[:, ::-1]) - apply(x)[:, ::-1]).max() > 0.01


@pytest.mark.parametrize(("h", "w", "c"), [(64, 64, 4), (5, 7, 10)])
def test_every_position_has_its_own_code(h, w, c):
    codes = np.asarray(positions(h, w, c)).reshape(h * w, c)
    assert len(np.unique(codes.round(3), axis=0)) == h * w
    assert np.asarray(positions(3, 3, 1)).shape == (3, 3, 1)


def test_sixty_four_pixels_have_256_keys():
    module = MODULES["mha"]()
    x = jax.ShapeDtypeStruct((32, 64, 64, 32), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda x: module.init_with_output(jax.random.key(0), x, train=True)[0])(x)
    largest = max(math.prod(v.aval.shape) for e in jaxpr.eqns for v in e.outvars)
    assert largest == 32 * 4 * 4096 * 256


# --- parse_stages ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("mha,aac+se,lsk,msca", (("mha",), ("aac", "se"), ("lsk",), ("msca",))),
        ("none,se", ((), ("se",))),
        (" se + aac , none ", (("se", "aac"), ())),
        ("none", ((),)),
        ("", ()),
    ],
)
def test_parse_stages(text, stages):
    assert parse_stages(text) == stages


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mha,lks", "unknown attention module 'lks' in 'mha,lks'; did you mean 'lsk'?"),
        ("nnoe", "unknown attention module 'nnoe' in 'nnoe'; did you mean 'none'?"),
        ("se,", "unknown attention module '' in 'se,'; known: mha, aac, se, lsk, msca, none"),
        ("se+none", "unknown attention module 'none' in 'se+none'; known: mha, aac, se, lsk, msca"),
    ],
)
def test_unknown_modules_are_named(text, message):
    with pytest.raises(UserError) as error:
        parse_stages(text)
    assert str(error.value) == message
