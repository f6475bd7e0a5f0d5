"""ResNets for small images: a 3x3 stem, no pooling before the first stage (He et al. 2016)."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from gpz_jax.models.layers import average_pool_4x4, batch_norm, conv, dense, flatten
from gpz_jax.taps import Tap


class ResNet(nn.Module):
    """Stem, four stages of residual blocks, 4x4 average pooling, one dense layer.

    Cuts: ``block_1`` is the stem, then one a residual block (after its last ReLU), then the pooled vector, ``logits``.
    ResNet-18 at 64x64x3 and K = 10 is the paper's, 11,189,322 parameters. The release has no ResNet-50: ours is the
    same net with the bottleneck blocks and stage sizes of He et al. 2016 (stride on the 3x3 convolution).

    Attributes:
      num_classes: K.
      stages: residual blocks in each stage.
      bottleneck: 1x1, 3x3, 1x1 convolutions with four times the channels at the end, instead of two 3x3.
      width: channels of the stem and the first stage; they double at every stage.
      dtype: dtype of the convolutions.
    """

    num_classes: int
    stages: tuple[int, ...] = (2, 2, 2, 2)
    bottleneck: bool = False
    width: int = 64
    dtype: jnp.dtype = jnp.float32  # pyright: ignore[reportAssignmentType]

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], *, train: bool = False) -> Float[Array, "N K"]:
        """Return the logits ``(N, K)`` of normalised images ``(N, H, W, C)``."""
        x = conv(x, self.width, dtype=self.dtype, name="stem_conv")
        x = nn.relu(batch_norm(x, train=train, name="stem_norm"))
        x = Tap(name="block_1")(x)
        n = 2
        for stage, blocks in enumerate(self.stages):
            for i in range(blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                residual = Residual(self.width * 2**stage, self.bottleneck, stride, self.dtype, name=f"residual_{n}")
                x = Tap(name=f"block_{n}")(residual(x, train=train))
                n += 1
        x = Tap(name=f"block_{n}")(flatten(average_pool_4x4(x)))
        return dense(x, self.num_classes, name="head")


class Residual(nn.Module):
    """relu(F(x) + shortcut(x)); the shortcut is a 1x1 convolution where the shape changes."""

    channels: int
    bottleneck: bool
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"], *, train: bool) -> Float[Array, "N h w c"]:
        """Return the block's output."""
        if self.bottleneck:  # (kernel, channels, stride) of each convolution
            plan = [(1, self.channels, 1), (3, self.channels, self.stride), (1, 4 * self.channels, 1)]
        else:
            plan = [(3, self.channels, self.stride), (3, self.channels, 1)]
        y = x
        for i, (kernel, channels, stride) in enumerate(plan, start=1):
            y = conv(y, channels, kernel=kernel, stride=stride, dtype=self.dtype, name=f"conv_{i}")
            y = batch_norm(y, train=train, name=f"norm_{i}")
            y = nn.relu(y) if i < len(plan) else y
        if self.stride != 1 or x.shape[-1] != y.shape[-1]:
            x = conv(x, y.shape[-1], kernel=1, stride=self.stride, dtype=self.dtype, name="shortcut_conv")
            x = batch_norm(x, train=train, name="shortcut_norm")
        return nn.relu(x + y)
