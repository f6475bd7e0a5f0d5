"""Data sets by name: the bundled digits, an ``.npz``, a folder of images, or TensorFlow Datasets.

Whatever the origin, a :class:`Source` is host numpy: uint8 images (N, H, W, C) and int32 labels (N,), checked
once here so that nothing downstream has to. Data sets of this field fit in memory (CIFAR-10 takes 184 MB),
but not many times over: uint8 arrays pass through uncopied, everything else is converted chunk by chunk.
"""

import hashlib
import pathlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from gpz_jax.errors import UserError, did_you_mean

#: Our names for the TensorFlow Datasets we read.
TFDS_NAMES = {
    "cifar10": "cifar10",
    "mnist": "mnist",
    "kmnist": "kmnist",
    "emnist_letters": "emnist/letters",
    "celeb_a": "celeb_a",
}

# Our key first, then the one the paper's released code writes.
_NPZ_KEYS = {
    "train_images": ("train_images", "train_data"),
    "train_labels": ("train_labels",),
    "test_images": ("test_images", "test_data"),
    "test_labels": ("test_labels",),
    "aux_images": ("aux_images", "auxiliary_data"),
}
_SUFFIXES = (".png", ".jpg", ".jpeg")
_DIGITS_SEED = 0  # fixed: the bundled test part must be the same images in every run and for everyone


@dataclass(frozen=True, eq=False)
class Source:
    """A checked data set on the host. Images have values 0..255; labels 0..K-1, each with a train image.

    ``aux_images`` are extra unlabelled images for the attacker; they may differ from the others in height and
    width, never in channels.
    """

    name: str
    train_images: UInt8[np.ndarray, "train H W C"]
    train_labels: Int32[np.ndarray, "train"]
    test_images: UInt8[np.ndarray, "test H W C"]
    test_labels: Int32[np.ndarray, "test"]
    aux_images: UInt8[np.ndarray, "aux aux_H aux_W C"] | None
    num_classes: int


def load(name: str, data_dir: str | pathlib.Path | None = None, *, auxiliary: bool = False) -> Source:
    """Load the data set called ``name``, from the first of these places that has it.

    1. ``"digits"``: scikit-learn's 1,797 real 8x8 grey digits, values 0..16 scaled to round(255 v / 16),
       split 80/20 per class into train and test, the same way for everyone; always there;
    2. ``<data_dir>/<name>.npz``, see :func:`read_npz`;
    3. the folder ``<data_dir>/<name>``, see :func:`read_folder`;
    4. TensorFlow Datasets, for the names in ``TFDS_NAMES``, kept under ``<data_dir>/tfds``. EMNIST letters
       are turned upright and labelled 0..25; CelebA is the centre 178x178 at 64x64, labelled by "Male".

    A name is never a path. With ``auxiliary=True`` the data set will serve only as an attacker's images, so
    its labels need not form classes that can be learned (few or no images of some people, say).

    Raises UserError for an unknown or path-like name, and for data that break a rule of :func:`from_arrays`.

    >>> digits = load("digits")
    >>> digits.train_images.shape, digits.test_images.shape, digits.num_classes
    ((1438, 8, 8, 1), (359, 8, 8, 1), 10)
    """
    if not name or "/" in name or "\\" in name or ".." in name or name.startswith(".") or not name.isprintable():
        raise UserError(f"{name!r} is not a data set name: pass the folder as the data directory and a plain name")
    if name == "digits":
        return _digits()
    folder = None if data_dir is None else pathlib.Path(data_dir).expanduser()
    if folder is not None:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"the data directory {folder} is a file; pass the directory that holds {name}.npz")
        if (folder / f"{name}.npz").is_file():
            return read_npz(folder / f"{name}.npz", auxiliary=auxiliary)
        if (folder / name).is_dir():
            return read_folder(folder / name, auxiliary=auxiliary)
    if name in TFDS_NAMES:
        return _from_tfds(name, folder)
    hint = did_you_mean(name, _known_names(folder))
    if folder is None:
        raise UserError(f"no data set {name!r}: no data directory was given to look for {name}.npz in{hint}")
    if not folder.exists():
        raise UserError(f"no data set {name!r}: the data directory {folder} does not exist{hint}")
    raise UserError(f"no data set {name!r}: looked for {folder / name}.npz and the folder {folder / name}{hint}")


