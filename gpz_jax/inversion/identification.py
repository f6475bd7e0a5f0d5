"""Identification: does a reconstruction name its image among all others? It can, where its mse is poor.

Of M test images, the share whose reconstruction is nearer, by mse in pixels, to its own original than to every other.
An attacker who knows no more than the label does better than 1/M by itself; both chances stand beside the share.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Integer

from gpz_jax import parallel
from gpz_jax.errors import UserError

#: Test images that are held against each other, at most.
MOST = 1000

#: How many of the nearest originals count in ``top5``.
FIVE = 5

NAN = math.nan


class Identification(NamedTuple):
    """How often reconstructions name their images; shares in [0, 1], NaN where nothing was measured.

    Attributes:
      images: M, how many were held against each other.
      top1: share whose own original is the nearest.
      top5: share whose own original is among the five nearest.
      within: share whose own original is the nearest of its class, which takes the label out.
      top1_interval: 95 %, Wilson.
      within_interval: likewise.
      chance: of ``top1`` for an attacker who knows nothing, 1/M.
      chance_label: of ``top1`` for one who answers with the label-only guess.
      chance_within: of ``within`` for one who knows the class alone, the mean of 1/(images of the class).
    """

    images: int = 0
    top1: float = NAN
    top5: float = NAN
    within: float = NAN
    top1_interval: tuple[float, float] = (NAN, NAN)
    within_interval: tuple[float, float] = (NAN, NAN)
    chance: float = NAN
    chance_label: float = NAN
    chance_within: float = NAN


def chosen_images(count: int, seed: int) -> Int[np.ndarray, " M"]:
    """Places of the images that are held against each other: all, or 1,000 drawn by the seed; in order.

    >>> chosen_images(3, 0).tolist(), len(chosen_images(5000, 0))
    ([0, 1, 2], 1000)
    """
    if count <= MOST:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, MOST, replace=False))


class Ranked(NamedTuple):
    """The share of each image's own original in the nearest ones, ``(M,)`` each; a tie of n is worth 1/n."""

    top1: Float[np.ndarray, " M"]
    top5: Float[np.ndarray, " M"]
    within: Float[np.ndarray, " M"]


def ranked(
    x: Float[Array | np.ndarray, "M ..."],
    x_hat: Float[Array | np.ndarray, "M ..."],
    labels: Integer[Array | np.ndarray, " M"],
) -> Ranked:
    """Hold every reconstruction against every original.

    With c originals nearer than its own and n as near (its own among them), an image is among the k nearest with
    probability min(max((k - c)/n, 0), 1) if ties are broken by chance. Memory is M x P for images of P pixels: one
    reconstruction is held against all originals at a time.

    Args:
      x: originals.
      x_hat: reconstructions, in the same order.
      labels: classes.

    Raises:
      UserError: shapes that differ; no image.

    Example:
      >>> x = np.eye(3)
      >>> ranked(x, x, np.array([0, 0, 1])).top1.tolist()
      [1.0, 1.0, 1.0]
      >>> ranked(x, np.zeros((3, 3)), np.array([0, 0, 1])).within.tolist()  # as near to all
      [0.5, 0.5, 1.0]
    """
    if x.shape != x_hat.shape or not len(x):
        raise UserError(f"images {x.shape} against reconstructions {x_hat.shape}: give two equal shapes (M, …), M >= 1")
    flat = (jnp.asarray(array, jnp.float32).reshape(len(x), -1) for array in (x, x_hat))
    found = np.asarray(parallel.fetch(_ranked(*flat, jnp.asarray(labels))), np.float64)
    return Ranked(*found)


@jax.jit
def _ranked(x: Array, x_hat: Array, labels: Array) -> Array:
    def of_one(at):
        # Differences, not products: images that are equal must be as near as each other to the last bit.
        distance = jnp.sum((x - x_hat[at]) ** 2, axis=1)
        nearer, tied = distance < distance[at], distance == distance[at]
        same = labels == labels[at]

        def share(most, among):
            count, ties = jnp.sum(nearer & among), jnp.sum(tied & among)
            return jnp.clip((most - count) / jnp.maximum(ties, 1), 0.0, 1.0)

        everyone = jnp.ones_like(same)
        # A reconstruction that is not a number is near to nothing.
        return jnp.where(jnp.any(tied), jnp.stack([share(1, everyone), share(FIVE, everyone), share(1, same)]), 0.0)

    return jax.lax.map(of_one, jnp.arange(len(x))).T


def identify(
    x: Float[Array | np.ndarray, "M ..."],
    x_hat: Float[Array | np.ndarray, "M ..."],
    labels: Integer[Array | np.ndarray, " M"],
    label_only: Float[Array | np.ndarray, "M ..."],
) -> tuple[Identification, Ranked]:
    """Shares, intervals and chances of reconstructions, and each image's own part in them.

    Args:
      x: originals.
      x_hat: reconstructions.
      labels: classes.
      label_only: what an attacker answers to each image's predicted label alone.

    Example:
      >>> x = np.eye(4)
      >>> found, _ = identify(x, x, np.array([0, 0, 1, 1]), np.full((4, 4), 0.25))
      >>> found.top1, found.chance, found.chance_label, found.chance_within
      (1.0, 0.25, 0.25, 0.5)
    """
    own = ranked(x, x_hat, labels)
    guessed = ranked(x, label_only, labels)
    counts = np.bincount(np.unique(labels, return_inverse=True)[1])
    top1, within = float(own.top1.mean()), float(own.within.mean())
    return (
        Identification(
            len(x),
            top1,
            float(own.top5.mean()),
            within,
            wilson_interval(top1, len(x)),
            wilson_interval(within, len(x)),
            1 / len(x),
            float(guessed.top1.mean()),
            len(counts) / len(x),  # the mean over images of 1/N_c
        ),
        own,
    )


def wilson_interval(share: float, count: int, *, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share of ``count`` trials (Wilson 1927); within [0, 1] also where the share is 0 or 1.

      (p + z²/2n ± z sqrt(p (1 - p)/n + z²/4n²)) / (1 + z²/n)

    >>> [round(end, 4) for end in wilson_interval(0.0, 100)]
    [0.0, 0.037]
    """
    if count < 1 or math.isnan(share):
        return NAN, NAN
    centre = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max((centre - half) / scale, 0.0), min((centre + half) / scale, 1.0)


def written(found: Identification) -> dict[str, Any]:
    """As a record holds it."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found._asdict().items()}


def read(record: dict[str, Any]) -> Identification:
    """What :func:`written` made, of an older record nothing.

    >>> read(written(Identification(3, 0.5))).top1, read({}).images
    (0.5, 0)
    """

    def value(name: str) -> Any:
        found = record[name]
        if name == "images":
            return int(found)
        return (float(found[0]), float(found[1])) if name.endswith("_interval") else float(found)

    return Identification(**{name: value(name) for name in Identification._fields if name in record})
