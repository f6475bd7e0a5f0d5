"""Where the images of a training lie, as asked for or as there is room."""

import math
from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from gpz_jax import memory
from gpz_jax.data.on_disk import Stamp
from gpz_jax.data.splits import Split
from gpz_jax.training.placements import Asked, Kind, Placement, kind_of, pool
from gpz_jax.workflow.common import say

#: In words.
WORDS: dict[Kind, str] = {
    "device": "all images on every device",
    "sharded": "every device keeps a part of the images",
    "stream": "images stay on disk and are read ahead of the steps",
}


def stays_on_disk(asked: Asked) -> bool | None:
    """Whether the images of a data set are left on disk when it is opened; None: as there is room."""
    return {"stream": True, "device": False}.get(asked)


def place_images(asked: Asked, train: Sequence[Split], files: Sequence[Stamp], mesh: Mesh) -> Placement:
    """Where the training images of some runs are put; said where it is not on every device.

    Raises:
      UserError: they do not fit where they were asked to lie.
    """
    size = len(pool(train)[0]) * math.prod(train[0].images.shape[1:])
    kind = kind_asked(asked, size, train[0], devices=mesh.size, there=memory.of_one(mesh))
    if kind != "device":
        say(WORDS[kind])
    return Placement(kind, tuple(files))


def kind_asked(asked: Asked, size: int, train: Split, *, devices: int, there: int) -> Kind:
    """:func:`~gpz_jax.training.placements.kind_of` so many bytes of images, some of them those of a split."""
    return kind_of(asked, size, on_disk=isinstance(train.images, np.memmap), devices=devices, there=there)
