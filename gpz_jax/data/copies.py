"""Images that two parties have: exact copies, counted, said and refused; near ones counted and said."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8, UInt64

from gpz_jax.data.byte_scale import chunks
from gpz_jax.data.near_copies import SIDE, near_copies, thumbnails
from gpz_jax.errors import UserError

#: Near copies are not looked for among more images: of each 1 KiB is kept, and several times that while looking.
MOST_COMPARED = 200_000

#: A party of whose images this share are others' too is not judged on images that are new to it.
TOO_MANY = 0.01


class Party(NamedTuple):
    """Who holds which images of an array: ``images[indices]``, and their classes, ``labels[indices]``, if known."""

    name: str
    images: UInt8[np.ndarray, "all H W C"]
    indices: np.ndarray
    labels: np.ndarray | None = None


def digests(images: UInt8[np.ndarray, "N H W C"]) -> UInt64[np.ndarray, " N"]:
    """Eight bytes of BLAKE2 over the size and the bytes of every image; among a million, two collide once in 10^7 sets.

    >>> one, two, three = digests(np.array([0, 7, 0], np.uint8).reshape(3, 1, 1, 1))
    >>> bool(one == three), bool(one == two)
    (True, False)
    """
    found, size = np.empty(len(images), np.uint64), repr(images.shape[1:]).encode()
    for i, image in enumerate(images):
        found[i] = int.from_bytes(hashlib.blake2b(size + image.tobytes(), digest_size=8).digest(), "little")
    return found


def constant(images: UInt8[np.ndarray, "N H W C"]) -> Bool[np.ndarray, " N"]:
    """Which images are of one colour all over: they are alike by nature, and no copies of one another.

    >>> constant(np.array([[0, 0], [0, 1]], np.uint8).reshape(2, 1, 2, 1)).tolist()
    [True, False]
    """
    found = np.empty(len(images), bool)
    for rows in chunks(images):
        found[rows] = (images[rows] == images[rows, :1, :1]).all(axis=(1, 2, 3))
    return found


def copies_between(parties: Sequence[Party], name: str, *, allow: bool = False) -> tuple[str, ...]:
    """Say which parties have images that parties before them in the list have too: a line a party, one of near copies.

    The order is that of who is judged on what the ones before have seen: train, validation, auxiliary, test. Constant
    images do not count. Near copies, see :func:`~gpz_jax.data.near_copies.near_copies`, are said and never refused.
    So are copies most of which carry another label: no score gains by them, and what is wrong with such a set is its
    labels.

    Args:
      parties: two or more, in that order.
      name: of the data set.
      allow: say what would be refused.

    Raises:
      UserError: 1 % or more of a party's images are also those of others, and under the same label most of those that
        are; names the setting ``allow_copies``.

    Example:
      >>> images = np.arange(4, dtype=np.uint8).repeat(2).reshape(4, 1, 2, 1) + np.array([[[[0], [9]]]], np.uint8)
      >>> parties = [Party("train", images, np.arange(4)), Party("test", images, np.arange(1))]
      >>> copies_between(parties, "x", allow=True)
      ("1 of the 1 test images of 'x' are others' too: 1 in train (allowed by allow_copies)",)
    """
    arrays = {id(party.images): party.images for party in parties}
    total = sum(map(len, arrays.values()))
    known = {key: _Known.of(images, near=total <= MOST_COMPARED) for key, images in arrays.items()}
    notes, nearly = [], []
    for i, judged in enumerate(parties[1:], 1):
        others = parties[:i]
        exact = _exact(judged, others, known)
        alike = np.logical_or.reduce(list(exact.values()))
        if alike.any():
            notes.append(_said(judged, exact, alike, _same_label(judged, others, known) & alike, name, allow))
        if near := int((_near(judged, others, known) & ~alike).sum()):
            nearly.append(f"{near} of the {len(alike)} {judged.name} images")
    if nearly:
        apart = ", exact ones apart" if notes else ""
        notes.append(
            f"{', '.join(nearly)} of {name!r} look like copies of others' but for size, a flip or small changes{apart}"
        )
    if total > MOST_COMPARED:
        notes.append(f"near copies are not looked for among the {total:,} images of {name!r}, exact ones were")
    return tuple(notes)


def _said(
    judged: Party, exact: Mapping[str, np.ndarray], alike: np.ndarray, same: np.ndarray, name: str, allow: bool
) -> str:
    """How many images of a party are others' too; or the error that says so.

    ``alike``: which are; ``same``: which of them under the same label.
    """
    held = ", ".join(f"{mask.sum()} in {other}" for other, mask in exact.items() if mask.any())
    said = f"{alike.sum()} of the {len(alike)} {judged.name} images of {name!r} are others' too: {held}"
    if alike.sum() < TOO_MANY * len(alike):
        return said
    if 2 * same.sum() < alike.sum():
        return f"{said}; only {same.sum()} under the same label: the labels of this set contradict each other"
    if allow:
        return said + " (allowed by allow_copies)"
    raise UserError(
        f"{said}; what is measured there is not measured on new images: remove the copies, or go on all the same with "
        "allow_copies",
        field="allow_copies",
    )


class _Known(NamedTuple):
    """What is compared of an array of images."""

    digests: np.ndarray
    constant: np.ndarray
    thumbnails: np.ndarray | None

    @classmethod
    def of(cls, images: np.ndarray, *, near: bool) -> "_Known":
        near = near and min(images.shape[1:3]) >= 8
        return cls(digests(images), constant(images), thumbnails(images) if near else None)


def _exact(judged: Party, others: Sequence[Party], known: Mapping[int, _Known]) -> dict[str, np.ndarray]:
    """Which of the judged's images each of the others has too."""
    mine = known[id(judged.images)]
    own, blank = mine.digests[judged.indices], mine.constant[judged.indices]
    return {other.name: np.isin(own, known[id(other.images)].digests[other.indices]) & ~blank for other in others}


def _same_label(judged: Party, others: Sequence[Party], known: Mapping[int, _Known]) -> np.ndarray:
    """Which of the judged's images one of the others has under the same label; a party without labels has any."""
    own = known[id(judged.images)].digests[judged.indices]
    found = np.zeros(len(own), bool)
    for other in others:
        theirs = known[id(other.images)].digests[other.indices]
        if judged.labels is None or other.labels is None:
            found |= np.isin(own, theirs)
            continue
        pairs = set(zip(theirs.tolist(), other.labels[other.indices].tolist(), strict=True))
        mine = zip(own.tolist(), judged.labels[judged.indices].tolist(), strict=True)
        found |= np.array([pair in pairs for pair in mine], bool)
    return found


def _near(judged: Party, others: Sequence[Party], known: Mapping[int, _Known]) -> np.ndarray:
    """Which of the judged's images one of the others has nearly."""
    mine, *theirs = (known[id(party.images)].thumbnails for party in (judged, *others))
    if mine is None or any(small is None for small in theirs):
        return np.zeros(len(judged.indices), bool)
    held = [small[party.indices] for small, party in zip(theirs, others, strict=True) if small is not None]
    tiny = min(side for party in (judged, *others) for side in party.images.shape[1:3]) < SIDE
    return near_copies(mine[judged.indices], np.concatenate(held), alike=0.999 if tiny else 0.99)
