"""Random flips and colour jitter, drawn anew for every image."""

from typing import Any, Literal

import dm_pix
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PRNGKeyArray

from gpz_jax.errors import UserError, did_you_mean

Kind = Literal["none", "grey", "colour"]
KINDS = ("auto", "none", "grey", "colour")


def resolve_kind(kind: str, channels: int) -> Kind:
    """Return the augmentation meant by ``kind`` for images with that many channels.

    ``"auto"`` is ``"colour"`` for 3 channels and ``"none"`` for 1: grey sets are mostly written characters,
    whose mirror image is another character or none.

    Raises UserError for an unknown kind, and for ``"colour"`` with grey images.

    >>> resolve_kind("auto", 3), resolve_kind("auto", 1)
    ('colour', 'none')
    """
    if kind not in KINDS:
        raise UserError(f"unknown augmentation {kind!r}{did_you_mean(kind, KINDS)}")
    if kind == "colour" and channels != 3:
        raise UserError(f"augmentation 'colour' needs 3 channels, the images have {channels}; use 'grey' or 'none'")
    if kind == "auto":
        return "colour" if channels == 3 else "none"
    return kind  # pyright: ignore[reportReturnType]


def augment(key: PRNGKeyArray, images: Float[Array, "N H W C"], *, kind: str) -> Float[Array, "N H W C"]:
    """Augment pixels in [0, 1], each image by draws of its own; clipped to [0, 1].

    ``"grey"``: mirrored left to right with probability 1/2; brightness x + U(-0.2, 0.2); contrast
    mean + U(0.8, 1.2) (x - mean), the mean taken per image and channel. ``"colour"``: before those two also
    HSV saturation times U(0.8, 1.2) and hue plus U(-0.2, 0.2) of a full turn. ``"none"``: the images as they
    came; ``"auto"``: see :func:`resolve_kind`. The strengths are the paper's (flips and colour
    jitter 0.2), with brightness added, not multiplied, as in dm_pix.

    Raises UserError for an unknown kind, and for ``"colour"`` with grey images.

    >>> out = augment(jax.random.key(0), jnp.full((2, 4, 4, 3), 0.5), kind="colour")
    >>> out.shape, bool(jnp.allclose(out[0], out[1]))
    ((2, 4, 4, 3), False)
    """
    kind = resolve_kind(kind, images.shape[-1])
    if kind == "none":
        return images
    # dm_pix draws once per call, whatever the batch: one call per image, each with a key of its own.
    keys = jax.random.split(key, images.shape[0])
    with jax.numpy_dtype_promotion("standard"):  # dm_pix's HSV adds a bool to a float
        return jax.vmap(lambda k, image: _augment_one(k, image, colour=kind == "colour"))(keys, images)


def _augment_one(key: PRNGKeyArray, image: Float[Array, "H W C"], *, colour: bool) -> Float[Array, "H W C"]:
    flip, saturation, hue, brightness, contrast = jax.random.split(key, 5)
    x: Any = dm_pix.random_flip_left_right(flip, image)
    if colour:  # first, while values are within [0, 1]: outside, HSV has no meaning
        x = dm_pix.random_saturation(saturation, x, 0.8, 1.2)
        x = dm_pix.random_hue(hue, x, 0.2)
    x = dm_pix.random_brightness(brightness, x, 0.2)
    x = dm_pix.random_contrast(contrast, x, 0.8, 1.2)
    return jnp.clip(x, 0.0, 1.0)
