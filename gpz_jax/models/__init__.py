"""Target models: an explicit table from name to constructor."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from gpz_jax.errors import UserError, did_you_mean
from gpz_jax.models.cnn import CNN

__all__ = ["CNN", "MODELS", "build"]

#: name -> (num_classes, width, dtype) -> module
MODELS: dict[str, Callable[..., nn.Module]] = {
    "cnn": lambda num_classes, width, dtype: CNN(num_classes, width, dtype=dtype),
}


def build(name: str, *, num_classes: int, width: int, size: int, dtype: str = "float32") -> nn.Module:
    """The target model of that name.

    Args:
      name: a key of ``MODELS``.
      num_classes: K.
      width: channels of the first block (64 is the paper's).
      size: side of the square input in pixels.
      dtype: of the convolutions, "float32" or "bfloat16".

    Raises:
      UserError: unknown name (the nearest is suggested); a size the model cannot take; a width below 1.

    Example:
      >>> build("cnn", num_classes=10, width=16, size=32).width
      16
    """
    if name not in MODELS:
        raise UserError(f"unknown model {name!r}{did_you_mean(name, MODELS)}")
    if size < 16 or size % 16:
        raise UserError(f"--size must be a positive multiple of 16 (four 2x2 pools), got {size}")
    if width < 1:
        raise UserError(f"--width must be at least 1, got {width}")
    return MODELS[name](num_classes, width, jnp.dtype(dtype))
