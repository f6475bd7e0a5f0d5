"""Keyword arguments of a model's call, each with a hash, so that the network that holds them has one."""

import dataclasses
import hashlib
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from gpz_jax.taps.outputs import is_array


@dataclasses.dataclass(frozen=True)
class ByValue:
    """Something without a hash (an array, a key, a dict of them), equal to what holds the same numbers.

    Attributes:
      value: it.
      identity: structure of the pytree, and of each array the shape, the type and the SHA-256 of its bytes.
    """

    value: Any = dataclasses.field(compare=False)
    identity: Hashable


def hashable(arguments: Mapping[str, Any]) -> tuple[tuple[str, Hashable], ...]:
    """Arguments in the order of their names, those without a hash in a :class:`ByValue`.

    >>> a, b = (hashable({"train": False, "scale": np.ones(2)}) for _ in range(2))
    >>> a == b, hash(a) == hash(b), a[1]
    (True, True, ('train', False))
    """
    return tuple((name, _boxed(value)) for name, value in sorted(arguments.items()))


def values_of(arguments: tuple[tuple[str, Hashable], ...]) -> dict[str, Any]:
    """The arguments that :func:`hashable` was given."""
    return {name: value.value if isinstance(value, ByValue) else value for name, value in arguments}


def _boxed(value: Any) -> Hashable:
    try:
        hash(value)
    except TypeError:
        leaves, structure = jax.tree.flatten(value)
        return ByValue(value, (structure, *map(_identity, leaves)))
    return value


def _identity(leaf: Any) -> Hashable:
    if isinstance(leaf, Tracer) or not is_array(leaf):
        return id(leaf) if isinstance(leaf, Tracer) else leaf
    numbers = jax.random.key_data(leaf) if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    digest = hashlib.sha256(np.asarray(numbers).tobytes()).hexdigest()
    return tuple(leaf.shape), str(leaf.dtype), digest
