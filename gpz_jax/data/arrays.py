"""A data set as host arrays, checked once here so that nothing downstream has to check again.

Images are uint8 (N, H, W, C), labels int32 (N,). Data sets of this field fit in memory (CIFAR-10 takes 184 MB), but
not many times over: uint8 arrays pass through uncopied, everything else is converted chunk by chunk.
"""

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, UInt8

from gpz_jax.data.byte_scale import as_uint8, check_scale, chunks
from gpz_jax.data.class_names import checked_names
from gpz_jax.data.copies import constant, digests
from gpz_jax.data.on_disk import Stamp
from gpz_jax.errors import UserError


@dataclass(frozen=True, eq=False)
class Source:
    """A checked data set on the host. Images have values 0..255; labels 0..K-1, each with a train image.

    ``aux_images`` are extra unlabelled images for the attacker; they may differ from the others in height and
    width, never in channels. ``train_group`` numbers the person or patient behind each train image, if known: whose
    images are never dealt to two parties. ``class_names`` are those of the classes 0..K-1, if known. ``notes`` say what
    whoever uses the data should know of them, and what had to be done to read them, one line each. ``files`` are those
    that images are still read from, if any.
    """

    name: str
    train_images: UInt8[np.ndarray, "train H W C"]
    train_labels: Int32[np.ndarray, "train"]
    test_images: UInt8[np.ndarray, "test H W C"]
    test_labels: Int32[np.ndarray, "test"]
    aux_images: UInt8[np.ndarray, "aux aux_H aux_W C"] | None
    num_classes: int
    train_group: Int32[np.ndarray, "train"] | None = None
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    files: tuple[Stamp, ...] = ()


def from_arrays(
    name: str,
    *,
    train_images: np.ndarray,
    train_labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    aux_images: np.ndarray | None = None,
    train_group: np.ndarray | None = None,
    test_group: np.ndarray | None = None,
    aux_group: np.ndarray | None = None,
    class_names: Iterable[object] | None = None,
    where: str | None = None,
    auxiliary: bool = False,
) -> Source:
    """Check arrays and make a :class:`Source` of them.

    Images are (N, H, W, C) with C = 1 or 3: uint8, which pass through uncopied; other integers within 0..255;
    or floats within [0, 1], which become round(255 v). Train and test share H, W and C; aux shares C; all are on one
    scale (:func:`~gpz_jax.data.byte_scale.check_scale`). Labels are integers, or floats that are whole, (N,) or (N, 1):
    0..K-1, K >= 2, each of them with a train image. With ``auxiliary=True`` this rule on classes is left out, since
    only the images will be used. Errors name the origin by ``where``.

    Groups (identities, patients) are integers or strings (N,); one that is in two of train, test and aux is refused,
    since the classifier, or the attacker, would then be judged on someone it knows. A part without groups is taken to
    be of other people; with ``auxiliary=True`` groups are not looked at, nor are ``class_names``: one for each of
    0..K-1, in their order, see :func:`~gpz_jax.data.class_names.checked_names`.

    Raises UserError: one line naming the array, what is wrong with it and what to do.

    >>> half, labels = np.full((4, 2, 2, 1), 0.5), np.array([0, 1, 0, 1])
    >>> train = {"train_images": half, "train_labels": labels}
    >>> tiny = from_arrays("tiny", **train, test_images=half, test_labels=labels)
    >>> tiny.train_images.dtype, int(tiny.train_images.max()), tiny.num_classes
    (dtype('uint8'), 128, 2)
    """
    where = f"data set {name!r}" if where is None else where
    train_images, test_images, aux_images = _as_images(train_images, test_images, aux_images, where)
    images = {"train_images": train_images}
    if not auxiliary:
        images |= {"test_images": test_images} | ({} if aux_images is None else {"aux_images": aux_images})
    notes = (*check_scale(images, where), *_nothing_new(images, where))
    train_labels = _as_labels(train_labels, len(train_images), f"{where}: train_labels")
    test_labels = _as_labels(test_labels, len(test_images), f"{where}: test_labels")
    num_classes = int(train_labels.max()) + 1
    if auxiliary:
        num_classes = max(num_classes, int(test_labels.max()) + 1)
    else:
        _check_classes(train_labels, test_labels, where)
    if auxiliary:
        train_group = None
    else:
        of_part = {"train": train_images, "test": test_images, "aux": aux_images}
        _check_groups(of_part, {"train": train_group, "test": test_group, "aux": aux_group}, where)
    return Source(
        name=name,
        train_images=train_images,
        train_labels=train_labels.astype(np.int32, copy=False),
        test_images=test_images,
        test_labels=test_labels.astype(np.int32, copy=False),
        aux_images=aux_images,
        num_classes=num_classes,
        train_group=None if train_group is None else _numbered(train_group),
        class_names=None if class_names is None or auxiliary else checked_names(class_names, num_classes, where),
        notes=notes,
    )


def fingerprint(source: Source) -> str:
    """Return the SHA-256 (hex) over the shapes and bytes of all arrays: equal exactly when the data (and groups) are.

    Names do not enter, nor does the memory layout; nothing larger than a chunk is copied.

    >>> half, labels = np.full((4, 2, 2, 1), 0.5), np.array([0, 1, 0, 1])
    >>> same = {"train_images": half, "train_labels": labels, "test_images": half, "test_labels": labels}
    >>> fingerprint(from_arrays("a", **same)) == fingerprint(from_arrays("b", **same))
    True
    """
    digest = hashlib.sha256()
    fields = ["train_images", "train_labels", "test_images", "test_labels", "aux_images"]
    for field in fields if source.train_group is None else [*fields, "train_group"]:
        array = getattr(source, field)
        digest.update(f"{field} {None if array is None else array.shape}\n".encode())
        if array is not None:
            for rows in chunks(array):
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
    for rows in chunks(images):
        grey[rows, ..., 0] = (images[rows] @ weights + np.uint32(500)) // np.uint32(1000)
    return grey


