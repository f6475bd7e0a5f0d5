"""A key of ``jax.random`` and the seed that it was made of, for what draws with NumPy on the host."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gpz_jax.errors import UserError


def check_key(key: Any) -> None:
    """Raise :class:`UserError` for what is no single key of ``jax.random``.

    Example:
      >>> check_key(7)
      Traceback (most recent call last):
      gpz_jax.errors.UserError: key must be a key such as jax.random.key(0), got int
    """
    new = isinstance(key, Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and not key.ndim
    old = isinstance(key, Array | np.ndarray) and key.dtype == np.uint32 and key.ndim == 1
    if not (new or old):
        shape = f" of shape {key.shape}" if isinstance(key, Array | np.ndarray) else ""
        raise UserError(f"key must be a key such as jax.random.key(0), got {type(key).__name__}{shape}", field="key")


def seed_of(key: Array) -> int:
    """The seed that a key was made of; of a split or folded key its bits as one number.

    Example:
      >>> seed_of(jax.random.key(7))
      7
    """
    check_key(key)
    words = np.asarray(jax.random.key_data(key)).ravel().tolist()
    return sum(word << 32 * i for i, word in enumerate(reversed(words)))
