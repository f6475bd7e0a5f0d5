"""Data sets from files: an ``.npz``, or a folder of images."""

import dataclasses
import pathlib
import zipfile
from typing import Any

import numpy as np

from gpz_jax.data.arrays import Source, as_uint8, from_arrays
from gpz_jax.data.class_names import checked_names, names_beside, names_of_array
from gpz_jax.errors import UserError

# Our key first, then the one the paper's released code writes.
_NPZ_KEYS = {
    "train_images": ("train_images", "train_data"),
    "train_labels": ("train_labels",),
    "test_images": ("test_images", "test_data"),
    "test_labels": ("test_labels",),
    "aux_images": ("aux_images", "auxiliary_data"),
}
_GROUPS = ("group", "patient")  # *_group, or *_patient where the file has none of these
_CLASS_NAMES = "class_names"
_PARTS = ("train", "test", "aux")
_SUFFIXES = (".png", ".jpg", ".jpeg")


def read_npz(path: str | pathlib.Path, *, auxiliary: bool = False) -> Source:
    """Read the data set in one ``.npz``; its name is the file's.

    Keys: train_images, train_labels, test_images, test_labels and optionally aux_images; or, as the paper's
    released code writes them, train_data, test_data and auxiliary_data for the images. train_group, test_group and
    aux_group, or else train_patient and so on, optional, say whose image each is; they are not read with
    ``auxiliary=True``. class_names, optional, are unicode strings (K,); without them, the lines of NAME.classes.txt
    beside the file, or of classes.txt where it is the only .npz there. Further keys are ignored unread. Pickled objects
    are never loaded.

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
            keys = _npz_keys(path, file.files) | ({} if auxiliary else _group_keys(file.files))
            for field, key in keys.items():
                array = _npz_array(path, file, key)
                # Converted as it is read, so that only one array at a time exists in its wider type.
                arrays[field] = as_uint8(array, f"{path}: {key}") if field.endswith("images") else array
                del array
            if not auxiliary and _CLASS_NAMES in file.files:
                found = _npz_array(path, file, _CLASS_NAMES)
                arrays[_CLASS_NAMES] = names_of_array(found, f"{path}: {_CLASS_NAMES}")
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read ({error}); copy or write it again") from error
    if not auxiliary and _CLASS_NAMES not in arrays and (beside := names_beside(path)) is not None:
        listed, names = beside
        source = from_arrays(path.stem, **arrays, where=str(path))
        return dataclasses.replace(source, class_names=checked_names(names, source.num_classes, str(listed)))
    return from_arrays(path.stem, **arrays, where=str(path), auxiliary=auxiliary)


def brings_auxiliary(path: str | pathlib.Path) -> bool:
    """Whether an ``.npz`` holds images for the attacker; False too where there is no such file, or a damaged one.

    >>> brings_auxiliary("nowhere/mnist.npz")
    False
    """
    try:
        with zipfile.ZipFile(path) as file:
            return any(f"{key}.npy" in file.namelist() for key in _NPZ_KEYS["aux_images"])
    except (OSError, zipfile.BadZipFile):
        return False


def read_folder(folder: str | pathlib.Path, *, auxiliary: bool = False) -> Source:
    """Read the images in ``train/<class>/`` and ``test/<class>/`` of a folder; its name is the folder's.

    Classes are numbered in the sorted order of the class folders' names, and called by these. Images (.png, .jpg,
    .jpeg) are grey if every file is (Pillow modes 1, L and 16 bits, of which the upper 8 are kept), else RGB; all must
    have one size. Hidden and other files are ignored.

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
        class_names=list(train),
        where=str(folder),
        auxiliary=auxiliary,
    )


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


def _group_keys(found: list[str]) -> dict[str, str]:
    """Keys of the groups, all under one name: the same number may mean another person under the other."""
    for name in _GROUPS:
        if keys := {f"{part}_group": f"{part}_{name}" for part in _PARTS if f"{part}_{name}" in found}:
            return keys
    return {}


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
