"""Data sets from TensorFlow Datasets, an extra that is imported only where it is used."""

import contextlib
import importlib.util
import io
import math
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from gpz_jax.data.arrays import Source, from_arrays
from gpz_jax.data.on_disk import in_memory, is_too_much, on_disk
from gpz_jax.errors import UserError
from gpz_jax.presentation import why as words_of

#: Our names for the TensorFlow Datasets we read.
TFDS_NAMES = {
    "cifar10": "cifar10",
    "mnist": "mnist",
    "kmnist": "kmnist",
    "emnist_letters": "emnist/letters",
    "celeb_a": "celeb_a",
}
#: Names of classes, where these are not those of the data set: see :func:`_example`.
_NAMES = {"emnist_letters": "abcdefghijklmnopqrstuvwxyz", "celeb_a": ("not male", "male")}
_INSTALL = "pip install 'gpz-jax[tfds]'"


def read_tfds(name: str, folder: pathlib.Path | None, *, auxiliary: bool = False, disk: bool | None = None) -> Source:
    """Read one of ``TFDS_NAMES``, kept under ``<folder>/tfds``; downloaded and prepared there if it is not.

    EMNIST letters are turned upright and labelled 0..25; CelebA is the centre 178x178 at 64x64, labelled by "Male",
    with its people as groups. With ``disk`` the images lie in a file without a name in place of memory; None: where
    they would take more than half of it. What is prepared as ArrayRecord, as we do it, is read without TensorFlow;
    preparing anything and reading what others prepared as TFRecord needs it.

    Raises UserError where the extra is not installed, or cannot provide the data.
    """
    place = "not on this machine" if folder is None else f"not in {folder}"
    try:
        import tensorflow_datasets as tfds  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"data set {name!r} is {place}; to take it from TensorFlow Datasets: {_INSTALL}") from error
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints banners there; its progress is on stderr
            builder = _prepared(tfds, TFDS_NAMES[name], {} if folder is None else {"data_dir": str(folder / "tfds")})
            arrays = {}
            for part in ("train", "test"):
                count = builder.info.splits[part].num_examples
                for what, array in _stack(name, count, _records(tfds, builder, part), disk).items():
                    arrays[f"{part}_{what}"] = array
            names = _class_names(name, builder, int(arrays["train_labels"].max()) + 1)
    except Exception as error:  # no network, no disk, no TensorFlow to prepare it with
        if not _has_tensorflow():
            raise UserError(
                f"data set {name!r} is {place} as an ArrayRecord of TensorFlow Datasets; to prepare it, or to read "
                f"another format, needs TensorFlow: {_INSTALL}"
            ) from error
        why = f"{type(error).__name__}: {words_of(error)}"
        raise UserError(
            f"data set {name!r} is {place} and TensorFlow Datasets cannot provide it ({why}); it needs a network and "
            f"{_INSTALL}"
        ) from error
    return from_arrays(name, **arrays, class_names=names, auxiliary=auxiliary)


def _class_names(name: str, builder: Any, num_classes: int) -> list[str] | None:
    """What the data set calls its classes; None where that is no more than their numbers, or not one a class."""
    features = getattr(builder.info, "features", None) or {}
    known = _NAMES.get(name) or getattr(features.get("label"), "names", None) or ()
    names = [str(one) for one in known]
    return names if len(names) == num_classes and names != list(map(str, range(num_classes))) else None


def _has_tensorflow() -> bool:
    return importlib.util.find_spec("tensorflow") is not None


def _prepared(tfds: Any, name: str, where: dict[str, str]) -> Any:
    """The builder of a data set whose files are there, in whatever format; ArrayRecord if we prepare them."""
    builder = tfds.builder(name, **where)
    if not builder.is_prepared():
        if not _has_tensorflow():
            raise ImportError("TensorFlow, which prepares it, is missing")  # before a long download, not after
        builder = tfds.builder(name, file_format="array_record", **where)
        builder.download_and_prepare()
    return builder


def _records(tfds: Any, builder: Any, part: str) -> Iterable[Any]:
    """Examples of a part, in the order in which they lie in the files."""
    if builder.info.file_format.value == "array_record":
        source = builder.as_data_source(split=part)
        return (source[i] for i in range(len(source)))
    one_by_one = tfds.ReadConfig(interleave_cycle_length=1)  # files in turn: the order of ArrayRecord
    return tfds.as_numpy(builder.as_dataset(split=part, read_config=one_by_one))


def _stack(name: str, count: int, records: Iterable[Any], disk: bool | None) -> dict[str, np.ndarray]:
    """Images (count, H, W, C), labels (count,) and, where people are known, group (count,)."""
    stacked: dict[str, np.ndarray] = {}
    for i, record in enumerate(records):
        for what, value in _example(name, record).items():
            if i == 0 and what == "images":
                shape = (count, *np.shape(value))
                left = is_too_much(math.prod(shape)) if disk is None else disk
                stacked[what] = (on_disk if left else in_memory)(shape)
            elif i == 0:
                stacked[what] = np.empty((count, *np.shape(value)), np.int64)
            stacked[what][i] = value
    return stacked


def _example(name: str, record: Any) -> dict[str, Any]:
    image = record["image"]
    if name == "emnist_letters":  # stored transposed, and labelled 1..26
        return {"images": image.transpose(1, 0, 2), "labels": int(record["label"]) - 1}
    if name == "celeb_a":
        known = {"group": int(record["identity"]["Identity_No"])} if "identity" in record else {}
        return {"images": _face(image), "labels": int(record["attributes"]["Male"]), **known}
    return {"images": image, "labels": int(record["label"])}


def _face(image: np.ndarray) -> np.ndarray:
    """Crop and shrink to the centre 178x178 of a 218x178 CelebA image at 64x64, as is usual for CelebA."""
    from PIL import Image

    top, left = (image.shape[0] - 178) // 2, (image.shape[1] - 178) // 2
    square = Image.fromarray(image[top : top + 178, left : left + 178])
    return np.asarray(square.resize((64, 64), Image.Resampling.BILINEAR))
