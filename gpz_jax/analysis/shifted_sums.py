"""Sums of a batch of representations as seen from a pivot of each class: what ``radius.update`` adds to its record."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Num

from gpz_jax.analysis.class_sums import multiplied_rows, multiplied_sums


def by_gather(z: Array, pivot: Array, labels: Array, member: Array) -> tuple[Array, Array]:
    """Σ (z_i - pivot) of every class, ``(K, D)``, and ||z_i - pivot||² of every image, ``(N,)``.

    ``member``, ``(N, K)``, is 1 where an image is of a class and counts, else 0. For CPUs and many classes.
    """
    shifted = z.astype(jnp.float32) - pivot[labels]
    # Not left to member's zeros: 0 times an infinity or NaN in a masked row would be NaN.
    shifted = jnp.where(jnp.any(member > 0, axis=1, keepdims=True), shifted, 0.0)
    return multiplied_sums(shifted, member), jnp.sum(shifted * shifted, axis=1)


def by_matmul(z: Array, pivot: Array, labels: Array, member: Array) -> tuple[Array, Array]:
    """The same, all fused into products with z: on a TPU nothing of N x D is written in float32.

    Of a narrow dtype z is summed as it is: a float32 sum is finer than the dtype by more than a batch is long.
    """
    counts = jnp.any(member > 0, axis=1)
    z = jnp.where(counts[:, None], z, jnp.zeros((), z.dtype))
    shifted = z.astype(jnp.float32) - multiplied_rows(pivot.astype(z.dtype), member)
    squares = jnp.sum(shifted * shifted, axis=1)
    if z.dtype == jnp.float32:
        return multiplied_sums(shifted, member), squares
    return multiplied_sums(z, member) - jnp.sum(member, axis=0)[:, None] * pivot, squares


def real_numbers(z: Num[Array, "N ..."]) -> Float[Array, "N D"]:
    """Representations as rows of bfloat16 or float16 if they are, else of float32; a complex number counts as two.

    So ||z||² is Σ |z_d|².

    >>> real_numbers(jnp.array([[3 + 4j, 1]])).tolist()
    [[3.0, 1.0, 4.0, 0.0]]
    """
    z = z.reshape(z.shape[0], -1)
    if jnp.iscomplexobj(z):
        z = jnp.concatenate([z.real, z.imag], axis=1)
    return z if z.dtype in (jnp.bfloat16, jnp.float16) else z.astype(jnp.float32)
