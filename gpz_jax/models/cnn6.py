"""The six-convolution CIFAR network of He et al. 2019, the yardstick of inversion at cut networks."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from gpz_jax.models.layers import conv, dense, flatten, max_pool_2x2
from gpz_jax.taps import Tap


class CNN6(nn.Module):
    """Three stages of two 3x3 convolutions with ReLUs and a 2x2 max-pool, then 8·width units (sigmoid), then K.

    Channels are width, 2 width and 2 width; there is no batch norm and no dropout. Cuts have He et al.'s names:
    ``conv11``, ``ReLU11``, ``conv12``, ``ReLU12``, ``pool1``, and so on to ``pool3``; ``fc1``; ``logits``. From the
    description in He, Zhang and Lee, "Model inversion attacks against collaborative inference", 2019. Sides are
    divisible by 8.

    Attributes:
      num_classes: K.
      width: channels of the first stage; 64 in the paper.
      dtype: dtype of the convolutions.
    """

    num_classes: int
    width: int = 64
    dtype: jnp.dtype = jnp.float32  # pyright: ignore[reportAssignmentType]

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], *, train: bool = False) -> Float[Array, "N K"]:
        """Return the logits ``(N, K)`` of normalised images ``(N, H, W, C)``; ``train`` changes nothing."""
        for stage, channels in enumerate((self.width, 2 * self.width, 2 * self.width), start=1):
            for i in (1, 2):
                x = conv(x, channels, bias=True, dtype=self.dtype, name=f"convolution_{stage}{i}")
                x = Tap(name=f"ReLU{stage}{i}")(nn.relu(Tap(name=f"conv{stage}{i}")(x)))
            x = Tap(name=f"pool{stage}")(max_pool_2x2(x))
        x = Tap(name="fc1")(nn.sigmoid(dense(flatten(x), 8 * self.width, name="head_1")))
        return dense(x, self.num_classes, name="head_2")
