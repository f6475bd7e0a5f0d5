"""Vision transformer (Dosovitskiy et al. 2021), small patches for small images."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from gpz_jax.models.layers import dense, uniform_by_fan_in
from gpz_jax.taps import Tap


class ViT(nn.Module):
    """Patches and a class token, learned positions, pre-norm blocks, one dense layer on the class token.

    Cuts: ``block_n``, all tokens after each block; ``class_token``, that token alone after the last norm; ``logits``.
    With patches of 4, width 128, 6 blocks and 8 heads it is the paper's, 1,230,474 parameters at 64x64x3 and K = 10:
    257 tokens.

    Attributes:
      num_classes: K.
      patch: side of a patch in pixels.
      width: of the tokens.
      blocks: number of them.
      heads: of the attention; they divide the width.
      dropout: rate at the positions, in the attention and in the MLPs.
      dtype: dtype of the blocks; norms and the head are float32.
    """

    num_classes: int
    patch: int = 4
    width: int = 128
    blocks: int = 6
    heads: int = 8
    dropout: float = 0.1
    dtype: jnp.dtype = jnp.float32  # pyright: ignore[reportAssignmentType]

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], *, train: bool = False) -> Float[Array, "N K"]:
        """Return the logits ``(N, K)`` of normalised images ``(N, H, W, C)``."""
        fan_in = self.patch * self.patch * x.shape[-1]
        x = nn.Conv(
            self.width,
            (self.patch, self.patch),
            strides=self.patch,
            padding="VALID",
            dtype=self.dtype,
            kernel_init=uniform_by_fan_in(fan_in),
            bias_init=uniform_by_fan_in(fan_in),
            name="patches",
        )(x)
        x = x.reshape(x.shape[0], -1, self.width)  # (N, T, width), rows of the image one after the other
        tokens = (1, x.shape[1] + 1, self.width)
        positions = self.param("positions", nn.initializers.truncated_normal(0.02, lower=-100, upper=100), tokens)
        first = self.param("first_token", nn.initializers.zeros_init(), (1, 1, self.width))
        first = jnp.broadcast_to(first, (x.shape[0], 1, self.width)).astype(x.dtype)
        x = jnp.concatenate([first, x], axis=1) + positions.astype(x.dtype)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        for n in range(1, self.blocks + 1):
            x = Block(self.heads, self.dropout, self.dtype, name=f"transformer_{n}")(x, train=train)
            x = Tap(name=f"block_{n}")(x)
        x = Tap(name="class_token")(_layer_norm(x[:, 0], name="norm").astype(jnp.float32))
        return dense(x, self.num_classes, name="head")


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    heads: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "N T d"], *, train: bool) -> Float[Array, "N T d"]:
        """Return the tokens after the block."""
        width = x.shape[-1]
        off = not train
        attention = nn.MultiHeadDotProductAttention(
            self.heads,
            dtype=self.dtype,
            dropout_rate=self.dropout,
            broadcast_dropout=False,
            deterministic=off,
            kernel_init=nn.initializers.variance_scaling(0.5, "fan_avg", "uniform"),  # PyTorch: Xavier of (3d, d)
            out_kernel_init=uniform_by_fan_in(width),
            name="attention",
        )
        x = x + attention(_layer_norm(x, name="norm_1"))
        y = _layer_norm(x, name="norm_2")
        y = _linear(y, 4 * width, self.dtype, name="mlp_1")
        y = nn.Dropout(self.dropout, deterministic=off)(nn.gelu(y, approximate=False))
        y = nn.Dropout(self.dropout, deterministic=off)(_linear(y, width, self.dtype, name="mlp_2"))
        return x + y


def _layer_norm(x: Array, *, name: str) -> Array:
    return nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32, name=name)(x.astype(jnp.float32)).astype(x.dtype)


def _linear(x: Array, features: int, dtype: jnp.dtype, *, name: str) -> Array:
    by_fan_in = uniform_by_fan_in(x.shape[-1])
    return nn.Dense(features, dtype=dtype, kernel_init=by_fan_in, bias_init=by_fan_in, name=name)(x)
