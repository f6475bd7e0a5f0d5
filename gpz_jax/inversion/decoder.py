"""A decoder for any cut, built from the shapes of z and x alone: transposed convolutions, or an inverse residual net.

The attacker knows what it receives and what it wants back; nothing of the target is imported here.
"""

import dataclasses
import functools
import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from gpz_jax.convolutions import Conv, TransposedConv
from gpz_jax.errors import UserError
from gpz_jax.inversion.attention import MODULES
from gpz_jax.inversion.enrich import Enrich

#: Units of IR-152 by stage, counted from the one nearest to the image: what the inverse of it is made of.
IR152_DEPTH = (3, 8, 36, 3)

Trunk = Literal["deconvolution", "residual"]
Tokens = Literal["all", "class", "mean"]


class InverseUnit(nn.Module):
    """x -> shortcut(x) + F(x), F = norm, 3x3 convolution, PReLU, 4x4 transposed convolution, norm: IR's unit backwards.

    With ``up`` both sides are doubled, and the shortcut is a transposed convolution too; else the last convolution is a
    3x3 and the shortcut the identity, or a 1x1 convolution and a norm where the channels change. As in the paper's
    released inverse of IR-152.
    """

    features: int
    up: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "N h w Cin"], *, train: bool) -> Float[Array, "N H W Cout"]:
        """Return the unit's output."""
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        y = Conv(self.features, (3, 3), use_bias=False, name="conv_1")(norm(name="norm_1")(x))
        y = nn.PReLU(negative_slope_init=0.25, name="prelu")(y)
        if self.up:
            y = TransposedConv(self.features, use_bias=False, name="conv_2")(y)
            x = TransposedConv(self.features, use_bias=False, name="shortcut")(x)
        else:
            y = Conv(self.features, (3, 3), use_bias=False, name="conv_2")(y)
            if x.shape[-1] != self.features:
                x = Conv(self.features, (1, 1), use_bias=False, name="shortcut")(x)
                x = norm(name="shortcut_norm")(x)
        return x + norm(name="norm_2")(y)


