"""A deconvolution decoder for any cut, built from the shapes of z and x alone.

The attacker knows what it receives and what it wants back; nothing of the victim is imported here.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import Array, lax
from jaxtyping import Float

from gpz_jax.errors import UserError


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


class Decoder(nn.Module):
    """Reconstruct x from z by transposed convolutions, batch norms and ReLUs (Yang et al. 2019).

    z is first standardised per channel, by a batch norm without parameters: otherwise a cut that merely
    rescales z would slow the attacker's training, and look like resistance.

    z becomes a grid (N, h, w, c) according to its shape without the batch:

    - ``(h, w, c)``: as it is;
    - ``(T, c)``: tokens return to their square grid if T or T - 1 is a perfect square; the surplus first
      token (the class token) passes through a Dense and is added everywhere. Any other T: flattened;
    - ``(d,)``: a Dense to the grid left by halving (H, W), rounded up, until neither side exceeds 4.

    A 3x3 convolution at z's own resolution precedes the stages. Their number is log2 of the growth from
    (h, w) to (H, W), geometric mean of both sides, rounded; each leaves ``width * 2**(stages still to come)``
    channels, at most ``8 * width``. A bilinear resize follows only where the grid then differs from (H, W):
    images of 28 or 7 pixels, a z larger than x. Last come a 3x3 convolution to C channels and a sigmoid.

    Build it with :func:`decoder_for`, which checks the shapes. z may be of any float dtype; all is computed
    in float32. Pixels come out in [0, 1]. Statistics live in ``"batch_stats"``, mutable with ``train=True``.
    """

    z_shape: tuple[int, ...]
    x_shape: tuple[int, ...]
    width: int = 16

    @nn.compact
    def __call__(self, z: Float[Array, "N ..."], *, train: bool) -> Float[Array, "N H W C"]:
        """Reconstruct a batch; ``train`` normalises by its own statistics and updates the running ones."""
        if z.shape[1:] != self.z_shape:
            raise UserError(
                f"this decoder was built for z of shape {self.z_shape}, got {z.shape[1:]} (batch left out); "
                "build one for this cut with decoder_for(z.shape[1:], x.shape[1:])"
            )
        height, width, channels = self.x_shape
        batch_norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)

        def depth(stages_left: int) -> int:
            return self.width * min(2**stages_left, 8)

        grid = token_grid(self.z_shape)
        if len(self.z_shape) == 2 and grid is None:
            z = z.reshape(z.shape[0], -1)
        # E[z^2] - E[z]^2, the fast variance, cancels when means are large; the default epsilon of 1e-5 would
        # hide channels of small scale.
        z = batch_norm(use_bias=False, use_scale=False, use_fast_variance=False, epsilon=1e-8, name="standardise")(
            z.astype(jnp.float32)
        )

        if grid is not None:
            tokens = z[:, -grid * grid :].reshape(-1, grid, grid, z.shape[-1])
            if z.shape[1] > grid * grid:
                tokens += nn.Dense(z.shape[-1], name="class_token")(z[:, 0])[:, None, None]
            z = tokens
        h, w = small_grid(height, width) if z.ndim == 2 else z.shape[1:3]
        stages = max(0, round(math.log2(height * width / (h * w)) / 2))

        if z.ndim == 2:
            z = nn.Dense(h * w * depth(stages), name="to_grid")(z).reshape(-1, h, w, depth(stages))
        z = nn.Conv(depth(stages), (3, 3), use_bias=False, name="stem")(z)
        z = nn.relu(batch_norm(name="stem_norm")(z))
        for left in reversed(range(stages)):
            z = TransposedConv(depth(left), use_bias=False, name=f"up_{stages - left}")(z)
            z = nn.relu(batch_norm(name=f"up_{stages - left}_norm")(z))
        if z.shape[1:3] != (height, width):
            z = jax.image.resize(z, (z.shape[0], height, width, z.shape[3]), "bilinear")
        return nn.sigmoid(nn.Conv(channels, (3, 3), name="pixels")(z))


def token_grid(z_shape: tuple[int, ...]) -> int | None:
    """Side of the square grid that (T, c) tokens come from, with or without a class token in front, or None.

    >>> token_grid((256, 128)), token_grid((257, 128)), token_grid((12, 128)), token_grid((10,))
    (16, 16, None, None)
    """
    if len(z_shape) != 2:
        return None
    for patches in (z_shape[0], z_shape[0] - 1):
        side = math.isqrt(patches)
        if side > 0 and side * side == patches:
            return side
    return None


def small_grid(height: int, width: int) -> tuple[int, int]:
    """Halve both sides of an image, rounding up, until neither exceeds 4.

    >>> small_grid(64, 64), small_grid(28, 28), small_grid(64, 48)
    ((4, 4), (4, 4), (4, 3))
    """
    while max(height, width) > 4:
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    return height, width


def decoder_for(z_shape: tuple[int, ...], x_shape: tuple[int, ...], *, width: int = 16) -> Decoder:
    """Build the :class:`Decoder` from z to images of ``x_shape`` = (H, W, C), both without the batch.

    ``width`` is the number of channels at full resolution. Raises :class:`UserError` for a ``z_shape`` that
    is not (d,), (T, c) or (h, w, c), an ``x_shape`` that is not (H, W, C), and sizes or a ``width`` below 1.

    >>> decoder, z = decoder_for((2, 2, 5), (4, 4, 3), width=2), jnp.zeros((6, 2, 2, 5))
    >>> variables = decoder.init(jax.random.key(0), z, train=False)
    >>> decoder.apply(variables, z, train=False).shape
    (6, 4, 4, 3)
    """
    z_shape, x_shape = tuple(z_shape), tuple(x_shape)
    if not 1 <= len(z_shape) <= 3:
        raise UserError(f"z of shape {z_shape} (batch left out): give (d,), (tokens, channels) or (h, w, channels)")
    if len(x_shape) != 3:
        raise UserError(f"images of shape {x_shape} (batch left out): give (height, width, channels)")
    for name, shape in (("z", z_shape), ("images", x_shape)):
        if min(shape) < 1:
            raise UserError(f"{name} of shape {shape}: every size must be at least 1")
    if width < 1:
        raise UserError(f"decoder width {width}: give at least 1 (channels at full resolution)")
    return Decoder(z_shape=z_shape, x_shape=x_shape, width=width)
