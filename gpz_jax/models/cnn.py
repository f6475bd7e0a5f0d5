"""The paper's four-block CNN."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from gpz_jax.models.layers import batch_norm, conv, dense, flatten, max_pool_2x2
from gpz_jax.taps import Tap


class CNN(nn.Module):
    """Four blocks (3x3 convolution, batch norm, 2x2 max-pool, ReLU), then a head K·5 -> dropout -> K.

    At ``width=64``, 64x64x3 and K = 10 it is the paper's network: 1,963,056 parameters. Images are square with a side
    divisible by 16. Batch-norm statistics, the head and the logits stay in float32 whatever ``dtype`` is.

    Attributes:
      num_classes: K.
      width: channels of the first block; they double at every block.
      dropout: rate before the last layer.
      dtype: dtype of the convolutions (bfloat16 on accelerators).
    """

    num_classes: int
    width: int = 64
    dropout: float = 0.5
    dtype: jnp.dtype = jnp.float32  # pyright: ignore[reportAssignmentType]

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], *, train: bool = False) -> Float[Array, "N K"]:
        """Return the logits ``(N, K)`` of normalised images ``(N, H, W, C)``."""
        for n in range(1, 5):
            x = conv(x, self.width * 2 ** (n - 1), bias=True, dtype=self.dtype, name=f"conv_{n}")
            x = batch_norm(x, train=train, name=f"norm_{n}")
            x = nn.relu(max_pool_2x2(x))  # (N, H/2^n, W/2^n, width 2^(n-1))
            x = Tap(name=f"block_{n}")(x)
        x = Tap(name="fc")(dense(flatten(x), 5 * self.num_classes, name="head_1"))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return dense(x, self.num_classes, name="head_2")
