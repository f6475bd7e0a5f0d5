"""Sums over the classes of a batch, and the classes that have too few images for one.

By products with the one-hot labels, which are exact in the values' own precision: a TPU's scatter is a loop over the
images, its gather writes all of what it gathers to memory, and rows that lie on several devices are not gathered for a
product. Only CPUs with many classes take ``segment_sum`` and index, whose cost does not grow with K.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Float, Int

from gpz_jax.targets import at_least_float32, check_labels

#: Classes up to which CPUs, too, multiply with the one-hot labels where they could index (at 100 indexing is faster).
FEW = 64


def sum_of_class(values: Float[Array, "N D"], labels: Int[Array, " N"], num_classes: int) -> Float[Array, "K D"]:
    """Σ_{i in c} of ``values``, ``(K, D)``, accumulated in float32 at least; a label outside 0 … K - 1 does not count.

    Example:
      >>> sum_of_class(jnp.array([[1.0], [3.0], [5.0]]), jnp.array([0, 0, 1]), 3).tolist()
      [[4.0], [5.0], [0.0]]
    """

    def multiplied(values: Array, labels: Array) -> Array:
        return multiplied_sums(values, jax.nn.one_hot(labels, num_classes))

    def scattered(values: Array, labels: Array) -> Array:
        return jax.ops.segment_sum(at_least_float32(values), labels, num_segments=num_classes)

    if num_classes <= FEW:
        return multiplied(values, labels)
    return jax.lax.platform_dependent(values, labels, cpu=scattered, default=multiplied)


def multiplied_sums(values: Float[Array, "N D"], member: Float[Array, "N K"]) -> Float[Array, "K D"]:
    """:func:`sum_of_class` as accelerators do it; ``member`` is 1 where an image belongs to a class, else 0."""
    return _dot(member.T, values)


def of_class(values: Float[Array, "K D"], labels: Int[Array, " N"]) -> Float[Array, "N D"]:
    """The row of each image's class, exactly, ``(N, D)``, float32 at least; zeros for a label outside 0 … K - 1.

    Example:
      >>> of_class(jnp.array([[1.0], [3.0]]), jnp.array([1, 0, 1])).tolist()
      [[3.0], [1.0], [3.0]]
    """

    def multiplied(values: Array, labels: Array) -> Array:
        return multiplied_rows(values, jax.nn.one_hot(labels, len(values)))

    if len(values) <= FEW:
        return multiplied(values, labels)
    indexed = lambda values, labels: at_least_float32(values)[labels]  # noqa: E731
    return jax.lax.platform_dependent(values, labels, cpu=indexed, default=multiplied)


def one_of_class(values: Float[Array, "N D"], labels: Int[Array, " N"], num_classes: int) -> Float[Array, "K D"]:
    """The first row of each class as it is, ``(K, D)``; some row where a class has none.

    Example:
      >>> one_of_class(jnp.array([[1.0], [3.0], [5.0]]), jnp.array([1, 0, 1]), 2).tolist()
      [[3.0], [1.0]]
    """
    return values[jnp.argmax(labels == jnp.arange(num_classes, dtype=labels.dtype)[:, None], axis=1)]


def multiplied_rows(values: Float[Array, "K D"], member: Float[Array, "N K"]) -> Float[Array, "N D"]:
    """:func:`of_class` as accelerators do it."""
    return _dot(member, values)


def _dot(ones: Array, values: Array) -> Array:
    # HIGHEST: by default float32 is multiplied in TF32 or bfloat16. What is of such a dtype itself needs one product.
    narrow = values.dtype in (jnp.bfloat16, jnp.float16)
    return jax.lax.dot(
        ones.astype(values.dtype),
        values,
        precision=None if narrow else jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32 if narrow else values.dtype,
    )


def class_counts(labels: Int[Array, " N"], num_classes: int) -> Int[Array, " K"]:
    """N_c, ``(K,)``."""
    return jnp.sum(labels[:, None] == jnp.arange(num_classes, dtype=labels.dtype), axis=0, dtype=labels.dtype)


def class_means(values: Float[Array, "N ..."], labels: Int[Array, " N"], num_classes: int) -> Float[Array, "K ..."]:
    """(1/N_c) Σ_{i in c} of ``values``, ``(K, …)``; NaN for a class with fewer than two images.

    Example:
      >>> class_means(jnp.array([1.0, 3.0, 5.0]), jnp.array([0, 0, 1]), 2).tolist()
      [2.0, nan]
    """
    count = class_counts(labels, num_classes).reshape(-1, *[1] * (values.ndim - 1))
    sums = sum_of_class(values.reshape(len(values), -1), labels, num_classes).reshape(-1, *values.shape[1:])
    return jnp.where(count > 1, sums / jnp.maximum(count, 1).astype(sums.dtype), jnp.nan)


def centred(values: Float[Array, "N D"], labels: Int[Array, " N"], num_classes: int) -> Float[Array, "N D"]:
    """``values`` less their class's mean.

    Example:
      >>> centred(jnp.array([[1.0], [3.0], [5.0]]), jnp.array([0, 0, 1]), 2).tolist()
      [[-1.0], [1.0], [0.0]]
    """
    count = jnp.maximum(class_counts(labels, num_classes), 1).astype(values.dtype)
    return values - of_class(sum_of_class(values, labels, num_classes) / count[:, None], labels)


def deviations(z: Float[Array, "N ..."], labels: Int[Array, " N"], num_classes: int) -> Float[Array, "N D"]:
    """d_i = z_i - μ_c of representations of any shape, ``(N, D)``, at least float32."""
    # Twice: the mean of large z is itself rounded, and what is left of it would meet the common part of all g_i.
    return centred(centred(flat(z), labels, num_classes), labels, num_classes)


def flat(z: Float[Array, "N ..."]) -> Float[Array, "N D"]:
    """Representations of any shape as vectors, at least float32."""
    return at_least_float32(z.reshape(z.shape[0], -1))


def missing_classes(labels: Int[Array | np.ndarray, " N"], num_classes: int) -> str | None:
    """One line on the classes with fewer than two images, with their counts; None if there are none.

    Example:
      >>> missing_classes(np.array([0, 0, 1]), 3)
      'class 1 has 1 image, class 2 has 0 images: a radius needs two, their terms are NaN'
    """
    count = np.bincount(np.asarray(labels), minlength=num_classes)
    few = [f"class {c} has {n} image{'' if n == 1 else 's'}" for c, n in enumerate(count) if n < 2]
    if not few:
        return None
    listed = ", ".join(few[:5]) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
    return f"{listed}: a radius needs two, their terms are NaN"


def warn_of_missing(labels: Int[Array | np.ndarray, " N"], num_classes: int) -> None:
    """Warn once of :func:`missing_classes`, unless the labels are traced and cannot be looked at.

    Raises:
      UserError: labels outside 0 … K - 1.
    """
    check_labels(labels, num_classes)
    if not isinstance(labels, Tracer) and (said := missing_classes(labels, num_classes)):
        warnings.warn(said, stacklevel=3)
