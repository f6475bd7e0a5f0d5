"""Data sets by name: the bundled digits, an ``.npz``, a folder of images, or TensorFlow Datasets."""

import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from gpz_jax.data.arrays import Source, fingerprint, from_arrays, to_channels
from gpz_jax.data.image_folder import read_folder
from gpz_jax.data.npz_file import read_npz
from gpz_jax.data.tfds import TFDS_NAMES, read_tfds
from gpz_jax.errors import UserError, did_you_mean

__all__ = [
    "TFDS_NAMES",
    "Source",
    "fingerprint",
    "from_arrays",
    "load",
    "read_folder",
    "read_npz",
    "to_channels",
]

_DIGITS_SEED = 0  # fixed: the bundled test part must be the same images in every run and for everyone


def load(
    name: str,
    data_dir: str | pathlib.Path | None = None,
    *,
    auxiliary: bool = False,
    test_fraction: float | None = None,
    disk: bool | None = None,
    tell: Callable[[str], None] | None = None,
) -> Source:
    """Load the data set called ``name``, from the first of these places that has it.

    1. ``"digits"``: scikit-learn's 1,797 real 8x8 grey digits, values 0..16 scaled to round(255 v / 16),
       split 80/20 per class into train and test, the same way for everyone; always there;
    2. ``<data_dir>/<name>.npz``, see :func:`read_npz`;
    3. the folder ``<data_dir>/<name>``, see :func:`read_folder`;
    4. TensorFlow Datasets, for the names in ``TFDS_NAMES``, kept under ``<data_dir>/tfds``, see
       :func:`read_tfds`.

    A name is never a path. With ``auxiliary=True`` the data set will serve only as an attacker's images, so
    its labels need not form classes that can be learned (few or no images of some people, say).
    ``test_fraction`` of every class is held out of a folder without ``test/``. With ``disk`` images are not read into
    memory; None: where they would take more than half of it. What ``Source.notes`` say goes to
    ``tell``, or, without it, to stderr: what was made of someone's images is not to be overlooked.

    Raises UserError for an unknown or path-like name, and for data that break a rule of :func:`from_arrays`.

    >>> digits = load("digits")
    >>> digits.train_images.shape, digits.test_images.shape, digits.num_classes
    ((1438, 8, 8, 1), (359, 8, 8, 1), 10)
    """
    if not name or "/" in name or "\\" in name or ".." in name or name.startswith(".") or not name.isprintable():
        path = pathlib.PurePath(name.replace("\\", "/"))
        plain = path.name and ".." not in name and not path.name.startswith(".") and name.isprintable()
        raise UserError(
            f"{name!r} is not a data set name: pass the folder as the data directory and a plain name"
            + (f", here {path.parent} and {path.name}" if plain else "")
        )
    source = _found(name, data_dir, auxiliary=auxiliary, test_fraction=test_fraction, disk=disk)
    for note in source.notes:
        (tell or _on_stderr)(note)
    return source


def _found(
    name: str,
    data_dir: str | pathlib.Path | None,
    *,
    auxiliary: bool,
    test_fraction: float | None,
    disk: bool | None,
) -> Source:
    folder = None if data_dir is None or name == "digits" else pathlib.Path(data_dir).expanduser()
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UserError(f"the data directory {folder} is a file; pass the directory that holds {name}.npz")
    file = None if folder is None else folder / f"{name}.npz"
    if file is not None and file.exists() and not (file.is_file() or file.is_dir()):
        raise UserError(f"{file} is a pipe, a socket or a device and no file; remove it")
    in_file = file is not None and file.is_file()
    if folder is not None and not in_file and (folder / name).is_dir():
        return read_folder(folder / name, auxiliary=auxiliary, test_fraction=test_fraction, disk=disk)
    if not in_file and name != "digits" and name not in TFDS_NAMES:
        raise _unknown(name, folder)
    if test_fraction is not None:
        raise UserError(
            f"data set {name!r} brings a test part of its own; leave test_fraction, which is for folders of images "
            "without one, out",
            field="test_fraction",
        )
    if name == "digits":
        return _digits()
    if file is not None and in_file:
        return read_npz(file, auxiliary=auxiliary, disk=disk)
    return read_tfds(name, folder, auxiliary=auxiliary, disk=disk)


def _unknown(name: str, folder: pathlib.Path | None) -> UserError:
    hint = did_you_mean(name, _known_names(folder))
    if folder is None:
        return UserError(f"no data set {name!r}: no data directory was given to look for {name}.npz in{hint}")
    if not folder.exists():
        return UserError(f"no data set {name!r}: the data directory {folder} does not exist{hint}")
    return UserError(f"no data set {name!r}: looked for {folder / name}.npz and the folder {folder / name}{hint}")


def _on_stderr(note: str) -> None:
    print(f"gpz: {note}", file=sys.stderr, flush=True)


def _digits() -> Source:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = np.rint(bunch.images * 255 / 16).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int32)
    rng = np.random.default_rng(_DIGITS_SEED)
    test = []
    for c in range(10):
        members = rng.permutation(np.flatnonzero(labels == c))
        test.append(members[: round(0.2 * len(members))])
    is_test = np.isin(np.arange(len(labels)), np.concatenate(test))
    return from_arrays(
        "digits",
        train_images=images[~is_test],
        train_labels=labels[~is_test],
        test_images=images[is_test],
        test_labels=labels[is_test],
    )


def _known_names(folder: pathlib.Path | None) -> list[str]:
    here = []
    if folder is not None and folder.is_dir():
        here = [p.stem for p in folder.glob("*.npz") if not p.name.startswith(".")]
        here += [p.parent.name for p in folder.glob("*/train") if not p.parent.name.startswith(".")]
    return ["digits", *sorted(set(here)), *(n for n in TFDS_NAMES if n not in here)]