class Decoder(nn.Module):
    """Reconstruct x from z, stage by stage, each doubling the resolution.

    z is first standardised per channel, by a batch norm without parameters: otherwise a cut that merely
    rescales z would slow the attacker's training, and look like resistance.

    z becomes a grid (N, h, w, c) according to its shape without the batch:

    - ``(h, w, c)``: as it is;
    - ``(T, c)``: tokens return to their square grid if T or T - 1 is a perfect square; the surplus first
      token (the class token) passes through a Dense and is added everywhere. Any other T: flattened. With ``tokens``
      "class" (the first token) or "mean" (of all) it is a vector of c;
    - ``(d,)``: a Dense to the grid left by halving (H, W), rounded up, until neither side exceeds 4.

    It is then enriched (``inversion.enrich``). A 3x3 convolution at z's own resolution precedes the stages. Their
    number is log2 of the growth from (h, w) to (H, W), geometric mean of both sides, rounded; each leaves
    ``width * 2**(stages still to come)`` channels, at most ``8 * width``. A bilinear resize follows only where the grid
    then differs from (H, W): images of 28 or 7 pixels, a z larger than x. Last come a 3x3 convolution to C channels and
    a sigmoid.

    A stage of the trunk "deconvolution" (Yang et al. 2019) is a transposed convolution, batch norm and ReLU; of
    "residual" an :class:`InverseUnit`. ``depth`` further layers (3x3 convolution, norm, ReLU, or such units) follow at
    each resolution, z's own included.

    Build it with :func:`decoder_for`, which checks the settings. z may be of any float dtype; all is computed
    in float32. Pixels come out in [0, 1]. Statistics live in ``"batch_stats"``, mutable with ``train=True``; enriched
    by a network with dropout it needs the rng ``"dropout"`` then.

    Attributes:
      z_shape: of one z.
      x_shape: (H, W, C).
      width: channels at full resolution.
      trunk: what a stage is.
      depth: further layers at each resolution, counted from full resolution; the last number holds for all coarser.
      stages: attention modules (``inversion.attention``) after each stage, from the coarsest; where z has x's own
        resolution, the convolution there is its one stage.
      enrich: steps of enrichment, in order.
      tokens: which tokens of a (T, c) are used.
    """

    z_shape: tuple[int, ...]
    x_shape: tuple[int, ...]
    width: int = 16
    trunk: Trunk = "deconvolution"
    depth: tuple[int, ...] = (0,)
    stages: tuple[tuple[str, ...], ...] = ()
    enrich: tuple[str, ...] = ()
    tokens: Tokens = "all"

    @nn.compact
    def __call__(self, z: Float[Array, "N ..."], *, train: bool) -> Float[Array, "N H W C"]:
        """Reconstruct a batch; ``train`` normalises by its own statistics and updates the running ones."""
        if z.shape[1:] != self.z_shape:
            raise UserError(
                f"this decoder was built for z of shape {self.z_shape}, got {z.shape[1:]} (batch left out); "
                "build one for this cut with decoder_for(z.shape[1:], x.shape[1:])"
            )
        height, width, channels = self.x_shape
        z = self._standardised(z.astype(jnp.float32), train)
        if self.enrich:
            z = Enrich(self.enrich, name="enrich")(z, train=train)
        h, w = small_grid(height, width) if z.ndim == 2 else z.shape[1:3]
        count = stage_count((h, w), (height, width))
        features = [self.width * min(2**left, 8) for left in range(count + 1)]  # by the stages still to come
        if z.ndim == 2:
            z = nn.Dense(h * w * features[count], name="to_grid")(z).reshape(-1, h, w, features[count])
        z = Conv(features[count], (3, 3), use_bias=False, name="stem")(z)
        z = nn.relu(_batch_norm(train)(name="stem_norm")(z))
        for stage in range(count + 1):  # 0 is z's own resolution
            left = count - stage
            if stage:
                z = self._layer(z, features[left], f"up_{stage}", train, up=True)
            for i in range(self.depth[min(left, len(self.depth) - 1)]):
                z = self._layer(z, features[left], f"layer_{stage}_{i + 1}", train)
            at = stage if count == 0 else stage - 1
            for module in self.stages[at] if 0 <= at < len(self.stages) else ():
                z = MODULES[module](name=f"{module}_{stage}")(z, train=train)
        if z.shape[1:3] != (height, width):
            z = jax.image.resize(z, (z.shape[0], height, width, z.shape[3]), "bilinear")
        return nn.sigmoid(Conv(channels, (3, 3), name="pixels")(z))

    def _standardised(self, z: Array, train: bool) -> Array:
        """A vector, or channels on the grid of z, each of mean 0 and variance 1."""
        if self.tokens != "all" and z.ndim == 3:
            z = z[:, 0] if self.tokens == "class" else jnp.mean(z, axis=1)
        grid = token_grid(z.shape[1:])
        if z.ndim == 3 and grid is None:
            z = z.reshape(z.shape[0], -1)
        # E[z^2] - E[z]^2, the fast variance, cancels when means are large; the default epsilon of 1e-5 would
        # hide channels of small scale.
        bare = {"use_bias": False, "use_scale": False, "use_fast_variance": False, "epsilon": 1e-8}
        z = _batch_norm(train)(**bare, name="standardise")(z)
        if grid is None:
            return z
        patches = z[:, -grid * grid :].reshape(-1, grid, grid, z.shape[-1])
        if z.shape[1] > grid * grid:
            patches += nn.Dense(z.shape[-1], name="class_token")(z[:, 0])[:, None, None]
        return patches

    def _layer(self, z: Array, features: int, name: str, train: bool, *, up: bool = False) -> Array:
        if self.trunk == "residual":
            return InverseUnit(features, up, name=name)(z, train=train)
        convolution = TransposedConv if up else functools.partial(Conv, kernel_size=(3, 3))
        z = convolution(features, use_bias=False, name=name)(z)
        return nn.relu(_batch_norm(train)(name=f"{name}_norm")(z))


def _batch_norm(train: bool) -> functools.partial:
    return functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)