def from_arrays(
    name: str,
    *,
    train_images: np.ndarray,
    train_labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    aux_images: np.ndarray | None = None,
    where: str | None = None,
    auxiliary: bool = False,
) -> Source:
    """Check arrays and make a :class:`Source` of them.

    Images are (N, H, W, C) with C = 1 or 3: uint8, which pass through uncopied; other integers within 0..255;
    or floats within [0, 1], which become round(255 v). Train and test share H, W and C; aux shares C. Labels
    are integers (N,): 0..K-1, K >= 2, each of them with a train image. With ``auxiliary=True`` this rule on
    classes is left out, since only the images will be used. Errors name the origin by ``where``.

    Raises UserError: one line naming the array, what is wrong with it and what to do.

    >>> half, labels = np.full((4, 2, 2, 1), 0.5), np.array([0, 1, 0, 1])
    >>> train = {"train_images": half, "train_labels": labels}
    >>> tiny = from_arrays("tiny", **train, test_images=half, test_labels=labels)
    >>> tiny.train_images.dtype, int(tiny.train_images.max()), tiny.num_classes
    (dtype('uint8'), 128, 2)
    """
    where = f"data set {name!r}" if where is None else where
    train_images = _as_uint8(train_images, f"{where}: train_images")
    test_images = _as_uint8(test_images, f"{where}: test_images")
    if train_images.shape[1:] != test_images.shape[1:]:
        raise UserError(
            f"{where}: train_images are {_size(train_images)} but test_images are {_size(test_images)}; "
            "bring them to one size"
        )
    if aux_images is not None:
        aux_images = _as_uint8(aux_images, f"{where}: aux_images")
        if aux_images.shape[-1] != train_images.shape[-1]:
            raise UserError(
                f"{where}: train_images have {train_images.shape[-1]} channels but aux_images have "
                f"{aux_images.shape[-1]}; bring them to the same number"
            )
    train_labels = _as_labels(train_labels, len(train_images), f"{where}: train_labels")
    test_labels = _as_labels(test_labels, len(test_images), f"{where}: test_labels")
    num_classes = int(train_labels.max()) + 1
    if auxiliary:
        num_classes = max(num_classes, int(test_labels.max()) + 1)
    else:
        _check_classes(train_labels, test_labels, where)
    return Source(
        name=name,
        train_images=train_images,
        train_labels=train_labels.astype(np.int32, copy=False),
        test_images=test_images,
        test_labels=test_labels.astype(np.int32, copy=False),
        aux_images=aux_images,
        num_classes=num_classes,
    )


