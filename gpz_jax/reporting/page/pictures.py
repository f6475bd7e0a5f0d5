"""Images as PNG in data URIs, as many as a page can carry."""

import base64
import io
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

#: Pixels of the longer side of an embedded image, at most.
SIDE = 64

#: Bytes of what stands around an image in a page: its words and its numbers.
AROUND = 300


class Allowance(NamedTuple):
    """How much is shown at each cut: images a row, attacks, images at either end of the leak list."""

    images: int
    attacks: int
    leaking: int


#: From the most to nothing; the first that fits a page is taken.
ALLOWANCES = (
    Allowance(10, 9, 5), Allowance(10, 4, 5), Allowance(8, 3, 3), Allowance(6, 2, 2), Allowance(4, 2, 0),
    Allowance(3, 1, 0), Allowance(1, 1, 0), Allowance(0, 0, 0),
)  # fmt: skip


def data_uri(image: np.ndarray) -> str:
    """An image as a PNG in a data URI, shrunk to :data:`SIDE` pixels if it is larger.

    Args:
      image: ``(H, W)`` or ``(H, W, C)``, in [0, 1], what lies beyond is cut off; channels are averaged unless three.

    >>> data_uri(np.zeros((2, 2, 1)))[:22]
    'data:image/png;base64,'
    """
    from PIL import Image

    pixels = np.asarray(image, np.float32)
    if pixels.ndim == 3 and pixels.shape[-1] != 3:
        pixels = pixels.mean(axis=-1)
    drawn = Image.fromarray(np.rint(255 * np.clip(np.nan_to_num(pixels), 0, 1)).astype(np.uint8))
    if max(drawn.size) > SIDE:
        drawn.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    drawn.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def is_image(array: np.ndarray) -> bool:
    """Whether the arrays of a batch ``(n, …)`` can be shown as images."""
    return array.ndim in (3, 4) and min(array.shape[1:3]) > 1


def fitting(weigh: Callable[[Allowance], Iterable[str]], most: int) -> Allowance:
    """The first of :data:`ALLOWANCES` whose images, with what stands around them, weigh no more than ``most`` bytes.

    Args:
      weigh: the data URIs of all images that an allowance asks for.
      most: bytes.
    """
    for allowance in ALLOWANCES:
        total = 0
        for uri in weigh(allowance):
            total += len(uri) + AROUND
            if total > most:
                break
        else:
            return allowance
    return ALLOWANCES[-1]
