"""A depthwise convolution that is fast on the CPU too, forwards and backwards."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import Array
from jaxtyping import Float


class DepthwiseConv(nn.Module):
    """One filter a channel, ``nn.Conv(c, kernel_size, feature_group_count=c)`` with an odd kernel.

    With r = kernel_size // 2 per axis, d the dilation and x zero outside its border::

        y[m, n] = bias + sum over |i| <= r_h, |j| <= r_w of kernel[r_h + i, r_w + j, 0] * x[m + d i, n + d j]

    Parameters have the names, shapes and initialisers of ``nn.Conv``, ``kernel`` (kh, kw, 1, c) and ``bias``
    (c,), so the two are interchangeable.

    >>> DepthwiseConv((5, 5)).init_with_output(jax.random.key(0), jnp.ones((2, 3, 5, 4)))[0].shape
    (2, 3, 5, 4)
    """

    kernel_size: tuple[int, int]
    dilation: int = 1
    use_bias: bool = True
    kernel_init: jax.nn.initializers.Initializer = jax.nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Float[Array, "N h w c"]) -> Float[Array, "N h w c"]:
        """Filter every channel of x by itself."""
        c = x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (*self.kernel_size, 1, c))
        bias = self.param("bias", nn.initializers.zeros_init(), (c,)) if self.use_bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias)
        y = filter_channels(x, kernel, self.dilation)
        return y if bias is None else y + bias


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def filter_channels(
    x: Float[Array, "N h w c"], kernel: Float[Array, "kh kw 1 c"], dilation: int = 1
) -> Float[Array, "N h w c"]:
    """What :class:`DepthwiseConv` is without its bias, as a sum of shifted slices.

    XLA's CPU backend is slow at grouped convolutions, and at the gradient of slices; the gradient is written out
    therefore. ``experiments/benchmarks/depthwise.py`` says what is gained. Reverse mode only: ``jax.jvp`` has none.
    """
    h, w = x.shape[1:3]
    r_h, r_w = kernel.shape[0] // 2, kernel.shape[1] // 2
    a, b = _reach(x, kernel, dilation)
    padded = jnp.pad(x, ((0, 0), (a * dilation, a * dilation), (b * dilation, b * dilation), (0, 0)))
    y = jnp.zeros_like(x)
    for i in range(-a, a + 1):
        for j in range(-b, b + 1):
            top, left = (a + i) * dilation, (b + j) * dilation
            y += padded[:, top : top + h, left : left + w] * kernel[r_h + i, r_w + j, 0]
    return y


def _reach(x: Array, kernel: Array, dilation: int) -> tuple[int, int]:
    """Taps to either side that read more than the border: a strip of 21 has 3 on a grid of 4."""
    (h, w), (kh, kw) = x.shape[1:3], kernel.shape[:2]
    return min(kh // 2, (h - 1) // dilation), min(kw // 2, (w - 1) // dilation)


def _forward(x: Array, kernel: Array, dilation: int) -> tuple[Array, tuple[Array, Array]]:
    return filter_channels(x, kernel, dilation), (x, kernel)


def _backward(dilation: int, kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = kept
    return filter_channels(g, kernel[::-1, ::-1], dilation), _kernel_gradient(x, kernel, dilation, g)


def _kernel_gradient(x: Array, kernel: Array, dilation: int, g: Array) -> Array:
    """Sum over images and places (m, n) of x[m + d i, n + d j] g[m, n], for every tap and channel: (kh, kw, 1, c).

    For one i that is the sum along the d j-th diagonal of the w x w matrix of products of columns, a matrix product of
    each channel; a sum for every tap, of which XLA makes a loop each, takes many times as long.
    """
    kh, kw = kernel.shape[:2]
    if kh > kw:  # fewer products along the longer side
        turned = _kernel_gradient(x.swapaxes(1, 2), kernel.swapaxes(0, 1), dilation, g.swapaxes(1, 2))
        return turned.swapaxes(0, 1)
    h, w, c = x.shape[1:]
    a, b = _reach(x, kernel, dilation)
    columns = jnp.pad(x, ((0, 0), (a * dilation, a * dilation), (0, 0), (0, 0))).transpose(3, 2, 0, 1)  # (c, w, N, H)
    gradient = g.transpose(3, 2, 0, 1).reshape(c, w, -1)

    def row(i: int) -> Array:  # (2b + 1, c)
        top = (a + i) * dilation
        products = jnp.einsum("clk,cmk->clm", columns[..., top : top + h].reshape(c, w, -1), gradient)
        return jnp.stack([jnp.trace(products, -dilation * j, axis1=1, axis2=2) for j in range(-b, b + 1)])

    found = jnp.stack([row(i) for i in range(-a, a + 1)])[:, :, None]
    return jnp.pad(found, ((kh // 2 - a,) * 2, (kw // 2 - b,) * 2, (0, 0), (0, 0)))


filter_channels.defvjp(_forward, _backward)
