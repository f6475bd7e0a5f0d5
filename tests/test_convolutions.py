import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from thinned import thinned

from gpz_jax.convolutions import Conv, DepthwiseConv, TransposedConv


def features(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


# --- Conv -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "padding"),
    [
        ((3, 2, 2, 4), (3, 3), 1, "SAME"),  # smaller than the kernel: the map as a matrix
        ((3, 1, 2, 4), (3, 3), 2, 1),
        ((3, 2, 2, 4), (3, 3), 2, "SAME"),
        ((2, 4, 3, 2), (5, 5), 1, 2),
        ((2, 4, 4, 3), (7, 7), 2, 3),  # some entries of which are no tap
        ((2, 5, 4, 3), (1, 1), 2, 0),  # a matrix a pixel
        ((2, 5, 4, 3), (1, 1), 1, 1),
        ((2, 2, 5, 3), (3, 3), 1, 1),
    ],
)
def test_convolution_equals_flax(key, shape, kernel, stride, padding):
    x = features(*shape)
    flax, ours = (kind(5, kernel, stride, padding) for kind in (nn.Conv, Conv))
    variables = flax.init(key, x)
    jax.tree.map(np.testing.assert_array_equal, ours.init(key, x), variables)
    target = features(*flax.apply(variables, x).shape, seed=2)

    def value_and_gradients(module):
        def loss(variables, x):
            y = module.apply(variables, x)
            return jnp.sum(y * target), y

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(variables, x)

    for g, w in zip(*map(jax.tree.leaves, (value_and_gradients(ours), value_and_gradients(flax))), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", [{"feature_group_count": 2}, {"kernel_dilation": 2}, {"input_dilation": 2}])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_groups_and_dilation_are_flax_s_too(key, kernel, how):
    x = features(2, 2, 2, 4)
    flax, ours = (kind(6, kernel, padding=1, **how) for kind in (nn.Conv, Conv))
    np.testing.assert_allclose(*(module.init_with_output(key, x)[0] for module in (ours, flax)), atol=1e-6)


@pytest.mark.parametrize(("shape", "kernel"), [((3, 2, 2, 4), (3, 3)), ((2, 5, 4, 3), (1, 1))])
def test_small_maps_and_kernels_are_no_convolution(shape, kernel, monkeypatch):
    monkeypatch.setattr(lax, "conv_general_dilated", lambda *given, **named: pytest.fail("a convolution"))
    module, x = Conv(5, kernel, padding="SAME"), features(*shape)
    assert jax.eval_shape(module.init_with_output, jax.random.key(0), x)[0].shape == (*shape[:3], 5)


# --- TransposedConv -------------------------------------------------------------------------------


def transposed_conv_oracle(x, kernel, bias):
    """Scatter form in numpy float64: input i reaches output 2i + 2 - k through w[k], if that exists."""
    n, h, w, _ = x.shape
    y = np.zeros((n, 2 * h, 2 * w, kernel.shape[-1]))
    for i in range(h):
        for j in range(w):
            for p in range(4):
                for q in range(4):
                    u, v = 2 * i + 2 - p, 2 * j + 2 - q
                    if 0 <= u < 2 * h and 0 <= v < 2 * w:
                        y[:, u, v] += x[:, i, j] @ kernel[p, q]
    return y + bias


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((3, 4, 4, 5), marks=pytest.mark.slow),
        (2, 1, 1, 3),
        (1, 3, 5, 2),
        pytest.param((2, 7, 1, 4), marks=pytest.mark.slow),
    ],
)
def test_transposed_conv_equals_flax(shape, dtype, use_bias):
    rng = np.random.default_rng(0)
    with jax.enable_x64(dtype == "float64"):
        draw = lambda *size: jnp.asarray(rng.normal(size=size), dtype)  # noqa: E731
        x, target = draw(*shape), draw(shape[0], 2 * shape[1], 2 * shape[2], 6)
        params = {"kernel": draw(4, 4, shape[-1], 6)} | ({"bias": draw(6)} if use_bias else {})
        flax = nn.ConvTranspose(6, (4, 4), strides=(2, 2), padding="SAME", use_bias=use_bias)
        ours = TransposedConv(6, use_bias=use_bias)

        def value_and_gradients(module):
            def loss(params, x):
                y = module.apply({"params": params}, x)
                return jnp.sum(y * target), y

            return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(params, x)

        got, want = value_and_gradients(ours), value_and_gradients(flax)
        assert got[0][1].dtype == dtype
        tolerance = 1e-12 if dtype == "float64" else 1e-5
        for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance * np.abs(w).max())
        if dtype == "float64":
            y = transposed_conv_oracle(*map(np.asarray, (x, params["kernel"])), np.asarray(params.get("bias", 0.0)))
            np.testing.assert_allclose(got[0][1], y, atol=1e-12)


@pytest.mark.parametrize("use_bias", [True, False])
def test_transposed_conv_draws_the_parameters_of_flax(key, use_bias):
    x = jnp.ones((1, 4, 4, 7))
    ours = TransposedConv(5, use_bias=use_bias).init(key, x)
    flax = nn.ConvTranspose(5, (4, 4), strides=(2, 2), padding="SAME", use_bias=use_bias).init(key, x)
    jax.tree.map(np.testing.assert_array_equal, ours, flax)


# --- DepthwiseConv --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel_size", "dilation", "use_bias", "shape"),
    thinned(
        [
            ((5, 5), 1, False, (2, 3, 9, 3)),
            ((7, 7), 3, True, (2, 8, 4, 3)),
            ((1, 21), 1, True, (2, 3, 5, 4)),  # most taps read the border alone
            ((5, 3), 2, True, (3, 6, 7, 2)),
            ((11, 1), 1, True, (1, 1, 1, 1)),
        ],
        [((7, 7), 3, True, (2, 8, 4, 3)), ((5, 3), 2, True, (3, 6, 7, 2)), ((11, 1), 1, True, (1, 1, 1, 1))],
    ),
)
def test_depthwise_convolution_equals_flax(key, kernel_size, dilation, use_bias, shape):
    c = shape[-1]
    ours = DepthwiseConv(kernel_size, dilation=dilation, use_bias=use_bias)
    flax = nn.Conv(c, kernel_size, kernel_dilation=dilation, feature_group_count=c, use_bias=use_bias)
    x, target = features(*shape), features(*shape, seed=2)
    variables = flax.init(key, x)
    jax.tree.map(np.testing.assert_array_equal, ours.init(key, x), variables)
    if use_bias:
        variables["params"]["bias"] = features(c)

    def value_and_gradients(module):
        def loss(variables, x):
            y = module.apply(variables, x)
            return jnp.sum(y * target), y

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(variables, x)

    got, want = value_and_gradients(ours), value_and_gradients(flax)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-5)
