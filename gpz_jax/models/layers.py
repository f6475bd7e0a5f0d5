"""Layers that more than one model uses, with PyTorch's defaults: those of the paper's released code.

The functions are called inside a module's ``@nn.compact`` method and make a submodule called ``name`` there.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from gpz_jax.convolutions import Conv


def uniform_by_fan_in(fan_in: int) -> Any:
    """Initialise with U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as PyTorch does weights and biases of Conv2d and Linear."""
    bound = 1 / math.sqrt(fan_in)
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def conv(
    x: Float[Array, "N H W C"],
    features: int,
    *,
    name: str,
    dtype: Any,
    kernel: int = 3,
    stride: int = 1,
    bias: bool = False,
    init: Any = None,
) -> Float[Array, "N h w features"]:
    """Convolve with a square kernel, padded by (kernel - 1)/2 on every side.

    That is PyTorch's padding; "SAME" is another where there is a stride.
    """
    fan_in = kernel * kernel * x.shape[-1]
    return Conv(
        features,
        (kernel, kernel),
        strides=stride,
        padding=(kernel - 1) // 2,
        use_bias=bias,
        dtype=dtype,
        kernel_init=init or uniform_by_fan_in(fan_in),
        bias_init=uniform_by_fan_in(fan_in),
        name=name,
    )(x)


def dense(x: Float[Array, "N d"], features: int, *, name: str) -> Float[Array, "N features"]:
    """Map linearly, with a bias, in float32."""
    by_fan_in = uniform_by_fan_in(x.shape[-1])
    layer = nn.Dense(features, dtype=jnp.float32, kernel_init=by_fan_in, bias_init=by_fan_in, name=name)
    return layer(x.astype(jnp.float32))


def batch_norm(x: Float[Array, "*N C"], *, train: bool, name: str) -> Float[Array, "*N C"]:
    """Batch norm with PyTorch's momentum (0.1 there, 0.9 in Flax's convention) and epsilon.

    Computed in float32 whatever x is, and given back in x's dtype.
    """
    # Cast here, as Flax would by itself: its own promotion fails where promotion is strict.
    norm = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, dtype=jnp.float32, name=name)
    return norm(x.astype(jnp.float32)).astype(x.dtype)


class PReLU(nn.Module):
    """max(x, 0) + a min(x, 0) with one learned slope a per channel, at first 0.25 (He et al. 2015)."""

    @nn.compact
    def __call__(self, x: Float[Array, "*N C"]) -> Float[Array, "*N C"]:
        """Apply it to the last axis."""
        slope = self.param("negative_slope", nn.initializers.constant(0.25), (x.shape[-1],))
        return jnp.where(x >= 0, x, slope.astype(x.dtype) * x)


def max_pool_2x2(x: Float[Array, "N H W C"]) -> Float[Array, "N h w C"]:
    """2x2 max-pooling with stride 2. A last odd row or column is dropped; a side of 1 is kept.

    The same function as ``nn.max_pool(x, (2, 2), (2, 2))`` for H, W > 1, written as the maximum of four corners: the
    gradient of that one is a select-and-scatter, slow on CPUs, and with a reshape and a reduction XLA's CPU backend
    makes the forward pass of a full-size VGG19 more than twice as slow.
    """
    h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    if min(h, w) == 0:
        return x
    top, bottom = x[:, 0:h:2], x[:, 1:h:2]
    return jnp.maximum(
        jnp.maximum(top[:, :, 0:w:2], top[:, :, 1:w:2]), jnp.maximum(bottom[:, :, 0:w:2], bottom[:, :, 1:w:2])
    )


def average_pool_4x4(x: Float[Array, "N H W C"]) -> Float[Array, "N h w C"]:
    """4x4 average pooling with stride 4, with the window shrunk to maps smaller than that; a rest is dropped."""
    n, height, width, c = x.shape
    a, b = min(4, height), min(4, width)
    x = x[:, : height // a * a, : width // b * b]
    return x.reshape(n, height // a, a, width // b, b, c).mean(axis=(2, 4))


def flatten(x: Float[Array, "N H W C"]) -> Float[Array, "N H*W*C"]:
    """Lay an image out as a vector (height, width, channel), in float32 for the head that takes it."""
    return x.reshape(x.shape[0], -1).astype(jnp.float32)
