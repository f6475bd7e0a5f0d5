"""Attention that an attacker's decoder may put after a stage: five modules of one signature.

Each is called as ``module(x, train=train)`` and returns the shape it was given, (N, h, w, c) with any h, w
and c from 1, in float32. None of them has a dropout or running statistics: ``train`` changes nothing here.

All start close to the identity, y ≈ x. A gate that multiplies x by something near nought would otherwise
silence its stage in the first epochs, and a weak attacker would pass for a strong defence.

>>> module, x = MODULES["se"](), jnp.ones((2, 3, 5, 6))
>>> variables = module.init(jax.random.key(0), x, train=False)
>>> module.apply(variables, x, train=True).shape
(2, 3, 5, 6)
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from gpz_jax.convolutions import Conv, DepthwiseConv
from gpz_jax.errors import UserError, did_you_mean

NONE = "none"

#: Kernels of 1% of the usual size: what they feed starts near its bias, yet gradients pass through from the first step.
_small = jax.nn.initializers.variance_scaling(1e-4, "fan_in", "truncated_normal")


class SelfAttention(nn.Module):
    """A transformer's layer, every position a token (Vaswani et al. 2017), normalised first (Xiong et al. 2020).

    With LN a layer norm, p a fixed encoding of position and P an average pool::

        a = LN(x)
        x = x + Attention(queries = a + p, keys = P(a + p), values = P(a))
        y = x + Dense(GELU(Dense(LN(x))))          (hidden width 2c)

    Attention is softmax(Q K^T / sqrt(c / heads)) V per head; there are 4, 2 or 1 heads, the most that divide
    c. P leaves at most 16x16 keys (spatial-reduction attention, Wang et al. 2021, PVT; by average pooling,
    Wang et al. 2022, PVT v2): 64x64 positions then cost 4096 x 256 weights a head and image, a sixteenth.

    Attention alone cannot tell positions apart, so p is added (:func:`positions`), and to queries and keys
    only (Carion et al. 2020, DETR), which leaves the values to x. The last Dense of either branch starts
    small, so y ≈ x at first. With c = 1 a layer norm erases x, and y is x plus a constant.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "N h w c"], *, train: bool) -> Float[Array, "N h w c"]:
        """Let every position look at all others."""
        n, h, w, c = x.shape
        tokens = nn.LayerNorm(name="attention_norm")(x)
        placed = tokens + positions(h, w, c)
        attention = nn.MultiHeadDotProductAttention(
            num_heads=next(heads for heads in (4, 2, 1) if c % heads == 0),
            out_kernel_init=_small,
            deterministic=True,
            name="attention",
        )
        queries, keys, values = (a.reshape(n, -1, c) for a in (placed, _pool(placed), _pool(tokens)))
        x += attention(queries, keys, values).reshape(x.shape)

        hidden = nn.gelu(nn.Dense(2 * c, name="mlp_in")(nn.LayerNorm(name="mlp_norm")(x)))
        return x + nn.Dense(c, kernel_init=_small, name="mlp_out")(hidden)


