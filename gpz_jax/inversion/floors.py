"""What an attacker without z would answer, and how far off that is: what every attack is held against.

Pixels are in [0, 1] throughout.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float, Integer

from gpz_jax import parallel
from gpz_jax.errors import UserError
from gpz_jax.inversion.metrics import as_pixels, mse
from gpz_jax.taps.batch_axis import batch_size, rows_of


def mean_image(
    images: Any, *, pixels: Callable[[Any], Array] = as_pixels, mesh: Mesh | None = None
) -> Float[Array, "..."]:
    """Mean image: what an attacker who receives nothing would answer. Bytes count as pixels / 255.

    >>> mean_image(jnp.array([0.0, 1.0]).reshape(2, 1, 1, 1)).tolist()
    [[[0.5]]]
    """
    return class_means(images, jnp.zeros(batch_size(images) or 0, jnp.int32), 1, pixels=pixels, mesh=mesh)[0]


def class_means(
    images: Any,
    labels: Integer[Array | np.ndarray, " N"],
    num_classes: int,
    *,
    chunk: int = 1024,
    pixels: Callable[[Any], Array] = as_pixels,
    mesh: Mesh | None = None,
) -> Float[Array, "K ..."]:
    """Mean image of each class: what an attacker who receives only the label would answer.

    Args:
      images: ``(N, …)``, whatever ``pixels`` takes: an array or a pytree of arrays.
      labels: their classes.
      num_classes: K.
      chunk: how many are converted at a time, so that a whole data set never exists as floats.
      pixels: images -> pixels in [0, 1], floats; bytes count as pixels / 255 by default.
      mesh: devices that a chunk is spread over; None: one.

    Returns:
      ``(K, …)``; a class without images is NaN. Not for use inside jit.

    Raises:
      UserError: labels outside 0 … K - 1.

    >>> class_means(jnp.array([0.0, 1.0, 0.25]).reshape(3, 1, 1, 1), jnp.array([0, 0, 1]), 2).ravel().tolist()
    [0.5, 0.25]
    """
    outside = [int(label) for label in np.unique(labels) if not 0 <= label < num_classes]
    if outside:
        raise UserError(f"label {outside[0]} with {num_classes} classes: labels run from 0 to {num_classes - 1}")
    sums: Any = jnp.float32(0)
    for start in range(0, batch_size(images) or 0, chunk):
        some, of = rows_of(images, slice(start, start + chunk)), labels[start : start + chunk]
        if mesh is not None and mesh.size > 1:
            # What fills the rows up is of no class.
            filling = np.full(parallel.rounded_up(len(of), mesh) - len(of), -1, np.asarray(of).dtype)
            some, of = parallel.spread((some, np.append(of, filling)), mesh)
        sums = parallel.in_turn(sums + _class_sums(pixels(some), of, num_classes))
    counts = jnp.asarray(np.bincount(labels, minlength=num_classes), jnp.float32)
    return sums / counts.reshape(-1, *(1,) * (sums.ndim - 1))


@partial(jax.jit, static_argnames="num_classes")
def _class_sums(found: Array, labels: Array, num_classes: int) -> Array:
    one_hot = jax.nn.one_hot(labels, num_classes)
    # HIGHEST: on accelerators the default matmul keeps too few digits for a mean.
    return jnp.einsum("nk,n...->k...", one_hot, found, precision=jax.lax.Precision.HIGHEST)


def mean_image_floor(x: Float[Array, "N H W C"], mean: Float[Array, "H W C"]) -> Float[Array, " N"]:
    """Return the :func:`mse` of each image against ``mean``, see :func:`mean_image`.

    >>> mean_image_floor(jnp.ones((1, 2, 2, 1)), jnp.full((2, 2, 1), 0.5)).tolist()
    [0.25]
    """
    return mse(x, jnp.broadcast_to(mean, x.shape))


def class_mean_floor(
    x: Float[Array, "N H W C"], labels: Integer[Array | np.ndarray, " N"], means: Float[Array, "K H W C"]
) -> Float[Array, " N"]:
    """Return the :func:`mse` of each image against the mean of its class, see :func:`class_means`.

    NaN where the label is outside 0 … K - 1 or its class had no images.

    >>> means = jnp.array([0.0, 0.5]).reshape(2, 1, 1, 1)
    >>> class_mean_floor(jnp.ones((1, 1, 1, 1)), jnp.array([1]), means).tolist()
    [0.25]
    """
    return mse(x, _of_class(means, labels))


class Guesses(NamedTuple):
    """What an attacker without z would answer, of the shape that is rebuilt.

    Attributes:
      mean_image: mean of the known images, ``(…)``.
      class_mean: of each class, ``(K, …)``.
      label_only: mean of the attacker's images that the network takes for each class, ``(K, …)``.
    """

    mean_image: Array
    class_mean: Array
    label_only: Array


def floor_errors(
    x: Float[Array, "N H W C"],
    labels: Integer[Array | np.ndarray, " N"],
    predicted: Integer[Array | np.ndarray, " N"],
    guesses: Guesses,
) -> dict[str, Float[Array, " N"]]:
    """The :func:`mse` of each image against its guesses: of its label, of its prediction, and the one for all.

    >>> guesses = Guesses(jnp.zeros((1, 1, 1)), jnp.array([0.0, 0.5]).reshape(2, 1, 1, 1), jnp.ones((2, 1, 1, 1)))
    >>> errors = floor_errors(jnp.ones((1, 1, 1, 1)), jnp.array([1]), jnp.array([0]), guesses)
    >>> {name: float(error[0]) for name, error in errors.items()}
    {'mean_image': 1.0, 'class_mean': 0.25, 'label_only': 0.0}
    """
    return dict(zip(Guesses._fields, _floor_errors(x, labels, predicted, guesses), strict=True))


@jax.jit
def _floor_errors(x: Array, labels: Array, predicted: Array, guesses: Guesses) -> list[Array]:
    answers = (
        jnp.broadcast_to(guesses.mean_image, x.shape),
        _of_class(guesses.class_mean, labels),
        _of_class(guesses.label_only, predicted),
    )
    return list(jax.vmap(mse, in_axes=(None, 0))(x, jnp.stack(answers)))


def _of_class(means: Array, labels: Any) -> Array:
    """The mean of each label's class; NaN for a label that has none."""
    return means.at[labels].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def ratio_to_floor(mse: Float[Array, " N"], floor: Float[Array, " N"]) -> Float[Array, ""]:
    """mean(mse) / mean(floor): 1 or more means that the attack gained nothing over the floor.

    >>> float(ratio_to_floor(jnp.array([0.1, 0.3]), jnp.array([0.2, 0.6])))
    0.5
    """
    return mse.mean() / floor.mean()
