"""How images reach the network: scaled and normalised on the device, in batches of one shape."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, Int32, PRNGKeyArray, UInt8

from gpz_jax.data.splits import Split
from gpz_jax.errors import UserError

#: Mean and standard deviation per channel, those of the paper's released code (its deviations for colour are the mean
#: over CIFAR-10's images of each image's own, not the 0.2470, 0.2435, 0.2616 over all pixels).
_NORMALISATION = {
    1: ((0.5,), (0.5,)),
    3: ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}


def pixels(images: UInt8[Array | np.ndarray, "N h w C"], size: int) -> Float[Array, "N size size C"]:
    """Make float32 pixels in [0, 1] at ``size`` x ``size``: v / 255, then bilinear (antialiased).

    Raises UserError for a size below 1.

    >>> pixels(np.full((1, 8, 8, 1), 255, np.uint8), 32).shape
    (1, 32, 32, 1)
    """
    if size < 1:
        raise UserError(f"the image size is {size}; it must be at least 1")
    values = jnp.asarray(images).astype(jnp.float32) / jnp.float32(255)
    count, height, width, channels = values.shape
    if (height, width) == (size, size):
        return values
    resized = jax.image.resize(values, (count, size, size, channels), "bilinear")
    return jnp.clip(resized, 0.0, 1.0)  # the interpolation weights sum to 1 only up to rounding


class Pixels(NamedTuple):
    """:func:`pixels` at one size, as a function that jit can hold."""

    size: int

    def __call__(self, images: UInt8[Array | np.ndarray, "N h w C"]) -> Float[Array, "N size size C"]:
        """Resize, and scale to [0, 1]."""
        return pixels(images, self.size)


def normalise(x: Float[Array, "*N H W C"]) -> Float[Array, "*N H W C"]:
    """Return what the classifier takes: (x - mean)/std per channel, of pixels x in [0, 1].

    Colour: mean (0.4914, 0.4822, 0.4465) and std (0.2023, 0.1994, 0.2010); grey: 0.5 and 0.5. As in the paper's
    released code.

    Raises UserError for images that have neither 1 nor 3 channels.

    >>> normalise(jnp.ones((1, 2, 2, 1))).max().item()
    1.0
    """
    mean, std = _moments(x)
    return (x - mean) / std


def denormalise(x: Float[Array, "*N H W C"]) -> Float[Array, "*N H W C"]:
    """Undo :func:`normalise`: x std + mean, pixels in [0, 1] again.

    >>> denormalise(normalise(jnp.full((1, 2, 2, 1), 0.25))).max().item()
    0.25
    """
    mean, std = _moments(x)
    return x * std + mean


@partial(jax.jit, static_argnames="n")
def epoch_order(key: PRNGKeyArray, epoch: int | Int[Array, ""], n: int) -> Int32[Array, "n"]:
    """Return an epoch's order: a permutation of 0..n-1 fixed by the key and the epoch's number alone.

    So a resumed run needs no state but the step. ``n`` is static under jit, ``epoch`` need not be.

    >>> sorted(epoch_order(jax.random.key(0), 3, 4).tolist())
    [0, 1, 2, 3]
    """
    return jax.random.permutation(jax.random.fold_in(key, epoch), jnp.arange(n, dtype=jnp.int32))


def num_batches(n: int, batch_size: int) -> int:
    """Count the batches that :func:`padded_batches` makes of n images: n / batch_size, rounded up.

    Raises UserError for a batch size below 1.

    >>> num_batches(10, 4)
    3
    """
    if batch_size < 1:
        raise UserError(f"the batch size is {batch_size}; it must be at least 1")
    return -(-n // batch_size)


def padded_batches(
    split: Split, batch_size: int, *, multiple: int = 1
) -> Iterator[tuple[UInt8[np.ndarray, "B h w C"], Int32[np.ndarray, "B"], Bool[np.ndarray, "B"]]]:
    """Walk the split in its own order as (images, labels, mask) on the host, every batch of one shape.

    So a jitted function is compiled once. B is ``batch_size``, or the split's length if that is smaller, rounded up to
    a ``multiple`` (the devices that a batch is spread over). The last batch is filled up with the split's first image,
    mask False there. Labels are 0 where the split has none. Only one batch is copied at a time.

    Raises UserError for a batch size below 1 (at the call, not at the first batch).

    >>> split = Split(np.zeros((5, 2, 2, 1), np.uint8), None, np.arange(5, dtype=np.int32))
    >>> [mask.tolist() for images, labels, mask in padded_batches(split, 3)]
    [[True, True, True], [True, True, False]]
    """
    size = -(-min(batch_size, len(split)) // multiple) * multiple
    return _batches(split, size, num_batches(len(split), max(size, batch_size)))


def _batches(split: Split, size: int, count: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    for i in range(count):
        members = split.indices[i * size : (i + 1) * size]
        mask = np.arange(size) < len(members)
        members = np.append(members, np.repeat(split.indices[:1], size - len(members)))
        labels = np.zeros(size, np.int32) if split.labels is None else split.labels[members]
        yield split.images[members], labels, mask


def _moments(x: Float[Array, "*N H W C"]) -> tuple[Float[Array, "C"], Float[Array, "C"]]:
    if x.shape[-1] not in _NORMALISATION:
        raise UserError(f"images have {x.shape[-1]} channels; 1 or 3 can be normalised")
    mean, std = _NORMALISATION[x.shape[-1]]
    return jnp.asarray(mean, x.dtype), jnp.asarray(std, x.dtype)
