"""VGG with batch norm (Simonyan & Zisserman 2015), every layer a cut."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from gpz_jax.models.layers import batch_norm, conv, dense, flatten, max_pool_2x2
from gpz_jax.taps import Tap


class VGG(nn.Module):
    """Five stages of 3x3 convolutions, each ended by a 2x2 max-pool, then a head of three dense layers.

    Cuts: ``layer_n`` counts every convolution, batch norm, ReLU and pool from 1, as the paper does (VGG16: 44 entries,
    VGG19: 53); then ``fc_1`` and ``fc_2`` (after their ReLU), ``logits``. At ``width=64``, 64x64x3 and K = 10 these are
    the paper's 39,938,122 and 45,250,378 parameters. In the release the ReLU works in place, so what its feature list
    calls a batch norm already holds the ReLU's output; here it holds the batch norm's.

    Attributes:
      num_classes: K.
      stages: convolutions in each stage.
      width: channels of the first stage; they double up to 8 times that. The head's layers have 64 times that.
      dropout: rates after the head's first and second layer.
      dtype: dtype of the convolutions.
    """

    num_classes: int
    stages: tuple[int, ...] = (2, 2, 3, 3, 3)
    width: int = 64
    dropout: tuple[float, float] = (0.3, 0.2)
    dtype: jnp.dtype = jnp.float32  # pyright: ignore[reportAssignmentType]

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], *, train: bool = False) -> Float[Array, "N K"]:
        """Return the logits ``(N, K)`` of normalised images ``(N, H, W, C)``."""
        n = 0

        def cut(value: Array) -> Array:
            nonlocal n
            n += 1
            return Tap(name=f"layer_{n}")(value)

        convolutions = 0
        for stage, count in enumerate(self.stages):
            for _ in range(count):
                convolutions += 1
                channels = self.width * min(2**stage, 8)
                x = cut(conv(x, channels, bias=True, dtype=self.dtype, name=f"conv_{convolutions}"))
                x = cut(batch_norm(x, train=train, name=f"norm_{convolutions}"))
                x = cut(nn.relu(x))
            x = cut(max_pool_2x2(x))
        x = flatten(x)
        for i, rate in enumerate(self.dropout, start=1):
            x = Tap(name=f"fc_{i}")(nn.relu(dense(x, 64 * self.width, name=f"head_{i}")))
            x = nn.Dropout(rate, deterministic=not train)(x)
        return dense(x, self.num_classes, name="head_3")