def read_npz(path: str | pathlib.Path, *, auxiliary: bool = False) -> Source:
    """Read the data set in one ``.npz``; its name is the file's.

    Keys: train_images, train_labels, test_images, test_labels and optionally aux_images; or, as the paper's
    released code writes them, train_data, test_data and auxiliary_data for the images. Further keys are
    ignored unread. Pickled objects are never loaded.

    Raises UserError for no such file, one that is not an .npz or is damaged, pickled objects, missing keys,
    and arrays that :func:`from_arrays` refuses.

    >>> read_npz("nowhere/mnist.npz")
    Traceback (most recent call last):
    ...
    gpz_jax.errors.UserError: no file nowhere/mnist.npz
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"no file {path}")
    _check_zip(path)
    arrays = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            keys = _npz_keys(path, file.files)
            for field, key in keys.items():
                array = _npz_array(path, file, key)
                # Converted as it is read, so that only one array at a time exists in its wider type.
                arrays[field] = _as_uint8(array, f"{path}: {key}") if field.endswith("images") else array
                del array
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read ({error}); copy or write it again") from error
    return from_arrays(path.stem, **arrays, where=str(path), auxiliary=auxiliary)


def read_folder(folder: str | pathlib.Path, *, auxiliary: bool = False) -> Source:
    """Read the images in ``train/<class>/`` and ``test/<class>/`` of a folder; its name is the folder's.

    Classes are numbered in the sorted order of the class folders' names. Images (.png, .jpg, .jpeg) are grey
    if every file is (Pillow modes 1, L and 16 bits, of which the upper 8 are kept), else RGB; all must have
    one size. Hidden and other files are ignored.

    Raises UserError for a missing or empty folder, classes that differ between train and test, an unreadable
    image, and the first one of another size.

    >>> read_folder("nowhere/faces")
    Traceback (most recent call last):
    ...
    gpz_jax.errors.UserError: nowhere/faces has no 'train' folder; put the images of each class in ...
    """
    folder = pathlib.Path(folder)
    train, test = _list_images(folder, "train"), _list_images(folder, "test")
    if list(train) != list(test):
        odd = sorted(set(train) ^ set(test))[0]
        has, lacks = ("train", "test") if odd in train else ("test", "train")
        raise UserError(f"{folder}: class {odd!r} is in {has} but not in {lacks}; both must list the same classes")
    train_paths, train_labels = _flatten(train)
    test_paths, test_labels = _flatten(test)
    size, grey = _survey(train_paths + test_paths)
    return from_arrays(
        folder.name,
        train_images=_decode_all(train_paths, size, grey),
        train_labels=train_labels,
        test_images=_decode_all(test_paths, size, grey),
        test_labels=test_labels,
        where=str(folder),
        auxiliary=auxiliary,
    )


def fingerprint(source: Source) -> str:
    """Return the SHA-256 (hex) over the shapes and bytes of all arrays: equal exactly when the data are.

    The name does not enter, nor does the memory layout; nothing larger than a chunk is copied.

    >>> fingerprint(load("digits")) == fingerprint(load("digits"))
    True
    """
    digest = hashlib.sha256()
    for field in ("train_images", "train_labels", "test_images", "test_labels", "aux_images"):
        array = getattr(source, field)
        digest.update(f"{field} {None if array is None else array.shape}\n".encode())
        if array is not None:
            for rows in _chunks(array):
                digest.update(np.ascontiguousarray(array[rows]).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def to_channels(images: UInt8[np.ndarray, "N H W C"], channels: int) -> UInt8[np.ndarray, "N H W c"]:
    """Convert between grey (1) and RGB (3): grey is repeated, RGB becomes Y = 0.299 R + 0.587 G + 0.114 B.

    Y is rounded half up; its weights are those of ITU-R BT.601. Images that have that many channels already
    are returned uncopied.

    Raises UserError for a number of channels other than 1 or 3.

    >>> to_channels(np.full((1, 1, 1, 3), (255, 0, 0), np.uint8), 1).item()
    76
    """
    if channels not in (1, 3) or images.shape[-1] not in (1, 3):
        raise UserError(f"cannot turn {images.shape[-1]} channels into {channels}; images have 1 or 3")
    if images.shape[-1] == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=-1)
    grey = np.empty((*images.shape[:-1], 1), np.uint8)
    weights = np.array([299, 587, 114], np.uint32)
    for rows in _chunks(images):
        grey[rows, ..., 0] = (images[rows] @ weights + np.uint32(500)) // np.uint32(1000)
    return grey


# Checks of arrays.


def _as_uint8(images: np.ndarray, what: str) -> np.ndarray:
    if images.ndim != 4:
        hint = "; add the channel axis with images[..., None]" if images.ndim == 3 else ""
        raise UserError(f"{what} must have the shape (N, H, W, C), found {images.shape}{hint}")
    if 0 in images.shape:
        raise UserError(f"{what} is empty, its shape is {images.shape}; at least one image is needed")
    if images.shape[-1] not in (1, 3):
        hint = "; move the channels last with images.transpose(0, 2, 3, 1)" if images.shape[1] in (1, 3) else ""
        raise UserError(f"{what} must have 1 or 3 channels, found {images.shape[-1]} in {images.shape}{hint}")
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind not in "iuf":
        raise UserError(f"{what} has dtype {images.dtype}; store it as uint8 in 0..255 or float in [0, 1]")
    low, high = images.min(), images.max()
    if images.dtype.kind == "f":
        if not (np.isfinite(low) and np.isfinite(high)):
            raise UserError(f"{what} holds NaN or infinite values; store finite floats in [0, 1] or uint8")
        if low < 0 or high > 1:
            raise UserError(
                f"{what} is float but spans {low:g}..{high:g}; floats must lie in [0, 1]: divide by the "
                "largest possible value, or store uint8"
            )
    elif low < 0 or high > 255:
        raise UserError(f"{what} is {images.dtype} and spans {low}..{high}; bring it to 0..255 and store it as uint8")
    result = np.empty(images.shape, np.uint8)
    for rows in _chunks(images):
        result[rows] = np.rint(np.float32(255) * images[rows]) if images.dtype.kind == "f" else images[rows]
    return result


def _as_labels(labels: np.ndarray, count: int, what: str) -> np.ndarray:
    if labels.ndim != 1:
        raise UserError(f"{what} must have the shape (N,), found {labels.shape}; give one class number per image")
    if labels.dtype.kind not in "iu":
        raise UserError(f"{what} must be integers, found {labels.dtype}; number the classes from 0")
    if len(labels) != count:
        raise UserError(f"{what} has {len(labels)} labels for {count} images; give one per image")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > np.iinfo(np.int32).max:
        raise UserError(f"{what} holds the label {low if low < 0 else high}; number the classes from 0")
    return labels


def _check_classes(train: np.ndarray, test: np.ndarray, where: str) -> None:
    num_classes = int(train.max()) + 1
    if train.min() == train.max():
        raise UserError(f"{where}: train_labels holds a single class, {num_classes - 1}; at least two are needed")
    # Before the count: one stray label of 10^9 would otherwise ask for 8 GB of counters.
    if num_classes > len(train):
        raise UserError(
            f"{where}: train_labels holds the label {num_classes - 1} but there are only {len(train)} train "
            "images; number the classes 0, 1, 2, …"
        )
    if test.max() >= num_classes:
        raise UserError(
            f"{where}: test_labels holds the label {test.max()}, but train_labels has only the classes "
            f"0..{num_classes - 1}; use the same numbers in both"
        )
    missing = np.flatnonzero(np.bincount(train.astype(np.int32, copy=False), minlength=num_classes) == 0)
    if missing.size:
        raise UserError(f"{where}: class {missing[0]} has no train image; number the classes 0, 1, 2, … without gaps")


def _chunks(array: np.ndarray) -> Iterator[slice]:
    """Slices of the first axis of about a million elements each."""
    rows = max(1, 2**20 // max(1, array[0].size))
    for start in range(0, len(array), rows):
        yield slice(start, start + rows)


def _size(images: np.ndarray) -> str:
    return "x".join(map(str, images.shape[1:]))


# The bundled digits.


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


# .npz files.


def _check_zip(path: pathlib.Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(6)
        if start.startswith(b"PK") and zipfile.is_zipfile(path):
            return
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if start == b"\x93NUMPY":
        raise UserError(f"{path} is a single .npy array; write named arrays with numpy.savez")
    if start.startswith(b"PK"):
        raise UserError(f"{path} is truncated; copy or write it again")
    raise UserError(f"{path} is not an .npz file; write it with numpy.savez")


def _npz_keys(path: pathlib.Path, found: list[str]) -> dict[str, str]:
    keys = {field: next((k for k in names if k in found), None) for field, names in _NPZ_KEYS.items()}
    missing = [" or ".join(_NPZ_KEYS[f]) for f, key in keys.items() if key is None and f != "aux_images"]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; it holds {', '.join(found) or 'nothing'}")
    return {field: key for field, key in keys.items() if key is not None}


def _npz_array(path: pathlib.Path, file: Any, key: str) -> np.ndarray:
    try:
        array = file[key]
    except Exception as error:  # whatever zip, zlib, lzma or numpy raise, this file is at fault
        if "allow_pickle" in str(error):
            raise UserError(
                f"{path}: {key} holds pickled Python objects, which are never loaded; store a numeric array"
            ) from error
        raise UserError(f"{path}: {key} is damaged ({error}); copy or write the file again") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: {key} is not a numpy array; write the file with numpy.savez")
    return array


# Folders of images.


def _list_images(folder: pathlib.Path, split: str) -> dict[str, list[pathlib.Path]]:
    if not (folder / split).is_dir():
        raise UserError(f"{folder} has no {split!r} folder; put the images of each class in {folder / split}/<class>/")
    classes = sorted(p for p in (folder / split).iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise UserError(f"{folder / split} has no class folders; put the images of each class in a folder of its own")
    lists = {}
    for directory in classes:
        files = [p for p in directory.iterdir() if p.suffix.lower() in _SUFFIXES and not p.name.startswith(".")]
        if not files:
            raise UserError(f"{directory} holds no .png, .jpg or .jpeg; add images of the class or remove the folder")
        lists[directory.name] = sorted(files)
    return lists


def _flatten(lists: dict[str, list[pathlib.Path]]) -> tuple[list[pathlib.Path], np.ndarray]:
    paths = [path for files in lists.values() for path in files]
    counts = [len(files) for files in lists.values()]
    return paths, np.repeat(np.arange(len(lists), dtype=np.int32), counts)


def _survey(paths: list[pathlib.Path]) -> tuple[tuple[int, int], bool]:
    """Return the one (width, height) of all images, and whether all are grey; reads headers only."""
    size, grey = None, True
    for path in paths:
        with _open_image(path) as image:
            size = image.size if size is None else size
            if image.size != size:
                raise UserError(
                    f"{path} is {image.size[0]}x{image.size[1]} pixels, {paths[0]} {size[0]}x{size[1]}; "
                    "resize the images to one size"
                )
            grey = grey and _is_grey(image.mode)
    assert size is not None  # every class folder holds an image
    return size, grey


def _decode_all(paths: list[pathlib.Path], size: tuple[int, int], grey: bool) -> np.ndarray:
    images = np.empty((len(paths), size[1], size[0], 1 if grey else 3), np.uint8)
    for i, path in enumerate(paths):
        with _open_image(path) as image:
            try:
                images[i] = _pixels_of(image, grey)
            except Exception as error:  # whatever a decoder raises, this file is at fault
                raise UserError(f"{path} cannot be decoded ({error}); replace or remove it") from error
    return images


def _open_image(path: pathlib.Path) -> Any:
    from PIL import Image

    try:
        return Image.open(path)
    except Exception as error:
        raise UserError(f"{path} is not a readable image; replace or remove it") from error


def _is_grey(mode: str) -> bool:
    return mode in ("1", "L") or mode.startswith("I")


def _pixels_of(image: Any, grey: bool) -> np.ndarray:
    from PIL import Image

    if image.mode.startswith("I"):  # Pillow's own conversion would clip at 255 instead of scaling
        image = Image.fromarray((np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8))
    elif image.mode == "P":  # a palette with transparency converts cleanly only this way
        image = image.convert("RGBA")
    pixels = np.asarray(image.convert("L" if grey else "RGB"))
    return pixels[..., None] if grey else pixels


# TensorFlow Datasets.


def _from_tfds(name: str, folder: pathlib.Path | None) -> Source:
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


def _known_names(folder: pathlib.Path | None) -> list[str]:
    here = []
    if folder is not None and folder.is_dir():
        here = [p.stem for p in folder.glob("*.npz") if not p.name.startswith(".")]
        here += [p.parent.name for p in folder.glob("*/train") if not p.parent.name.startswith(".")]
    return ["digits", *sorted(set(here)), *(n for n in TFDS_NAMES if n not in here)]
