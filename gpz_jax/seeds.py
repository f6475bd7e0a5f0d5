"""A key of ``jax.random`` and the seed that it was made of, for what draws with NumPy on the host."""

import jax
import numpy as np
from jax import Array


def seed_of(key: Array) -> int:
    """The seed that a key was made of; of a split or folded key its bits as one number.

    Example:
      >>> seed_of(jax.random.key(7))
      7
    """
    words = np.asarray(jax.random.key_data(key)).ravel().tolist()
    return sum(word << 32 * i for i, word in enumerate(reversed(words)))
