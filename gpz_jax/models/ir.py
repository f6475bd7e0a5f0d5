"""Improved residual networks of face recognition (Deng et al. 2019, ArcFace), for small images."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from gpz_jax.models.layers import PReLU, batch_norm, conv, dense, flatten
from gpz_jax.taps import Tap

_XAVIER = nn.initializers.xavier_uniform()


class IR(nn.Module):
    """Stem, four stages of IR units, the first of each halving the resolution; a 512-vector as embedding; K classes.

    Cuts: ``block_1`` is the stem, then one a unit, ``embedding``, ``logits``. IR-152 at 64x64x3 and K = 10 is the
    paper's: 62,091,978 parameters (its release carries 1,005,578 more in a layer that is never run) and 51 blocks.
    The trunk is initialised by Xavier's rule, the head by PyTorch's defaults, as in the release.

    Attributes:
      num_classes: K.
      stages: units in each stage.
      width: channels of the stem and the first stage; they double at every stage. The embedding has 8 times that.
      dropout: rate before the embedding.
      dtype: dtype of the convolutions.
    """

    num_classes: int
    stages: tuple[int, ...] = (3, 8, 36, 3)
    width: int = 64
    dropout: float = 0.5
    dtype: jnp.dtype = jnp.float32  # pyright: ignore[reportAssignmentType]

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], *, train: bool = False) -> Float[Array, "N K"]:
        """Return the logits ``(N, K)`` of normalised images ``(N, H, W, C)``."""
        x = conv(x, self.width, init=_XAVIER, dtype=self.dtype, name="stem_conv")
        x = PReLU(name="stem_prelu")(batch_norm(x, train=train, name="stem_norm"))
        x = Tap(name="block_1")(x)
        n = 2
        for stage, units in enumerate(self.stages):
            for i in range(units):
                unit = Unit(self.width * 2**stage, 2 if i == 0 else 1, self.dtype, name=f"unit_{n}")
                x = Tap(name=f"block_{n}")(unit(x, train=train))
                n += 1
        x = batch_norm(x, train=train, name="head_norm")
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = batch_norm(dense(flatten(x), 8 * self.width, name="head_1"), train=train, name="embedding_norm")
        x = Tap(name="embedding")(x)
        return dense(x, self.num_classes, name="head_2")


class Unit(nn.Module):
    """x + F(x) with F = norm, 3x3, PReLU, 3x3 with the stride, norm; nothing follows the sum."""

    channels: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], *, train: bool) -> Float[Array, "N h w c"]:
        """Return the unit's output."""
        y = batch_norm(x, train=train, name="norm_1")
        y = conv(y, self.channels, init=_XAVIER, dtype=self.dtype, name="conv_1")
        y = PReLU(name="prelu")(y)
        y = conv(y, self.channels, stride=self.stride, init=_XAVIER, dtype=self.dtype, name="conv_2")
        y = batch_norm(y, train=train, name="norm_2")
        if x.shape[-1] == self.channels:
            x = x[:, :: self.stride, :: self.stride]
        else:
            x = conv(
                x, self.channels, kernel=1, stride=self.stride, init=_XAVIER, dtype=self.dtype, name="shortcut_conv"
            )
            x = batch_norm(x, train=train, name="shortcut_norm")
        return x + y
