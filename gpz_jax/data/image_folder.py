"""Data sets from folders of images: train/CLASS/ and test/CLASS/, or classes of which a part is held out as test."""

import collections
import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from jaxtyping import Int32, UInt8

from gpz_jax.data.arrays import Source, from_arrays
from gpz_jax.data.folder_listing import Listing, list_classes, list_folder
from gpz_jax.data.image_file import BACKGROUND, Header, depth_of, largest_value, read_header, read_picture
from gpz_jax.data.on_disk import in_memory, is_too_much, on_disk
from gpz_jax.data.unpacked_size import check_unpacked, gigabytes
from gpz_jax.errors import UserError

T = TypeVar("T")

_READERS = 8  # threads

_SPLIT_SEED = 0  # fixed, as that of the digits: the test part must be the same images in every run


def read_folder(
    folder: str | pathlib.Path,
    *,
    auxiliary: bool = False,
    test_fraction: float | None = None,
    disk: bool | None = None,
) -> Source:
    """Read the images in ``train/<class>/`` and ``test/<class>/`` of a folder; its name is the folder's.

    Classes are numbered in the sorted order of the class folders' names (in Unicode's form NFC), and called by these.
    Images (.png, .jpg, .jpeg and, where Pillow can, .webp) are taken as viewers show them: turned as their EXIF says,
    transparent pixels on white, the first of several frames. They are grey if every file is (Pillow modes 1, L, LA and
    16 bits), else RGB; all must have one size. Files of 16 bits are read as values of 8, 10, 12, 14 or 16 bits, the
    fewest that hold the largest of the whole folder, of which the upper 8 are kept. Hidden files are ignored; others
    that are not read are named in ``Source.notes``, as is all that was done to the images.

    With ``test_fraction``, of a folder without ``test/``, that share of every class (in ``train/``, or directly in the
    folder) becomes the test part: the same images each time, copies of one file together.
    With ``auxiliary=True`` such a folder is read as it is: nothing is measured on an attacker's test part.
    With ``disk`` the decoded images lie in a file without a name in place of memory; None: where they would take more
    than half of it.

    Raises UserError for a missing or empty folder, classes that differ between train and test, an unreadable
    image, the first one of another size, links that lead out of the folder, what is no regular file under an image's
    name, and images that would take more memory than :func:`~gpz_jax.data.unpacked_size.check_unpacked` allows.

    >>> read_folder("nowhere/faces")
    Traceback (most recent call last):
    ...
    gpz_jax.errors.UserError: nowhere/faces has no 'train' folder; put the images of each class in ...
    """
    folder = pathlib.Path(folder)
    has_test = (folder / "test").is_dir()
    if test_fraction is not None and has_test:
        raise UserError(
            f"{folder} has a test folder, of which test_fraction {test_fraction:g} makes no use; leave one of them out",
            field="test_fraction",
        )
    if auxiliary and not has_test:
        listing = _untested(folder)
    else:
        listing = list_folder(folder) if test_fraction is None else _split(folder, test_fraction)
    train_paths, train_labels = _flatten(listing.train)
    test_paths, test_labels = _flatten(listing.test)
    read = _Reader([*train_paths, *test_paths], folder, disk)
    arrays = {"train_images": read(train_paths), "test_images": read(test_paths)}
    source = from_arrays(
        folder.name,
        **arrays,
        train_labels=train_labels,
        test_labels=test_labels,
        class_names=list(listing.train),
        where=str(folder),
        auxiliary=auxiliary,
    )
    notes = (*listing.notes(folder), *read.notes())
    return dataclasses.replace(source, notes=(*notes, *source.notes))


class _Reader:
    """Decodes the images of a folder to arrays of one shape, and keeps count of what was done to them."""

    def __init__(self, paths: Sequence[pathlib.Path], folder: pathlib.Path, disk: bool | None):
        self.folder, self.count = folder, len(paths)
        headers = _of_all(read_header, paths)
        self.size, self.grey = _one_size(paths, headers), all(header.grey for header in headers)
        width, height = self.size
        each, size = width * height * (1 if self.grey else 3), sum(header.bytes_on_disk for header in headers)
        disk = is_too_much(each * len(paths)) if disk is None else disk
        check_unpacked(
            each * len(paths),
            size,
            f"{folder}: its {len(paths)} images",
            f"{paths[0]}, {width}x{height} pixels, {gigabytes(each)}",
            in_memory=not disk,
        )
        self.allocate = on_disk if disk else in_memory
        self.several = sum(header.frames > 1 for header in headers)
        self.turned = self.clear = 0
        deep = [path for path, header in zip(paths, headers, strict=True) if header.deep]
        self.deep, self.largest = len(deep), max(map(largest_value, deep), default=0)
        self.depth = depth_of(self.largest)
        self.kinds = collections.Counter(path.suffix.lower() for path in paths)

    def __call__(self, paths: Sequence[pathlib.Path]) -> UInt8[np.ndarray, "N H W C"]:
        width, height = self.size
        images = self.allocate((len(paths), height, width, 1 if self.grey else 3))

        def read(path: pathlib.Path) -> tuple[bool, bool]:
            picture = read_picture(path, grey=self.grey, depth=self.depth)
            if picture.pixels.shape != images.shape[1:]:
                raise _another_size(path, picture.pixels.shape[1::-1], "the others", self.size)
            images[place[path]] = picture.pixels
            return picture.turned, picture.clear

        place = {path: i for i, path in enumerate(paths)}
        for turned, clear in _of_all(read, paths):
            self.turned += turned
            self.clear += clear
        return images

    def notes(self) -> Iterable[str]:
        """What was done to the images, one line each."""
        of = f"of the {self.count} images"
        if len(self.kinds) > 1:
            yield f"{self.folder}: read {' and '.join(f'{n} {kind}' for kind, n in sorted(self.kinds.items()))}"
        if self.turned:
            yield f"{self.folder}: {self.turned} {of} are turned as their EXIF orientation says"
        if self.clear:
            yield f"{self.folder}: {self.clear} {of} have transparent pixels, which show {BACKGROUND[1]}"
        if self.several:
            yield f"{self.folder}: {self.several} {of} have several frames or pages, of which the first is read"
        if self.deep and self.depth < 16 and self.largest:
            yield (
                f"{self.folder}: {self.deep} {of} have 16 bits but reach only {self.largest}; they are read as "
                f"values of {self.depth} bits, 0..{2**self.depth - 1}"
            )