def _as_images(
    train_images: np.ndarray, test_images: np.ndarray, aux_images: np.ndarray | None, where: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The parts as bytes, of shapes that go together."""
    train_images = as_uint8(train_images, f"{where}: train_images")
    test_images = as_uint8(test_images, f"{where}: test_images")
    if train_images.shape[1:] != test_images.shape[1:]:
        raise UserError(
            f"{where}: train_images are {_size(train_images)} but test_images are {_size(test_images)}; "
            "bring them to one size"
        )
    if aux_images is not None:
        aux_images = as_uint8(aux_images, f"{where}: aux_images")
        if aux_images.shape[-1] != train_images.shape[-1]:
            raise UserError(
                f"{where}: train_images have {train_images.shape[-1]} channels but aux_images have "
                f"{aux_images.shape[-1]}; bring them to the same number"
            )
    return train_images, test_images, aux_images


def _nothing_new(images: dict[str, np.ndarray], where: str) -> list[str]:
    """Say how many images are of one colour, and how many train images are copies of others among them."""
    notes, blank = [], {part: constant(array) for part, array in images.items()}
    if counts := [f"{mask.sum()} of the {len(mask)} {part}" for part, mask in blank.items() if mask.any()]:
        notes.append(f"{where}: {' and '.join(counts)} are of one colour all over")
    known = digests(images["train_images"])[~blank["train_images"]]
    if copies := len(known) - len(np.unique(known)):
        notes.append(
            f"{where}: {copies} of the {len(images['train_images'])} train_images are exact copies of others there"
        )
    return notes


def _as_labels(labels: np.ndarray, count: int, what: str) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        one_hot = labels.ndim == 2 and labels.dtype.kind in "biuf" and bool((labels.sum(axis=1) == 1).all())
        how = "store labels.argmax(1) in place of one-hot rows" if one_hot else "give one class number per image"
        raise UserError(f"{what} must have the shape (N,), found {labels.shape}; {how}")
    if labels.dtype.kind == "f" and bool((np.isfinite(labels) & (labels == np.rint(labels))).all()):
        whole = np.abs(labels).max(initial=0) < 2**53  # beyond, a float does not know its last digits
        labels = labels.astype(np.int64) if whole else labels
    if labels.dtype.kind not in "iu":
        how = "number the classes from 0"
        if labels.dtype.kind in "US":
            how += ": np.unique(labels, return_inverse=True) gives names and numbers"
        raise UserError(f"{what} must be integers, found {labels.dtype}; {how}")
    if len(labels) != count:
        raise UserError(f"{what} has {len(labels)} labels for {count} images; give one per image")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > np.iinfo(np.int32).max:
        raise UserError(f"{what} holds the label {low if low < 0 else high}; number the classes from 0")
    return labels


def _check_groups(images: dict[str, np.ndarray | None], groups: dict[str, np.ndarray | None], where: str) -> None:
    """Refuse groups that are malformed, or in two of the parts."""
    given = {part: group for part, group in groups.items() if group is not None}
    for part, group in given.items():
        _check_group(group, images[part], f"{where}: {part}_group")
    if given and "train" not in given:
        raise UserError(
            f"{where}: {next(iter(given))}_group is given but train_group is not, by which images are dealt"
        )
    for one, other in itertools.combinations(given, 2):
        a, b = given[one], given[other]
        if (a.dtype.kind in "iu") != (b.dtype.kind in "iu"):
            raise UserError(
                f"{where}: {one}_group and {other}_group name groups differently; use integers or strings in both"
            )
        if shared := sorted(set(a.tolist()) & set(b.tolist())):
            raise UserError(
                f"{where}: {one} and {other} share {len(shared)} of the groups ({shared[0]!r}, for one); keep all "
                "images of a group in one of them, or leave groups out where they are what is to be recognised"
            )


def _check_group(group: np.ndarray, images: np.ndarray | None, what: str) -> None:
    if images is None:
        raise UserError(f"{what} is given without images; add them or leave it out")
    if group.shape != (len(images),):
        raise UserError(f"{what} has the shape {group.shape} for {len(images)} images; give one group per image")
    if group.dtype.kind == "f" and np.isnan(group).any():
        raise UserError(f"{what} holds {np.isnan(group).sum()} NaN; give every image a group, unknown ones one each")
    if group.dtype.kind not in "iuSU":
        raise UserError(f"{what} has dtype {group.dtype}; name groups by integers or strings")


def _numbered(group: np.ndarray) -> Int32[np.ndarray, "_"]:
    """Groups numbered as they first appear: who belongs together, whatever the groups are called."""
    numbers: dict[int | str | bytes, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in group.tolist()], np.int32)


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
    if train.min() > 0:
        raise UserError(
            f"{where}: train_labels run from {train.min()} to {train.max()}, but classes are numbered from 0; store "
            f"labels - {train.min()}, of the test images too"
        )
    if test.max() >= num_classes:
        raise UserError(
            f"{where}: test_labels holds the label {test.max()}, but train_labels has only the classes "
            f"0..{num_classes - 1}; use the same numbers in both"
        )
    missing = np.flatnonzero(np.bincount(train.astype(np.int32, copy=False), minlength=num_classes) == 0)
    if missing.size:
        raise UserError(f"{where}: class {missing[0]} has no train image; number the classes 0, 1, 2, … without gaps")


def _size(images: np.ndarray) -> str:
    return "x".join(map(str, images.shape[1:]))
