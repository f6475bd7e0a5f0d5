"""Which axes are the batch: those that follow when a model is traced with another number of images."""

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp

from gpz_jax.taps.outputs import is_array


def shapes(tree: Any) -> Any:
    """The ``ShapeDtypeStruct`` twin of every array of a pytree; what is no array stays."""

    def twin(leaf: Any) -> Any:
        if is_array(leaf):
            # As jax will have it: numpy's int64 is int32 there. Keys have a dtype of their own.
            dtype = jax.dtypes.canonicalize_dtype(leaf.dtype, allow_extended_dtype=True)
            return jax.ShapeDtypeStruct(leaf.shape, dtype)
        return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))

    return jax.tree.map(twin, tree)


def batch_size(x: Any) -> int | None:
    """N of an input: the length of axis 0, for a pytree that which most of its leaves have; None if none has an axis.

    >>> batch_size({"ids": jnp.ones((6, 5)), "mask": jnp.ones((6, 5)), "positions": jnp.ones(5)})
    6
    """
    lengths = [jnp.shape(leaf)[0] for leaf in jax.tree.leaves(x) if jnp.ndim(leaf)]
    return Counter(lengths).most_common(1)[0][0] if lengths else None


def rows_of(x: Any, index: Any) -> Any:
    """Those inputs of a batch that an index names: a slice, or an array of places.

    >>> rows_of({"ids": jnp.array([[1], [2], [3]])}, slice(1, None))["ids"].tolist()
    [[2], [3]]
    """
    return jax.tree.map(lambda leaf: leaf[index], x)


def with_batch(x: Any, old: int | None, new: Any) -> Any:
    """Shapes of ``x`` for a batch of ``new`` (a number or a symbol); other leaves than of ``old`` rows stay."""

    def resized(leaf: Any) -> Any:
        if leaf.shape and leaf.shape[0] == old:
            return jax.ShapeDtypeStruct((new, *leaf.shape[1:]), leaf.dtype)
        return leaf

    return jax.tree.map(resized, shapes(x))


def other_sizes(size: int) -> tuple[int, int]:
    """Batches to try beside one of ``size``: twice as many for models that group their images, else one more."""
    return 2 * size, size + 1


def fault(shape: tuple[int, ...], size: int | None, other_shape: tuple[int, ...] | None, other: int | None) -> str:
    """Why an array has no batch axis 0; empty if it has one.

    Args:
      shape: of the array, in a trace with ``size`` images.
      size: how many.
      other_shape: of the same array in a trace with ``other`` images; None if it was not met there.
      other: how many; None if there was no second trace.

    >>> fault((48, 4), 6, (96, 4), 12)
    'axis 0 of its (48, 4) is not the batch of 6'
    >>> fault((6, 4), 6, (6, 4), 12)
    'axis 0 of its (6, 4) does not follow the batch: it is 6 for 12 images'
    """
    if len(shape) < 2 or size is None:
        return f"its shape is {shape}"
    if shape[0] != size:
        return f"axis 0 of its {shape} is not the batch of {size}"
    if other is None:
        return ""
    if other_shape is None:
        return f"a batch of {other} does not meet it"
    if other_shape[:1] != (other,):
        return f"axis 0 of its {shape} does not follow the batch: it is {other_shape[0]} for {other} images"
    return "" if other_shape[1:] == shape[1:] else f"its {shape} becomes {other_shape} for a batch of {other}"