def _of_all(read: Callable[[pathlib.Path], T], paths: Sequence[pathlib.Path]) -> list[T]:
    """What is read of each. Raises :class:`UserError` that names the first bad file and counts all of them."""

    def tried(path: pathlib.Path) -> T | UserError:
        try:
            return read(path)
        except UserError as error:
            return error

    found: list[T] = []
    bad: list[tuple[pathlib.Path, UserError]] = []
    with ThreadPoolExecutor(_READERS) as pool:  # Pillow decodes outside of Python's lock
        for path, one in zip(paths, pool.map(tried, paths), strict=True):
            if isinstance(one, UserError):
                bad.append((path, one))
            else:
                found.append(one)
    if len(bad) > 1:
        others = ", ".join(path.name for path, _ in bad[1:6]) + (", …" if len(bad) > 6 else "")
        raise UserError(f"{bad[0][1]}; likewise {len(bad) - 1} more: {others}")
    if bad:
        raise bad[0][1]
    return found


def _one_size(paths: Sequence[pathlib.Path], headers: Sequence[Header]) -> tuple[int, int]:
    """The one (width, height) of all images."""
    size = headers[0].size
    for path, header in zip(paths, headers, strict=True):
        if header.size != size:
            raise _another_size(path, header.size, str(paths[0]), size)
    return size


def _another_size(path: pathlib.Path, found: Sequence[int], other: str, size: Sequence[int]) -> UserError:
    return UserError(
        f"{path} is {found[0]}x{found[1]} pixels, {other} {size[0]}x{size[1]}; resize the images to one size"
    )


def _split(folder: pathlib.Path, fraction: float) -> Listing:
    """A share of every class held out as test, files of the same bytes on one side."""
    if not 0 < fraction < 1:
        raise UserError(f"test_fraction must lie between 0 and 1, got {fraction:g}", field="test_fraction")
    listing = list_classes(folder)
    train, test, rng = {}, {}, np.random.default_rng(_SPLIT_SEED)
    for name, files in listing.train.items():
        due = max(round(fraction * len(files)), 2 if len(files) >= 6 else 1)
        alike: dict[bytes, list[pathlib.Path]] = collections.defaultdict(list)
        for i in rng.permutation(len(files)):
            alike[hashlib.blake2b(files[i].read_bytes(), digest_size=16).digest()].append(files[i])
        taken: list[pathlib.Path] = []
        for group in alike.values():
            if len(taken) + len(group) <= due:
                taken += group
        test[name] = sorted(taken)
        train[name] = sorted(set(files) - set(taken))
        if not test[name] or not train[name]:
            raise UserError(
                f"{folder}: class {name!r} has {len(files)} images, of which test_fraction {fraction:g} leaves none "
                "on one side; add images of the class",
                field="test_fraction",
            )
    count, total = (sum(map(len, lists.values())) for lists in (test, listing.train))
    said = f"{folder}: {count} of its {total} images, {fraction:g} of each class, are its test part, the same each time"
    return listing._replace(train=train, test=test, said=(said,))


def _untested(folder: pathlib.Path) -> Listing:
    """All images as train, of which the first stands for the test part that an attacker's data set need not have."""
    listing = list_classes(folder)
    name, files = next(iter(listing.train.items()))
    return listing._replace(test={name: files[:1]})


def _flatten(lists: dict[str, list[pathlib.Path]]) -> tuple[list[pathlib.Path], Int32[np.ndarray, " N"]]:
    paths = [path for files in lists.values() for path in files]
    counts = [len(files) for files in lists.values()]
    return paths, np.repeat(np.arange(len(lists), dtype=np.int32), counts)
