"""Data sets from TensorFlow Datasets, an extra that is imported only where it is used."""

import pathlib
from typing import Any

import numpy as np

from gpz_jax.data.arrays import Source, from_arrays
from gpz_jax.errors import UserError

#: Our names for the TensorFlow Datasets we read.
TFDS_NAMES = {
    "cifar10": "cifar10",
    "mnist": "mnist",
    "kmnist": "kmnist",
    "emnist_letters": "emnist/letters",
    "celeb_a": "celeb_a",
}


def read_tfds(name: str, folder: pathlib.Path | None) -> Source:
    """Read one of ``TFDS_NAMES``, kept under ``<folder>/tfds``.

    EMNIST letters are turned upright and labelled 0..25; CelebA is the centre 178x178 at 64x64, labelled by "Male".

    Raises UserError where the extra is not installed, or cannot provide the data.
    """
    place = "not on this machine" if folder is None else f"not in {folder}"
    try:
        import tensorflow_datasets as tfds  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f"data set {name!r} is {place}; to take it from TensorFlow Datasets: pip install 'gpz-jax[tfds]'"
        ) from error
    where = {} if folder is None else {"data_dir": str(folder / "tfds")}
    arrays = {}
    for split in ("train", "test"):
        try:
            records = tfds.data_source(TFDS_NAMES[name], split=split, **where)
        except Exception as error:  # no network, no disk, no TensorFlow to prepare it with
            why = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UserError(
                f"data set {name!r} is {place} and TensorFlow Datasets cannot provide it "
                f"({why}); it needs a network and pip install 'gpz-jax[tfds]'"
            ) from error
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = _stack(name, records)
    return from_arrays(name, **arrays)


def _stack(name: str, records: Any) -> tuple[np.ndarray, np.ndarray]:
    first, _ = _example(name, records[0])
    images, labels = np.empty((len(records), *first.shape), np.uint8), np.empty(len(records), np.int32)
    for i in range(len(records)):
        images[i], labels[i] = _example(name, records[i])
    return images, labels


def _example(name: str, record: Any) -> tuple[np.ndarray, int]:
    image = record["image"]
    if name == "emnist_letters":  # stored transposed, and labelled 1..26
        return image.transpose(1, 0, 2), int(record["label"]) - 1
    if name == "celeb_a":
        return _face(image), int(record["attributes"]["Male"])
    return image, int(record["label"])


def _face(image: np.ndarray) -> np.ndarray:
    """Crop and shrink to the centre 178x178 of a 218x178 CelebA image at 64x64, as is usual for CelebA."""
    from PIL import Image

    top, left = (image.shape[0] - 178) // 2, (image.shape[1] - 178) // 2
    square = Image.fromarray(image[top : top + 178, left : left + 178])
    return np.asarray(square.resize((64, 64), Image.Resampling.BILINEAR))