def stage_count(grid: tuple[int, int], image: tuple[int, int]) -> int:
    """Stages that double the resolution between a grid and an image, sides (h, w) and (H, W).

    >>> stage_count((4, 4), (64, 64)), stage_count((7, 7), (28, 28)), stage_count((64, 64), (32, 32))
    (4, 2, 0)
    """
    return max(0, round(math.log2(math.prod(image) / math.prod(grid)) / 2))


def stages_of(z_shape: tuple[int, ...], x_shape: tuple[int, ...], *, tokens: Tokens = "all") -> int:
    """Stages at which a decoder from z to x can have attention modules, at least 1.

    >>> stages_of((8, 8, 32), (32, 32, 3)), stages_of((10,), (32, 32, 3)), stages_of((32, 32, 4), (32, 32, 3))
    (2, 3, 1)
    """
    height, width, _ = x_shape
    side = token_grid(z_shape) if tokens == "all" else None
    grid = z_shape[:2] if len(z_shape) == 3 else (side, side) if side else small_grid(height, width)
    return max(1, stage_count((grid[0], grid[1]), (height, width)))


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


def decoder_for(
    z_shape: tuple[int, ...],
    x_shape: tuple[int, ...],
    *,
    width: int = 16,
    trunk: Trunk = "deconvolution",
    depth: tuple[int, ...] = (0,),
    stages: tuple[tuple[str, ...], ...] = (),
    enrich: tuple[str, ...] = (),
    tokens: Tokens = "all",
) -> Decoder:
    """Build the :class:`Decoder` from z to images of ``x_shape`` = (H, W, C), both without the batch.

    The arguments are the decoder's attributes.

    Raises:
      UserError: a ``z_shape`` that is not (d,), (T, c) or (h, w, c); an ``x_shape`` that is not (H, W, C); sizes or a
        width below 1, a depth below 0; more stages than the decoder has; class or mean tokens of what has none.

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
    if not depth or min(depth) < 0:
        raise UserError(f"decoder depth {depth}: give numbers of further layers, 0 or more")
    if tokens != "all" and len(z_shape) != 2:
        raise UserError(
            f"z of shape {z_shape} is not a sequence: leave out tokens {tokens} at this cut", field="tokens"
        )
    most = stages_of(z_shape, x_shape, tokens=tokens)
    if len(stages) > most:
        raise UserError(
            f"stages names {len(stages)} of them, but the decoder from z of shape {z_shape} to {x_shape} has {most}; "
            f"give at most {most}",
            field="stages",
        )
    return Decoder(z_shape, x_shape, width, trunk, tuple(depth), tuple(map(tuple, stages)), tuple(enrich), tokens)


def parameter_count(decoder: Decoder) -> int:
    """How many parameters a decoder has; nothing is computed.

    >>> parameter_count(decoder_for((10,), (32, 32, 3), width=4))
    25831
    """
    z = jax.ShapeDtypeStruct((2, *decoder.z_shape), jnp.float32)
    shapes = jax.eval_shape(lambda z: decoder.init(jax.random.key(0), z, train=False), z)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))


def match_parameters(decoder: Decoder, budget: int) -> Decoder:
    """The same decoder in the width whose number of parameters is nearest to ``budget``, as a ratio.

    Raises:
      UserError: a budget from which even width 1 is off by more than a factor of 2.

    >>> parameter_count(match_parameters(decoder_for((10,), (32, 32, 3)), 26_000))
    25831
    """

    def of(width: int) -> int:
        return parameter_count(dataclasses.replace(decoder, width=width, parent=None, name=None))

    low, high = 1, 2
    while of(high) < budget:
        low, high = high, 2 * high
    while high - low > 1:  # of(low) < budget <= of(high), unless low is 1
        middle = (low + high) // 2
        low, high = (middle, high) if of(middle) < budget else (low, middle)
    width = min((low, high), key=lambda width: abs(math.log(of(width) / budget)))
    if not 0.5 <= of(width) / budget <= 2:
        raise UserError(
            f"match_params {budget}: the nearest decoder of this kind for z of shape {decoder.z_shape} has "
            f"{of(width)} parameters; give about that many or more",
            field="match_params",
        )
    return dataclasses.replace(decoder, width=width, parent=None, name=None)