def positions(h: int, w: int, c: int) -> Float[Array, "h w c"]:
    """Sinusoids that tell the positions of a grid apart (Vaswani et al. 2017, section 3.5), in two dimensions.

    Channels go in fours, k = 4j, ..., 4j + 3: sin(f row), sin(f column), cos(f row), cos(f column) with
    f = 10000^(-4j / c). One channel knows the rows only.

    >>> print(positions(2, 2, 4)[1, 0].round(3))
    [0.841 0.    0.54  1.   ]
    """
    k = jnp.arange(c)
    place = jnp.stack(jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing="ij"), axis=-1).astype(jnp.float32)
    frequency = 10000.0 ** (-4 * (k // 4).astype(jnp.float32) / c)
    angle = place[..., k % 2] * frequency
    return jnp.where(k % 4 < 2, jnp.sin(angle), jnp.cos(angle))


def _pool(x: Float[Array, "N h w c"], most: int = 16) -> Float[Array, "N a b c"]:
    """Average blocks of equal sides so that at most ``most`` remain along each; border blocks hold what is left.

    As a reshape and not ``nn.avg_pool``, whose gradient is a window over a dilated array.

    >>> print(_pool(jnp.arange(3.0).reshape(1, 3, 1, 1), most=2).ravel())
    [0.5 2. ]
    """
    h, w = x.shape[1:3]
    s, t = math.ceil(h / most), math.ceil(w / most)
    if s == t == 1:
        return x

    def block_sums(x: Array) -> Array:  # (N, ceil(h / s), ceil(w / t), c)
        x = jnp.pad(x, ((0, 0), (0, -h % s), (0, -w % t), (0, 0)))
        return x.reshape(x.shape[0], x.shape[1] // s, s, x.shape[2] // t, t, x.shape[3]).sum((2, 4))

    return block_sums(x) / block_sums(jnp.ones((1, h, w, 1), x.dtype))


class AttentionAsConvolution(nn.Module):
    """Attention as convolution, as in the paper's released code (Golden Partition Zone, arXiv 2506.15412).

    Both convolutions are without bias::

        y = Conv1x1(x * sigmoid(DepthwiseConv5x5(x)))

    The depthwise kernel starts small, so sigmoid ≈ 1/2, and the pointwise one at twice the identity: y ≈ x
    at first.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "N h w c"], *, train: bool) -> Float[Array, "N h w c"]:
        """Weight x by what surrounds it."""
        gate = nn.sigmoid(DepthwiseConv((5, 5), use_bias=False, kernel_init=_small, name="depthwise")(x))
        return Conv(x.shape[-1], (1, 1), use_bias=False, kernel_init=_twice_identity, name="pointwise")(x * gate)


def _twice_identity(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Initialise a 1x1 convolution's kernel, (1, 1, c, c)."""
    return jnp.broadcast_to(2 * jnp.eye(shape[-2], shape[-1], dtype=dtype), shape)


class SqueezeExcitation(nn.Module):
    """Squeeze-and-excitation (Hu et al. 2018): a weight per channel and image.

    With max(1, c // 8) hidden units::

        y = 2 x * sigmoid(Dense(ReLU(Dense(mean of x over positions))))

    The source has no factor 2. With it, and the second Dense starting small, y ≈ x at first instead of x / 2;
    a convolution that follows can absorb it, so it takes nothing from what can be learnt.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "N h w c"], *, train: bool) -> Float[Array, "N h w c"]:
        """Weight the channels of x."""
        c = x.shape[-1]
        squeezed = nn.relu(nn.Dense(max(1, c // 8), name="squeeze")(x.mean((1, 2))))
        gate = 2 * nn.sigmoid(nn.Dense(c, kernel_init=_small, name="excite")(squeezed))
        return x * gate[:, None, None]


class LargeSelectiveKernel(nn.Module):
    """Large selective kernel (Li et al. 2023, LSKNet): each position chooses between two receptive fields.

    ::

        u = DepthwiseConv5x5(x)                       receptive field  5
        v = DepthwiseConv7x7(u), dilation 3           receptive field 23
        p, q = Conv1x1(u), Conv1x1(v)                 to ceil(c / 2) channels each
        s, t = sigmoid(Conv7x7([mean, max] of [p, q] over channels))
        y = x * Conv1x1(s p + t q)                    back to c channels

    The bias of the last convolution starts at 1 and its kernel small, so y ≈ x at first; the source starts
    it at 0, inside a block with a residual.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "N h w c"], *, train: bool) -> Float[Array, "N h w c"]:
        """Weight x by what lies around it, near or far."""
        c = x.shape[-1]
        near = DepthwiseConv((5, 5), name="near")(x)
        far = DepthwiseConv((7, 7), dilation=3, name="far")(near)
        near = Conv(math.ceil(c / 2), (1, 1), name="near_half")(near)
        far = Conv(math.ceil(c / 2), (1, 1), name="far_half")(far)
        both = jnp.concatenate([near, far], axis=-1)
        summary = jnp.stack([both.mean(-1), both.max(-1)], axis=-1)  # (N, h, w, 2)
        choice = nn.sigmoid(Conv(2, (7, 7), name="select")(summary))
        chosen = choice[..., :1] * near + choice[..., 1:] * far
        return x * _near_one(c, "gate")(chosen)


class MultiScaleConvolutionalAttention(nn.Module):
    """Multi-scale convolutional attention (Guo et al. 2022, SegNeXt), large kernels as pairs of strips.

    ::

        u = DepthwiseConv5x5(x)
        y = x * Conv1x1(u + sum over k in 7, 11, 21 of DepthwiseConv_kx1(DepthwiseConv_1xk(u)))

    The bias of the last convolution starts at 1 and its kernel small, so y ≈ x at first; the source starts
    it at 0, inside a block with a residual.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "N h w c"], *, train: bool) -> Float[Array, "N h w c"]:
        """Weight x by what lies around it, at four scales."""
        u = total = DepthwiseConv((5, 5), name="square_5")(x)
        for k in (7, 11, 21):
            total += DepthwiseConv((k, 1), name=f"column_{k}")(DepthwiseConv((1, k), name=f"row_{k}")(u))
        return x * _near_one(x.shape[-1], "gate")(total)


def _near_one(c: int, name: str) -> nn.Conv:
    """Build a 1x1 convolution whose output starts near 1."""
    return Conv(c, (1, 1), kernel_init=_small, bias_init=nn.initializers.ones_init(), name=name)


#: What a stage may name, in the order in which the help lists them.
MODULES: dict[str, type[nn.Module]] = {
    "mha": SelfAttention,
    "aac": AttentionAsConvolution,
    "se": SqueezeExcitation,
    "lsk": LargeSelectiveKernel,
    "msca": MultiScaleConvolutionalAttention,
}


def parse_stages(text: str) -> tuple[tuple[str, ...], ...]:
    """Read what follows each stage: stages separated by commas, modules in one stage by plus signs.

    Raises :class:`UserError` for a module that :data:`MODULES` does not have.

    >>> parse_stages("mha,aac+se,none,msca")
    (('mha',), ('aac', 'se'), (), ('msca',))
    >>> parse_stages("")
    ()
    >>> parse_stages("msa")
    Traceback (most recent call last):
    gpz_jax.errors.UserError: unknown attention module 'msa' in 'msa'; did you mean 'msca'?
    """
    return tuple(_parse_stage(stage, text) for stage in text.split(",")) if text.strip() else ()


def _parse_stage(stage: str, text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in stage.split("+"))
    if names == (NONE,):
        return ()
    known = (*MODULES, NONE) if len(names) == 1 else tuple(MODULES)  # "none" stands alone
    for name in names:
        if name not in MODULES:
            raise UserError(f"unknown attention module {name!r} in {text!r}{did_you_mean(name, known)}")
    return names
