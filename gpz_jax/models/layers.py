"""Layers that more than one model uses."""

from jax import Array
from jaxtyping import Float


def max_pool_2x2(x: Float[Array, "N H W C"]) -> Float[Array, "N H/2 W/2 C"]:
    """2x2 max-pooling with stride 2, as reshape + max.

    The same function as ``nn.max_pool(x, (2, 2), (2, 2))`` for even H and W; the gradient of that one is a
    select-and-scatter, which is slow on CPUs.
    """
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).max(axis=(2, 4))
