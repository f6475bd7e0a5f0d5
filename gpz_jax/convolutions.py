"""Convolutions of Flax's parameters and results that are fast on the CPU too: plain, transposed, depthwise.

XLA's CPU backend is slow at some convolutions and at the gradients of others. Each module here has the parameters of
Flax's own, by name, shape and initialiser, and may stand for it; numbers differ in the last digits.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax import Array, lax
from jaxtyping import Float


def convolve(
    x: Float[Array, "N H W C"],
    kernel: Float[Array, "kh kw _ features"],
    strides: tuple[int, int],
    padding: Any,
    *,
    precision: Any = None,
    **others: Any,
) -> Float[Array, "N h w features"]:
    """``lax.conv_general_dilated`` for ``nn.Conv``, or a matrix product, which takes XLA's CPU backend less time.

    Of a 1x1 kernel it is one a pixel; the gradient of that convolution is what takes long. Of a map smaller than the
    kernel, such as the last ones of VGG19 at 32x32, it is one of the whole map; both directions take long there.
    ``experiments/benchmarks/training_step.py`` says what is gained.

    Args:
      x: maps.
      kernel: taps, of C channels where there are no groups.
      strides: along height and width.
      padding: a pair of numbers an axis, "SAME" or "VALID".
      precision: of products, as ``lax.conv_general_dilated`` takes it.
      others: what else that takes; groups, dilation or a dtype of the result leave all to it.

    Example:
      >>> found = convolve(jnp.ones((1, 2, 2, 1)), jnp.arange(9.0).reshape(3, 3, 1, 1), (1, 1), "SAME")
      >>> found[0, :, :, 0].tolist()  # the four taps that lie on the map, in each of its corners
      [[24.0, 20.0], [12.0, 8.0]]
    """
    sides, window = x.shape[1:3], kernel.shape[:2]
    pads = lax.padtype_to_pads(sides, window, strides, padding) if isinstance(padding, str) else padding
    dilated = any(d != 1 for name in ("lhs_dilation", "rhs_dilation") for d in others.get(name) or ())
    plain = others.get("feature_group_count", 1) == 1 and others.get("preferred_element_type") is None
    if plain and not dilated:
        if window == (1, 1) and not any(map(any, pads)):
            x = x[:, :: strides[0], :: strides[1]]
            return lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())), precision=precision)
        if sides[0] < window[0] and sides[1] < window[1]:
            return _map_whole(x, kernel, strides, pads, precision)
    return lax.conv_general_dilated(x, kernel, strides, padding, precision=precision, **others)


def _map_whole(x: Array, kernel: Array, strides: tuple[int, int], pads: Any, precision: Any) -> Array:
    """A convolution as the matrix that it is: its entry from place i to place j is the tap i - stride j + padding."""

    def taps(axis: int) -> tuple[np.ndarray, np.ndarray]:  # (sides, places), and which are taps of the kernel
        side, window, stride, (low, high) = x.shape[axis + 1], kernel.shape[axis], strides[axis], pads[axis]
        places = (side + low + high - window) // stride + 1
        tap = np.arange(side)[:, None] - stride * np.arange(places) + low
        # Unsigned: signed ones are looked at for counts from the end.
        return tap.clip(0, window - 1).astype(np.uint32), (tap >= 0) & (tap < window)

    (rows, in_rows), (columns, in_columns) = taps(0), taps(1)
    matrix = kernel[rows[:, None, :, None], columns[None, :, None]]  # (H, W, h, w, C, features)
    is_tap = in_rows[:, None, :, None] & in_columns[None, :, None]
    if not is_tap.all():
        matrix = jnp.where(is_tap[..., None, None], matrix, 0)
    return jnp.einsum("nabc,abijcf->nijf", x, matrix, precision=precision)


#: Flax's convolution, computed by :func:`convolve`.
Conv = functools.partial(nn.Conv, conv_general_dilated=convolve)


class TransposedConv(nn.Module):
    """``nn.ConvTranspose(features, (4, 4), strides=(2, 2), padding="SAME")``, fast on the CPU too.

    Written out per axis, with y the output, w the kernel and x zero outside its border, that map is::

        y[2m]     = w[0] x[m-1] + w[2] x[m]
        y[2m + 1] = w[1] x[m]   + w[3] x[m+1]

    so each of the four output phases (a, b) is a 2x2 convolution with the kernel ``w[a::2, b::2]`` on x
    padded by 1 - a before and a after; the phases are then interleaved. ``nn.ConvTranspose`` dilates x with
    zeros instead, and XLA's gradient of that on the CPU is about ten times slower
    (``experiments/benchmarks/transposed_convolution.py``).

    Parameters have the names, shapes and initialisers of ``nn.ConvTranspose``, ``kernel`` (4, 4, Cin,
    features) and ``bias`` (features,), so the two are interchangeable.

    >>> TransposedConv(8).init_with_output(jax.random.key(0), jnp.ones((2, 3, 5, 4)))[0].shape
    (2, 6, 10, 8)
    """

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "N h w Cin"]) -> Float[Array, "N 2*h 2*w Cout"]:
        """Double both sides of x."""
        n, h, w, channels = x.shape
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (4, 4, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,)) if self.use_bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias)

        def phase(a: int, b: int) -> Array:  # (N, h, w, features)
            return lax.conv_general_dilated(
                x,
                kernel[a::2, b::2],
                window_strides=(1, 1),
                padding=((1 - a, a), (1 - b, b)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )

        rows = [jnp.stack([phase(a, 0), phase(a, 1)], axis=3) for a in (0, 1)]  # (N, h, w, 2, features)
        y = jnp.stack(rows, axis=2).reshape(n, 2 * h, 2 * w, self.features)
        return y if bias is None else y + bias


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
        y = jnp.asarray(filter_channels(x, kernel, self.dilation))
        return y if bias is None else y + bias


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def filter_channels(
    x: Float[Array, "N h w c"], kernel: Float[Array, "kh kw 1 c"], dilation: int = 1
) -> Float[Array, "N h w c"]:
    """What :class:`DepthwiseConv` is without its bias, as a sum of shifted slices.

    XLA's CPU backend is slow at grouped convolutions, and at the gradient of slices; the gradient is written out
    therefore. ``experiments/benchmarks/depthwise.py`` says what is gained. Reverse mode only: ``jax.jvp`` has none.

    >>> filter_channels(jnp.array([1.0, 2, 3]).reshape(1, 1, 3, 1), jnp.ones((1, 3, 1, 1))).ravel().tolist()
    [3.0, 6.0, 5.0]
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
        block = columns[..., top : top + h].reshape(c, w, -1)
        products = jnp.einsum("clk,cmk->clm", block, gradient, precision="highest")  # as exact as sums of each tap
        return jnp.stack([jnp.trace(products, -dilation * j, axis1=1, axis2=2) for j in range(-b, b + 1)])

    found = jnp.stack([row(i) for i in range(-a, a + 1)])[:, :, None]
    return jnp.pad(found, ((kh // 2 - a,) * 2, (kw // 2 - b,) * 2, (0, 0), (0, 0)))


filter_channels.defvjp(_forward, _backward)
